"""Write the built-in demo dataset."""

from pathlib import Path

from cdm.demo.scenes import write_demo
from cdm.files import write_json
from cdm.joblog import job_log

with job_log(snakemake.log[0]) as log:
    write_demo(Path(snakemake.params.data_dir))
    write_json(Path(snakemake.output[0]), {"data_dir": snakemake.params.data_dir})
    log(f"procedural rooms -> {snakemake.params.data_dir}")
