"""Sample one chunk of the dataset and write its store and record."""

from cdm.jobs.log import job_log, leave
from cdm.jobs.machine import garbage_waits, set_thread_variables
from cdm.jobs.progress import Clock, Heartbeat

clock = Clock.of_process()
# A job beside others has no thread in Snakemake's count, where one that stands by must not have
# any; rules/common.smk says how many it has.
threads = snakemake.threads or snakemake.resources.compute_threads
set_thread_variables(threads)
with job_log(snakemake.log[0], clock.summary) as log:
    with clock("plan"):
        from cdm.config import load_config
        from cdm.files import clamp_future_mtimes
        from cdm.run.planning import load_plan

        clamp_future_mtimes(snakemake.input)
        plan = load_plan(load_config(snakemake.config))
        chunk = plan.find_chunk(snakemake.wildcards.chunk)
    with Heartbeat(plan.config.run_dir, chunk.name) as heartbeat:
        with clock("import"), garbage_waits():  # torch: slow, so after the first signs of life
            from cdm.run.generate import generate_chunk

        turns = snakemake.resources.get("turns")
        generate_chunk(plan, chunk, log, threads, heartbeat, clock, turns)
leave()
