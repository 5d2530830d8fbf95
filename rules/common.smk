# Configuration and plan, shared by all rules. What they are made of is in cdm/.

import atexit
import contextlib
import gc
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.path_modifier import PathModifier
from snakemake.settings.types import RerunTrigger

# In a checkout the package lies beside the Snakefile, so that no environment needs to have it
# installed. A wheel carries this file inside the package, which is installed then.
BESIDE = Path(str(workflow.current_basedir)).parent
if (BESIDE / "cdm" / "__init__.py").exists():
    sys.path.insert(0, str(BESIDE))
    # Jobs inherit this path. An empty part of it would be the working folder, whose files would
    # then stand before Python's own modules. dict(...): the linter takes os.environ for a setting.
    inherited = dict(os.environ).get("PYTHONPATH", "").split(os.pathsep)
    os.environ.update(
        PYTHONPATH=os.pathsep.join([str(BESIDE), *filter(None, inherited)])
    )
elif "conda" in map(str, workflow.deployment_settings.deployment_method):
    raise WorkflowError(
        "--sdm conda needs a checkout of this workflow: jobs in an environment of conda take the "
        "package from the folder beside the Snakefile. Leave it out; the installed one is used"
    )

from cdm.commands.config_files import configure
from cdm.commands.hints import (
    advice,
    embedding_advice,
    farewell,
    page_written,
    stale_page,
    trained,
)
from cdm.commands.live import LiveProgress
from cdm.commands.pace import describe_choice, describe_pace
from cdm.commands.storage import check_storage
from cdm.commands.typed_options import (
    check_profile,
    check_settings_of_profiles,
    check_typed_once,
)
from cdm.config import load_config
from cdm.errors import CDMError, NotTrained, printable
from cdm.evaluation.evaluate import evaluation_key
from cdm.evaluation.study import study_key
from cdm.jobs.machine import announce_run
from cdm.jobs.standby import count_devices, share_out
from cdm.run.exports import stale_clouds, stale_maps, stale_table
from cdm.run.folders import check_notes
from cdm.run.losses import find_losses
from cdm.run.plan import describe_plan
from cdm.run.plan_files import is_saved, save_plan
from cdm.run.planning import load_plan, make_plan
from cdm.training.record import changed_since_finished, finished_path

# As a module of another workflow: what was typed is for that one, which gives us our part; and it
# may have our outputs lie under a prefix, which the jobs have to know as well as the rules.
# `named` gives the name that a rule has in the whole workflow.
IS_MODULE = not workflow.modifier.is_main_snakefile()
named = workflow.modifier.modify_rulename
WHERE = f"module {workflow.modifier.namespace}: " if IS_MODULE else ""

# Snakemake goes to the folder of --directory before it reads this, and leaves it before Python ends.
# Paths that are typed are relative to the folder that it was started in; so FOLDER stands in front
# of what is told to type.
HERE = Path.cwd()
STARTED_IN, FOLDER = HERE, ""
if workflow.overwrite_workdir:
    FOLDER = str(HERE)
    # The oldest Snakemake 9 does not tell it.
    STARTED_IN = getattr(workflow, "rundir", HERE)

PLAN, SAMPLES = None, None
STORAGE = workflow.storage_settings
try:
    if workflow.is_main_process and not IS_MODULE:
        check_typed_once(sys.argv[1:])
        with contextlib.chdir(STARTED_IN):
            check_profile(sys.argv[1:], BESIDE)
            check_settings_of_profiles(sys.argv[1:], BESIDE)
    check_notes()  # Snakemake makes their folder after it has read this
    check_storage(
        STORAGE.default_storage_provider,
        STORAGE.default_storage_prefix,
        map(str, STORAGE.shared_fs_usage),
        here=not (workflow.remote_exec or workflow.resource_settings.nodes),
    )
    if IS_MODULE:
        folder = f"{config.get('output_dir') or 'outputs'}/"
        folder = workflow.modifier.path_modifier.replace_prefix(folder)
        workflow.modifier.path_modifier = PathModifier(None, None, workflow)
        CONFIGURED = configure({**config, "output_dir": folder.rstrip("/")}, (), ())
    else:
        typed = workflow.config_settings  # Snakemake made 7 of 007 before it came here
        CONFIGURED = configure(config, typed.configfiles, typed.config_args)
    config = CONFIGURED.raw
    CONFIG = load_config(config, CONFIGURED.provenance)
    if workflow.is_main_process:
        PLAN, SAMPLES = make_plan(CONFIG)
    else:  # a job of a run that has been planned
        PLAN = load_plan(CONFIG)
