# Measures of the merged archive against the ground truth, on request: snakemake evaluate, report.

REPORT = f"{RUN}/report"
# Named by the maps and by how they are measured, like the archive's record.
EVALUATION = f"{REPORT}/evaluation-{evaluation_key(PLAN)}.json"


rule evaluate:
    input:
        PLAN.archive_record,
    output:
        EVALUATION,
    log:
        f"{RUN}/logs/evaluate.log",
    conda:
        "../envs/evaluation.yaml"
    threads: merge_threads
    script:
        "../scripts/evaluate.py"


rule report:
    input:
        EVALUATION,
    output:
        f"{REPORT}/report.html",
    log:
        f"{RUN}/logs/report.log",
    conda:
        "../envs/evaluation.yaml"
    script:
        "../scripts/report.py"
