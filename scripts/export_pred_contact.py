"""Write the archive's distances as the folders that stage 2 reads."""

from pathlib import Path

from cdm.config import load_config
from cdm.files import clamp_future_mtimes
from cdm.jobs.log import job_log
from cdm.run.exports import export_maps
from cdm.run.planning import load_plan

with job_log(snakemake.log[0]) as log:
    clamp_future_mtimes(snakemake.input)
    plan = load_plan(load_config(snakemake.config))
    export_maps(plan, Path(snakemake.output[0]), log)
