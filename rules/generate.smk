# One chunk of the dataset on one GPU. Its JSON record, written last, is its only output. The name
# carries a fingerprint of everything that decides the numbers, so inputs need no dates: ancient()
# is safe here, because it only covers files that rules of this workflow make.


rule generate_chunk:
    """Sample one chunk on one GPU."""
    input:
        ancient(dataset_files() + statistics_file()),
        lambda wildcards: keep_chunks_of_other_code(),
        lambda wildcards: run_again_if_lost(
            wildcards.chunk, f"{RUN}/chunks/{wildcards.chunk}.json"
        ),
    output:
        f"{RUN}/chunks/{{chunk}}.json",
    log:
        f"{RUN}/logs/generate_chunk/{{chunk}}.log",
    conda:
        "../envs/sampling.yaml"
    # On one machine, jobs share what SHARE says; on a cluster, each has its own GPU and cores.
    threads: job_threads if ON_CLUSTER else 0
    resources:
        **chunk_resources(),
    script:
        "../scripts/generate_chunk.py"
