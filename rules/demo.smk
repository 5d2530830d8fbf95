# The built-in dataset, in afford-motion's layout on disk. It is used if no dataset is configured.


rule demo_data:
    """Write the built-in dataset."""
    output:
        DEMO_DATA,
    log:
        f"{RUN}/logs/demo_data.log",
    localrule: True  # seconds: no job of a cluster
    conda:
        "../envs/archive.yaml"
    threads: merge_threads
    script:
        "../scripts/demo_data.py"
