"""Compute mean and standard deviation of the contact maps, in one pass over the dataset."""

from pathlib import Path

from cdm.config import load_config
from cdm.datasets import FileReader
from cdm.datasets.statistics import compute_statistics, save_statistics
from cdm.jobs.log import job_log
from cdm.run.dataset import open_dataset
from cdm.run.planning import load_plan

with job_log(snakemake.log[0]) as log:
    plan = load_plan(load_config(snakemake.config))
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    statistics = compute_statistics(dataset, FileReader(plan.config.data_dir))
    save_statistics(Path(snakemake.output[0]), statistics)
    log(f"{statistics.source}: mean {statistics.mean.ravel()}, std {statistics.std.ravel()}")
