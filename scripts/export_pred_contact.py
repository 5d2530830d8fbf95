"""Write the archive's distances as the folders that stage 2 trains on."""

from pathlib import Path

from cdm.export import export_pred_contact
from cdm.joblog import job_log

with job_log(snakemake.log[0]) as log:
    folder, record = Path(snakemake.params.folder), Path(snakemake.output[0])
    export_pred_contact(Path(snakemake.params.archive), folder, record, log)
