# Measures of the merged archive against the ground truth, on request: snakemake evaluate, report.

REPORT = f"{RUN}/report"
PAGE = f"{REPORT}/report.html"
# The name has a key of the maps, of how they are measured, and of the target masks.
EVALUATION = f"{REPORT}/evaluation-{evaluation_key(PLAN)}.json"
STUDY = f"{RUN}/compare_samplers/summary-{study_key(PLAN)}.json"


rule evaluate:
    """Measure the archive against the ground truth."""
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
    """Write the measures as one HTML page."""
    input:
        evaluation=EVALUATION,
        study=study_to_show,
        stale=lambda wildcards: run_again_if_stale(
            lambda plan, page: stale_page(plan, page, Path(EVALUATION)), PAGE
        ),
    output:
        report(
            PAGE,
            caption="captions/report.rst",
            category="Contact maps",
            labels={"page": "maps and measures"},
        ),
    log:
        f"{RUN}/logs/report.log",
    localrule: True  # seconds: no job of a cluster
    conda:
        "../envs/evaluation.yaml"
    script:
        "../scripts/report.py"
