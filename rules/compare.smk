# Which sampler with how few steps is as good as the full chain: snakemake compare_samplers.


rule compare_samplers:
    """Find which sampler with how few steps is as good as the full chain."""
    input:
        ancient(dataset_files() + statistics_file()),
    output:
        STUDY,
    log:
        f"{RUN}/logs/compare_samplers.log",
    conda:
        "../envs/sampling.yaml"
    threads: job_threads
    resources:
        gpu=1,
    script:
        "../scripts/compare_samplers.py"
