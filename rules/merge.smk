# The final archive, after every byte of every chunk has been verified.


rule merge:
    """Verify all chunks and join them into the archive."""
    input:
        PLAN.chunk_records(),
        lambda wildcards: run_again_if_lost("merge", PLAN.archive_record),
    output:
        PLAN.archive_record,
    log:
        f"{RUN}/logs/merge.log",
    conda:
        "../envs/archive.yaml"
    threads: merge_threads
    script:
        "../scripts/merge.py"
