# Normalisation statistics, where neither the configuration nor the data folder has them.
# A rule of its own, so that every chunk uses the same ones.

if PLAN.statistics.computed:

    rule compute_statistics:
        input:
            ancient(dataset_files()),
        output:
            PLAN.statistics.path,
        log:
            f"{RUN}/logs/compute_statistics.log",
        conda:
            "../envs/archive.yaml"
        script:
            "../scripts/compute_statistics.py"
