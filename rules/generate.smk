# One chunk of the dataset on one GPU. Its JSON record, written last, is its only output. The name
# carries a fingerprint of everything that decides the numbers, so inputs need no dates: ancient()
# is safe here, because it only covers files that rules of this workflow make.


rule generate_chunk:
    """Sample one chunk on one GPU."""
    input:
        ancient(dataset_files() + statistics_file()),
        lambda wildcards: run_again_if_lost(
            wildcards.chunk, f"{RUN}/chunks/{wildcards.chunk}.json"
        ),
    output:
        f"{RUN}/chunks/{{chunk}}.json",
    log:
        f"{RUN}/logs/generate_chunk/{{chunk}}.log",
    conda:
        "../envs/sampling.yaml"
    threads: job_threads
    resources:
        gpu=1,
    script:
        "../scripts/generate_chunk.py"
