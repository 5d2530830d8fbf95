"""Train a contact diffusion model, or go on with it."""

from cdm.config import load_config
from cdm.jobs.log import job_log
from cdm.training.train import train

with job_log(snakemake.log[0]) as log:
    train(load_config(snakemake.config), log, snakemake.threads)
