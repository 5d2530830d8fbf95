# The built-in dataset, in the reference's on-disk layout; used when none is configured.


rule demo_data:
    output:
        DEMO_DATA,
    log:
        f"{RUN}/logs/demo_data.log",
    conda:
        "../envs/archive.yaml"
    script:
        "../scripts/demo_data.py"