except NotTrained as error:
    # Without a plan, training is all that can run; targets are told only after reading this.
    if workflow.is_main_process and named("train") not in sys.argv:
        raise WorkflowError(f"{WHERE}{error}")
except CDMError as error:
    raise WorkflowError(f"{WHERE}{error}")

RUN = CONFIG.run_dir
# Finished work that lost a file: "merge" or the name of a chunk -> the lost file.
LOSSES = find_losses(PLAN) if PLAN and workflow.is_main_process else {}
SCORES = {named("evaluate"), named("report")}  # targets that measure a finished archive
# A plugin (snakemake --logger NAME) may draw on the terminal, and a bar would fight with it.
HAS_LOGGER = bool(workflow.output_settings.log_handler_settings)
LIVE = PLAN and LiveProgress(PLAN, sys.stderr, HAS_LOGGER)
# A cluster is given --jobs (profiles/default adds --cores), and its jobs must not take all cores of
# their node.
GIVEN = workflow.resource_settings
ON_CLUSTER = bool(workflow.remote_exec or GIVEN.nodes or not GIVEN.cores)
CLUSTER_THREADS = 4
TELL_CORES = (
    f"--jobs {GIVEN.nodes} is for a cluster; on this machine a job now has at most "
    f"{GIVEN.cores} core(s): give --cores instead"
)
if PLAN and not ON_CLUSTER:
    if workflow.is_main_process:
        announce_run()
    gpus = workflow.global_resources.get("gpu")  # of no value: no --resources given
    SHARE = share_out(
        workflow.cores,
        gpus and gpus.value,
        count_devices(CONFIG.gpu),
        CONFIG.workflow.threads,
        len(PLAN.chunks),
        CONFIG.workflow.standby,
    )
    workflow.register_resource("chunk_jobs", SHARE.jobs)
DEMO_DATA = f"{CONFIG.demo_folder}_{CONFIG.dataset.phase}.json"


wildcard_constraints:
    chunk=r"[0-9]+-[0-9a-f]+",


def dataset_files():
    """The built-in dataset, which a rule writes; a user's is only ever read."""
    return [DEMO_DATA] if CONFIG.is_demo_data else []


def statistics_file():
    """Normalisation statistics, where a rule computes them."""
    return [PLAN.statistics.path] if PLAN.statistics.computed else []


def run_again_if_lost(name, record):
    """Have a finished job run again if files of it are lost, as `snakemake -R RECORD` would.

    Input functions call this. Snakemake calls them for the jobs that the targets need, before it
    decides which of these jobs run. So nothing has to be deleted to have a job run again.
    Scores stop instead and name the lost file: who compares scores has to know of it.
    """
    if name in LOSSES and not SCORES & set(workflow.dag_settings.targets):
        workflow.dag.forcefiles.add(record)
        print(f"{printable(LOSSES[name])}; {name} runs again", file=sys.stderr)
    return []


def keep_chunks_of_other_code():
    """Drop Snakemake's default reasons to make a finished chunk again, such as edited code.

    A fingerprint in a chunk's name tells all that decides its numbers. profiles/default names the
    reasons that are left; a profile of one's own, which takes its place, may not. An input function
    calls this, because Snakemake sets the reasons after it has read this file. Reasons that
    somebody chose stay (all five of them look like none chosen), and so do those of a workflow
    that has this one as a module.
    """
    reasons = workflow.dag_settings.rerun_triggers
    if not IS_MODULE and set(reasons) == set(RerunTrigger.all()):
        ours = {RerunTrigger.MTIME, RerunTrigger.INPUT}
        workflow.dag_settings.rerun_triggers = frozenset(ours)
    return []


def run_again_if_stale(why, record):
    """Have a finished export or page made again if something else is asked for than was."""
    try:
        reason = why(PLAN, Path(record)) if workflow.is_main_process else None
    except CDMError as error:
        raise WorkflowError(str(error)) from None
    if reason:
        workflow.dag.forcefiles.add(record)
        print(f"{printable(reason)}; it is made again", file=sys.stderr)
    return []


def tell_changed_items():
    """Say that a finished training had other items; it is not begun again by itself."""
    changed = workflow.is_main_process and changed_since_finished(CONFIG)
    if changed:
        print(printable(changed), file=sys.stderr)
    return []


