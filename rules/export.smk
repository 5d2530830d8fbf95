# Other shapes of the merged archive, on request: snakemake export_npz, export_pred_contact,
# export_ply. Section `export` of the configuration says where they go; no chunk depends on it.

TABLE = f"{RUN}/generated_contact_maps.npz"
PRED_CONTACT = f"{RUN}/pred_contact.json"
CLOUDS = f"{RUN}/ply.json"


rule export_npz:
    """Write generated_contact_maps.npz, as the old script did."""
    input:
        PLAN.archive_record,
        lambda wildcards: run_again_if_stale(stale_table, TABLE),
    output:
        TABLE,
    log:
        f"{RUN}/logs/export_npz.log",
    conda:
        "../envs/archive.yaml"
    script:
        "../scripts/export_npz.py"


rule export_pred_contact:
    """Write the pred_contact folders that stage 2 reads, and look at what it will find."""
    input:
        PLAN.archive_record,
        lambda wildcards: run_again_if_stale(stale_maps, PRED_CONTACT),
    output:
        PRED_CONTACT,
    log:
        f"{RUN}/logs/export_pred_contact.log",
    conda:
        "../envs/archive.yaml"
    script:
        "../scripts/export_pred_contact.py"


rule export_ply:
    """Write some maps as coloured point clouds, for MeshLab or Blender."""
    input:
        PLAN.archive_record,
        lambda wildcards: run_again_if_stale(stale_clouds, CLOUDS),
    output:
        CLOUDS,
    log:
        f"{RUN}/logs/export_ply.log",
    conda:
        "../envs/archive.yaml"
    script:
        "../scripts/export_ply.py"
