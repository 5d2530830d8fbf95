"""Verify all chunks and join them into the final archive."""

from cdm.config import load_config
from cdm.files import clamp_future_mtimes
from cdm.jobs.log import job_log, leave
from cdm.jobs.progress import Heartbeat
from cdm.run.merge import merge
from cdm.run.planning import load_plan

with job_log(snakemake.log[0]) as log:
    clamp_future_mtimes(snakemake.input)
    plan = load_plan(load_config(snakemake.config))
    with Heartbeat(plan.config.run_dir, "merge"):
        merge(plan, log, threads=snakemake.threads)
leave()
