# Samples a contact diffusion model over a dataset and merges the maps into one archive:
#   snakemake --cores 1 --resources gpu=1
# A plan made while this file is read fixes the chunks; their names carry fingerprints, so what
# is there under its name is right, and an interrupted run goes on where it was.

from snakemake.utils import min_version

min_version("9.10")


report: "rules/captions/workflow.rst"


# No `configfile:` here. The defaults of config/config.yaml are laid under what is set, also under
# the part of a configuration that a workflow around this one gives (docs/as-a-module.md).
include: "rules/common.smk"
include: "rules/demo.smk"
include: "rules/train.smk"


if PLAN:

    include: "rules/statistics.smk"
    include: "rules/generate.smk"
    include: "rules/merge.smk"
    include: "rules/export.smk"
    include: "rules/evaluate.smk"
    include: "rules/compare.smk"


rule all:
    """Sample the whole dataset into one archive, which happens if no target is named."""
    default_target: not IS_MODULE
    input:
        PLAN.archive_record if PLAN else [],
        page_to_embed() if PLAN else [],


onstart:
    if PLAN:
        save_plan_or_stop()
    if GIVEN.nodes and workflow.local_exec:
        print(TELL_CORES, file=sys.stderr)
    if workflow.local_exec:
        start_jobs_at_once()
    if makes_maps():
        print(
            describe_plan(PLAN) + describe_pace(PLAN) + describe_choice(PLAN),
            file=sys.stderr,
        )
        LIVE.start()


onsuccess:
    if makes_maps():
        LIVE.stop()
        print(
            printable(farewell(PLAN, workflow.dag_settings.targets, FOLDER)),
            file=sys.stderr,
        )
        at_exit(tell_page, written=True)
    if "train" in workflow.dag_settings.targets:
        print(printable(trained(CONFIG, FOLDER)), file=sys.stderr)


onerror:
    if makes_maps():
        LIVE.stop()
        print(advice(PLAN, FOLDER), file=sys.stderr)
