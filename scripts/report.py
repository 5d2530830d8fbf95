"""Write the evaluation as one HTML page."""

from pathlib import Path

from cdm.config import load_config
from cdm.evaluation.report import write_report
from cdm.files import clamp_future_mtimes
from cdm.jobs.log import job_log
from cdm.run.planning import load_plan

with job_log(snakemake.log[0]) as log:
    clamp_future_mtimes(snakemake.input)
    plan = load_plan(load_config(snakemake.config))
    study = next(iter(snakemake.input.study), None)
    evaluation, target = Path(snakemake.input.evaluation), Path(snakemake.output[0])
    write_report(plan, evaluation, target, log, study and Path(study))
