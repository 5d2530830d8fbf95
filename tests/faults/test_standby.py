"""Jobs that stand by: no GPU computes for two, the archive is the same, and no job outlives a run.

The GPUs are not there: jobs lease their names as they lease GPUs, and compute on the CPU.
"""

import os
import signal
import time

import pytest
from kill_run import jobs_of, kill_run
from runs import SLOW, SOON_S, Run, arrays, assert_same, stand_ins
from waiting import wait_until

from cdm.archive.records import read_record

ONE_GPU = ("--cores", "1", "--resources", "gpu=1")
WAITS = "taken by other jobs"


def slow_run_on_gpus(folder, **workflow) -> Run:
    return Run(folder, **SLOW, gpu="auto", workflow=workflow)


def most_at_once(leases) -> int:
    """How many GPUs were held at the same time; fails if one was held by two."""
    holders, most = {}, 0
    for pid, event, device in leases:
        if event == "begin":
            assert holders.setdefault(device, pid) == pid, leases
        else:
            assert holders.pop(device) == pid
        most = max(most, len(holders))
    return most


@pytest.mark.long
def test_the_next_job_waits_ready_and_the_archive_is_the_same(tmp_path, slow_run):
    run = slow_run_on_gpus(tmp_path / "run")
    process = run.start(*ONE_GPU, **stand_ins(run.folder, 2))
    assert process.wait() == 0, (run.folder / "run.log").read_text()
    assert_same(arrays(run), slow_run)
    # Which chunk comes when is up to Snakemake; the last may be short, and over too soon.
    assert 1 <= run.logs().count(WAITS) <= 2 and most_at_once(run.leases()) == 1
    assert max(read_record(path).seconds["wait"] for path in run.records()) > 0.1
    assert "libgomp" not in (run.folder / "run.log").read_text()  # threads: 0 is Snakemake's count


@pytest.mark.long
def test_without_standby_one_job_comes_after_the_other(tmp_path, slow_run):
    run = slow_run_on_gpus(tmp_path / "run", standby=False)
    process = run.start(*ONE_GPU, **stand_ins(run.folder, 2))
    assert process.wait() == 0, (run.folder / "run.log").read_text()
    assert_same(arrays(run), slow_run)
    assert WAITS not in run.logs() and most_at_once(run.leases()) == 1


@pytest.mark.long
def test_jobs_of_one_machine_never_share_a_gpu(tmp_path, slow_run):
    run = slow_run_on_gpus(tmp_path / "run")
    process = run.start("--cores", "3", "--resources", "gpu=3", **stand_ins(run.folder, 2))
    assert process.wait() == 0, (run.folder / "run.log").read_text()
    assert_same(arrays(run), slow_run)
    assert run.logs().count("all 2 GPU(s) are taken by other jobs") == 1
    leases = run.leases()
    assert most_at_once(leases) == 2 and len(leases) == 6


@pytest.mark.long
def test_a_job_that_stands_by_ends_with_its_run(tmp_path, slow_run):
    run = slow_run_on_gpus(tmp_path / "run")
    process = run.start(*ONE_GPU, **stand_ins(run.folder, 1))
    wait_until(lambda: WAITS in run.logs(), "a job that stands by")
    computing = next(pid for pid, event, _ in run.leases() if event == "begin")
    (waiting,) = set(jobs_of(process.pid)) - {computing}
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = time.monotonic()
    wait_until(lambda: not os.path.exists(f"/proc/{waiting}"), "the waiting job to end")
    assert time.monotonic() - killed < SOON_S
    assert "stopped by the end of its run" in run.logs()
    wait_until(lambda: not os.path.exists(f"/proc/{computing}"), "the other job to end")
    assert {pid for pid, *_ in run.leases()} == {computing}
    assert len(run.records()) == 1  # what was begun is kept
    run.unlock()
    process = run.start(*ONE_GPU, **stand_ins(run.folder, 1))
    assert process.wait() == 0, (run.folder / "run.log").read_text()
    assert_same(arrays(run), slow_run)
    assert not run.leftovers()


@pytest.mark.long
def test_random_kills_with_jobs_that_stand_by_end_in_the_same_archive(tmp_path):
    counts = kill_run(tmp_path, kills=6, seed=11, devices=1)
    assert counts["archives"] >= 1 and sum(counts.values()) - counts["archives"] == 6
