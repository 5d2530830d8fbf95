"""Write the archive's distances as the folders that stage 2 trains on."""

from pathlib import Path

from cdm.archive.export import export_pred_contact
from cdm.config import load_config
from cdm.files import clamp_future_mtimes
from cdm.jobs.log import job_log
from cdm.run.planning import load_plan

with job_log(snakemake.log[0]) as log:
    clamp_future_mtimes(snakemake.input)
    plan = load_plan(load_config(snakemake.config))
    folder, record = Path(plan.config.run_dir), Path(snakemake.output[0])
    export_pred_contact(Path(plan.archive), folder, record, log)
