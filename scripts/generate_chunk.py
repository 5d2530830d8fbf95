"""Sample one chunk of the dataset and write its store and record."""

from cdm.config import load_config
from cdm.files import not_from_the_future
from cdm.joblog import job_log
from cdm.plan import load_plan

with job_log(snakemake.log[0]) as log:
    not_from_the_future(snakemake.input)
    from cdm.generate import generate_chunk  # torch: after the log is open

    plan = load_plan(load_config(snakemake.config))
    chunk = plan.find_chunk(snakemake.wildcards.chunk)
    generate_chunk(plan, chunk, log, threads=snakemake.threads)
