"""Measure the merged archive against the ground truth."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread measures maps by itself; before numpy

from pathlib import Path

from cdm.config import load_config
from cdm.evaluation.evaluate import evaluate
from cdm.files import clamp_future_mtimes
from cdm.jobs.log import job_log
from cdm.run.planning import load_plan

with job_log(snakemake.log[0]) as log:
    clamp_future_mtimes(snakemake.input)
    plan = load_plan(load_config(snakemake.config))
    evaluate(plan, Path(snakemake.output[0]), log, threads=snakemake.threads)
