# The final archive, after every byte of every chunk has been verified.


rule merge:
    input:
        PLAN.chunk_records(),
    output:
        PLAN.archive_record,
    log:
        f"{RUN}/logs/merge.log",
    conda:
        "../envs/archive.yaml"
    threads: lambda wildcards: min(8, workflow.cores)
    script:
        "../scripts/merge.py"
