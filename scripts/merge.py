"""Verify all chunks and join them into the final archive."""

from cdm.config import load_config
from cdm.files import not_from_the_future
from cdm.joblog import job_log
from cdm.merge import merge
from cdm.plan import load_plan
from cdm.progress import Heartbeat

with job_log(snakemake.log[0]) as log:
    not_from_the_future(snakemake.input)
    plan = load_plan(load_config(snakemake.config))
    with Heartbeat(plan.config.run_dir, "merge"):
        merge(plan, log, threads=snakemake.threads)
