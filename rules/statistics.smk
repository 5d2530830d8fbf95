# Mean and std of the split the model was trained on, if there is no file of them. They are computed
# by a rule of their own, so that every chunk uses the same numbers.

if PLAN.statistics.computed:

    rule compute_statistics:
        """Compute the mean and std that maps are normalised by."""
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
