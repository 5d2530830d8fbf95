"""Write the archive as the .npz of the script this workflow replaces."""

from pathlib import Path

from cdm.export import export_npz
from cdm.joblog import job_log

with job_log(snakemake.log[0]) as log:
    export_npz(Path(snakemake.params.archive), Path(snakemake.output[0]), log)
