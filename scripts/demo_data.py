"""Write the built-in demo dataset."""

from pathlib import Path

from cdm.config import load_config
from cdm.demo.scenes import write_demo
from cdm.files import write_json
from cdm.jobs.log import job_log

with job_log(snakemake.log[0]) as log:
    config = load_config(snakemake.config)
    data_dir, phase, num_points = config.data_dir, config.dataset.phase, config.dataset.num_points
    write_demo(data_dir, phase, num_points=num_points, processes=snakemake.threads)
    write_json(Path(snakemake.output[0]), {"data_dir": data_dir, "phase": phase})
    log(f"procedural rooms of {num_points} points, phase {phase} -> {data_dir}")
