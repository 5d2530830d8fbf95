"""Sample one chunk of the dataset and write its store and record."""

from cdm.config import load_config
from cdm.files import clamp_future_mtimes
from cdm.jobs.log import job_log
from cdm.jobs.progress import Clock, Heartbeat
from cdm.run.planning import load_plan

with job_log(snakemake.log[0]) as log:
    clamp_future_mtimes(snakemake.input)
    plan = load_plan(load_config(snakemake.config))
    chunk = plan.find_chunk(snakemake.wildcards.chunk)
    with Heartbeat(plan.config.run_dir, chunk.name) as heartbeat:
        clock = Clock()
        with clock("import"):  # torch: slow, so after the first signs of life
            from cdm.run.generate import generate_chunk

        generate_chunk(plan, chunk, log, snakemake.threads, heartbeat, clock)
