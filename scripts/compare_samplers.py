"""Draw maps with every sampler and number of steps of the study, and sum them up."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread measures maps by itself; before numpy

from pathlib import Path

from cdm.config import load_config
from cdm.evaluation.study_run import compare_samplers
from cdm.files import clamp_future_mtimes
from cdm.jobs.log import job_log
from cdm.run.planning import load_plan

with job_log(snakemake.log[0]) as log:
    clamp_future_mtimes(snakemake.input)
    plan = load_plan(load_config(snakemake.config))
    compare_samplers(plan, Path(snakemake.output[0]), log, threads=snakemake.threads)
