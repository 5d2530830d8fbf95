"""Whole runs: lost bookkeeping, two at a time, wrong clocks, vanishing data, preemption."""

import os
import re
import shutil
import signal
import time

import pytest
from kill_run import jobs_of
from runs import LOCAL, SLOW, SOON_S, Run, arrays, assert_same
from waiting import wait_until


@pytest.fixture
def run(tmp_path):
    """A new run of the usual job."""
    return Run(tmp_path / "run")


@pytest.fixture
def slow(tmp_path):
    """A new run of the job SLOW, whose jobs sample long enough to be met at it."""
    return Run(tmp_path / "slow", **SLOW)


def chunks_finished(run, number):
    return lambda: len(run.records()) >= number


@pytest.mark.long
def test_losing_snakemakes_folder_in_the_middle_and_moving_the_run_loses_nothing(
    run, usual_run, tmp_path
):
    process = run.start()
    wait_until(chunks_finished(run, 1), "a chunk to be finished")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in run.records()}
    shutil.rmtree(run.folder / ".snakemake")
    run.folder = run.folder.rename(tmp_path / "elsewhere")
    output = run.finish()
    assert f"generate_chunk        {3 - len(kept)}" in re.sub(" +", " " * 8, output), output
    times = {path.name: path.stat().st_mtime_ns for path in run.records()}
    assert kept and times | kept == times
    assert_same(arrays(run), usual_run)
    for path in run.outputs.rglob("*.json"):
        assert str(tmp_path) not in path.read_text(), f"{path} holds an absolute path"


@pytest.mark.long
def test_a_second_snakemake_is_refused_and_even_without_its_lock_nothing_wrong_is_kept(
    slow, slow_run
):
    process = slow.start()
    wait_until(lambda: list((slow.folder / ".snakemake/locks").glob("*")), "a lock")
    second = slow.snakemake()
    assert second.returncode != 0 and "--unlock" in second.stdout
    others = [slow.start(*LOCAL, "--nolock") for _ in range(2)]
    for each in (process, *others):
        each.wait()
    slow.finish(*LOCAL, "--nolock")
    slow.check()
    assert_same(arrays(slow), slow_run)
    assert not slow.leftovers()


def test_a_clock_that_goes_back_a_day_between_chunks_and_merge_changes_nothing(run, usual_run):
    run.make_chunks()
    records = [(path, path.read_bytes()) for path in run.records()]
    for path in run.folder.rglob("*"):
        if not path.is_symlink():
            stat = path.stat()
            os.utime(path, (stat.st_atime + 86400, stat.st_mtime + 86400))
    run.finish("all", "export_npz", *LOCAL)
    assert "Nothing to be done" in run.finish("all", "export_npz", *LOCAL)
    assert [(path, path.read_bytes()) for path in run.records()] == records
    assert_same(arrays(run), usual_run)


@pytest.mark.long
def test_an_item_that_disappears_or_is_cut_off_fails_its_chunk_only(run, usual_run):
    contacts = run.folder / "data/HUMANISE/contact_motion/contacts"
    saved = {name: (contacts / name).read_bytes() for name in ("00001.npz", "00004.npz")}
    done = run.snakemake(CDM_HOOK_UNLINK="00001.npz", CDM_HOOK_TRUNCATE="00004.npz")
    assert done.returncode != 0 and "Traceback" not in done.stdout, done.stdout
    assert re.search(r"00001\.npz: cannot be read \(No such file", done.stdout), done.stdout
    assert re.search(r"00004\.npz: damaged, truncated", done.stdout), done.stdout
    assert "1 of 3 chunks are finished" in done.stdout
    run.check()
    for name, content in saved.items():
        (contacts / name).write_bytes(content)
    run.make_chunks(0)
    run.finish()
    assert_same(arrays(run), usual_run)


@pytest.mark.long
def test_slow_reading_changes_nothing(run, usual_run):
    run.finish(CDM_HOOK_SLOW_S="0.5")
    assert_same(arrays(run), usual_run)


@pytest.mark.long
def test_a_preempted_chunk_job_stops_within_seconds_and_its_retry_finishes(tmp_path, slow_run):
    slow = Run(tmp_path / "slow", **SLOW, workflow={"threads": 2})  # one job at a time
    process = slow.start(*LOCAL, "--retries", "1")
    wait_until(lambda: "model: " in slow.logs(), "sampling")
    (job,) = jobs_of(process.pid)
    started = time.monotonic()
    os.kill(job, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(f"/proc/{job}"), "the job to end")
    assert time.monotonic() - started < SOON_S
    assert process.wait() == 0
    output = (slow.folder / "run.log").read_text()
    assert output.count("stopped by SIGTERM") == 1 and "Traceback" not in output, output
    slow.check()
    assert_same(arrays(slow), slow_run)
    assert not slow.leftovers()