def chunk_resources():
    """What Snakemake counts for a chunk job, and what it tells the job.

    On one machine `chunk_jobs` is counted: as many as compute at a time, and those that stand by.
    If none stands by, no job needs a turn.
    """
    if ON_CLUSTER:
        return {"gpu": 1}
    turns = SHARE.turns if SHARE.turns < SHARE.jobs else 0
    return {"chunk_jobs": 1, "turns": turns, "compute_threads": SHARE.threads}


def job_threads(wildcards):
    """CPU threads of a job on a GPU of its own: an even share of the cores for each GPU."""
    if CONFIG.workflow.threads != "auto":
        return CONFIG.workflow.threads
    if ON_CLUSTER:
        return CLUSTER_THREADS
    gpus = workflow.global_resources.get("gpu")  # of no value: no --resources given
    return max(1, workflow.cores // (gpus and gpus.value or 1))


def merge_threads(wildcards):
    """Threads that verify chunks while merging; processes that write the built-in rooms."""
    return CLUSTER_THREADS if ON_CLUSTER else min(8, workflow.cores)


def start_jobs_at_once():
    """Take Snakemake's default limit off, 100 jobs a second, which is meant for clusters.

    To keep that limit, Snakemake counts down a second after each look for jobs. Every job that
    ends adds one more such clock, so a run of many chunks kept a core busy with looking; and the
    run ended only when the last clock had, up to a second after the last job.
    A limit that was typed stays.
    """
    # An internal of Snakemake's, which another version may not have.
    limit = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def makes_maps():
    """Whether this run works through the plan; known once the targets are."""
    others = {named("train"), named("compare_samplers")}
    return PLAN and not others & set(workflow.dag_settings.targets)


def page_to_embed():
    """The page of maps and measures, where it exists and `snakemake --report` is at work.

    Snakemake's own report has the results of its targets only, and the usual one has no page.
    """
    at_work = any(word.partition("=")[0] == "--report" for word in sys.argv)
    if not at_work or not Path(PAGE).exists():
        return []
    too_large = embedding_advice(Path(PAGE), sys.argv)
    if too_large:
        print(printable(too_large), file=sys.stderr)
    return [PAGE]


def tell_page(written=False):
    """Say where the page is, if `report` was asked for and its page is written or was there.

    This is the last thing that a run says. Where nothing is to be done, Snakemake calls no handler.
    """
    asked = workflow.dag_settings and "report" in workflow.dag_settings.targets
    if asked and (written or at_rest()) and Path(PAGE).exists():
        print(printable(page_written(Path(PAGE))), file=sys.stderr)


def at_rest():
    """Whether there is nothing to be done. Snakemake calls no handler then."""
    dag = workflow.dag  # false where it has no job to run
    return bool(dag is not None and dag.targetjobs and len(dag) == 0)


def save_plan_or_stop():
    """Write the plan's files, which all jobs read. An error is a message here too."""
    try:
        save_plan(PLAN, SAMPLES)
    except CDMError as error:
        raise WorkflowError(str(error)) from None


def save_lost_plan():
    """Write the plan's files where they were lost, damaged or of other settings, and no job runs.

    Messages about these files say that starting Snakemake again writes them anew.
    """
    runs = workflow.executor_plugin is not None and not workflow.dryrun
    if runs and at_rest() and not is_saved(PLAN, SAMPLES):
        try:
            save_plan(PLAN, SAMPLES)
        except CDMError as error:
            print(error, file=sys.stderr)


def at_exit(act, **words):
    """Have something done as Python ends, where the run is: Snakemake has left --directory then."""

    def act_there():
        with contextlib.chdir(HERE):
            act(**words)

    atexit.register(act_there)


# Else Python searches all of Snakemake for garbage once more when it ends, for a third of a second.
atexit.register(gc.freeze)
if PLAN and workflow.is_main_process:
    at_exit(save_lost_plan)
    if not IS_MODULE:
        at_exit(tell_page)


def study_to_show(wildcards):
    """The page shows what compare_samplers found, if it has run for this plan or runs now."""
    asked = named("compare_samplers") in workflow.dag_settings.targets
    return [STUDY] if asked or Path(STUDY).exists() else []


def at_start(act):
    """Have the workflow that imports this one as a module do something once its jobs begin.

    Snakemake calls `onstart` of the main Snakefile only. That may be set before or after this.
    """
    register = workflow.onstart

    def register_both(theirs):
        register(lambda log: (act(), theirs(log)))

    workflow.onstart = register_both
    before = workflow._onstart
    workflow._onstart = lambda log: (act(), before(log))


if IS_MODULE and PLAN and workflow.is_main_process:
    at_start(save_plan_or_stop)
