# Other shapes of the merged archive, on request: snakemake export_npz, export_pred_contact.


rule export_npz:
    input:
        PLAN.archive_record,
    output:
        f"{RUN}/generated_contact_maps.npz",
    log:
        f"{RUN}/logs/export_npz.log",
    conda:
        "../envs/archive.yaml"
    script:
        "../scripts/export_npz.py"


rule export_pred_contact:
    input:
        PLAN.archive_record,
    output:
        f"{RUN}/pred_contact.json",
    log:
        f"{RUN}/logs/export_pred_contact.log",
    conda:
        "../envs/archive.yaml"
    script:
        "../scripts/export_pred_contact.py"
