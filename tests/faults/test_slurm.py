"""A real Slurm on loopback: jobs are cancelled, requeued and lose their node; nothing is lost."""

import shutil
import tempfile
from pathlib import Path

import pytest
from helpers import REPO
from runs import Run, arrays, assert_same
from slurm_lab import SlurmLab, unusable
from waiting import wait_until

from cdm.archive.records import read_record

pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install -e '.[cluster]'")
pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("slurm"),  # one cluster, whose ports are fixed
]
PROFILE = (
    "--workflow-profile",
    f"{REPO}/profiles/slurm",
    # What does not fit this small cluster; partition, runtime and the rest are the profile's.
    *("--set-resources", "generate_chunk:mem_mb=1000", "merge:mem_mb=1000"),
    *("--set-threads", "generate_chunk=1", "merge=1"),
    *("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"),
)
OFTEN = {"CDM_HOOK_POLL_S": "3"}
SETTINGS = {
    "num_points": 512,
    "diffusion": {"timestep_respacing": 75},
    "workflow": {"chunk_size": 2},
}


@pytest.fixture(scope="module")
def lab():
    reason = unusable()
    if reason:
        pytest.skip(f"no Slurm here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="lab"))  # short: a socket's path is limited
    try:
        with SlurmLab(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def local_run(undisturbed):
    """Arrays of the same job, made without a scheduler."""
    return undisturbed("slurm", **SETTINGS)


@pytest.fixture(scope="module")
def disturbed(lab, tmp_path_factory):
    """The job on the cluster: one chunk cancelled, one requeued, then the node goes down."""
    run = Run(tmp_path_factory.mktemp("cluster") / "run", **SETTINGS)
    environment = run.folder / "environment.txt"
    process = run.start(*PROFILE, **OFTEN, CDM_HOOK_ENVIRONMENT=str(environment))
    try:
        wait_until(lambda: len(sampling(run, lab)) == 2, "two chunks to be sampled")
        cancelled, requeued = sampling(run, lab)
        lab.command("scontrol", "requeue", requeued)
        lab.command("scancel", cancelled)
        lab.start_requeued_now()
        wait_until(
            lambda: set(sampling(run, lab)) - {cancelled, requeued}, "another chunk to be sampled"
        )
        hit = set(lab.jobs())
        lab.node_down()
        lab.node_up()
        lab.start_requeued_now()
        assert process.wait(240) == 0, (run.folder / "run.log").read_text()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        subjects = {"cancelled": cancelled, "requeued": requeued, "hit": hit}
    lines = [line.split() for line in environment.read_text().splitlines()]
    return run, lines, subjects


def sampling(run, lab):
    """Ids of running jobs whose chunk job has come to sampling."""
    logs = [path.stem for path in (run.outputs / "logs/generate_chunk").glob("*.log")]
    ready = [
        name
        for name in logs
        if "model:" in (run.outputs / f"logs/generate_chunk/{name}.log").read_text()
    ]
    return [job for job in lab.jobs() if any(name in lab.comment(job) for name in ready)]


def test_after_cancel_requeue_and_a_lost_node_the_archive_equals_the_local_one(
    disturbed, local_run
):
    run, _, _ = disturbed
    run.check()
    assert_same(arrays(run), local_run)
    assert not run.leftovers()


def test_each_job_sees_one_gpu(disturbed):
    _, lines, _ = disturbed
    seen = {devices for rule, _, devices in lines if rule == "generate_chunk"}
    assert seen == {"0", "1"}


def test_cancelled_and_interrupted_jobs_ran_again(disturbed):
    run, lines, subjects = disturbed
    starts = [job for rule, job, _ in lines if rule == "generate_chunk"]
    chunks = len(run.records())
    assert chunks == 4 and len(starts) >= chunks + 2 + len(subjects["hit"])
    assert starts.count(subjects["cancelled"]) == 1  # Snakemake submitted its chunk anew
    assert starts.count(subjects["requeued"]) >= 2  # Slurm started it again itself
    assert all(starts.count(job) >= 2 for job in subjects["hit"])


def test_a_requeued_job_is_clean(disturbed):
    run, _, _ = disturbed
    output = (run.folder / "run.log").read_text()
    assert "IncompleteFiles" not in output and "Traceback" not in output, output
    assert all(not read_record(path).skipped for path in run.records())


def test_job_arrays_give_the_same_archive(lab, local_run, tmp_path):
    run = Run(tmp_path / "run", **SETTINGS)
    process = run.start(*PROFILE, "--slurm-array-jobs", "generate_chunk", **OFTEN)
    assert process.wait(240) == 0, (run.folder / "run.log").read_text()
    output = (run.folder / "run.log").read_text()
    assert "Submitted array job" in output, output
    assert_same(arrays(run), local_run)
