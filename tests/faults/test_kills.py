"""Killed anywhere: what calls itself finished is whole, and the next attempt ends the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archives import (
    LAYOUT,
    make_run,
    quiet,
    record_for,
    record_to_store,
    verify_archive,
    whole_arrays,
)
from helpers import REPO
from kill_run import jobs_of, kill_run
from killing import disk_calls, killed_at_call
from runs import SOON_S
from waiting import PATIENCE_S

from cdm.archive import ContactMaps
from cdm.archive.store import verify_chunk, write_chunk
from cdm.run.merge import merge

FEWER_CALLS = 5


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Three finished chunks in a folder `made`, and their plan."""
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path / "made")
    return make_run()


def write_middle_chunk(plan):
    """Write the second chunk, as its job does."""
    chunk = plan.chunks[1]
    part = {name: values[chunk.start : chunk.stop] for name, values in whole_arrays().items()}
    store = record_to_store(plan.chunk_record(chunk))
    write_chunk(store, part, record_for(chunk, LAYOUT))


def remove_middle_chunk(plan):
    record = Path(plan.chunk_record(plan.chunks[1]))
    record.unlink()
    shutil.rmtree(record.with_suffix(".zarr"))


def merge_quietly(plan):
    merge(plan, quiet)


def nothing_before(plan):
    pass


def another_archive_before(plan):
    merge(replace(plan, chunks=plan.chunks[:2]), quiet)


CASES = {
    "a new chunk": (remove_middle_chunk, write_middle_chunk),
    "a chunk that is written again": (nothing_before, write_middle_chunk),
    "a first merge": (nothing_before, merge_quietly),
    "a merge done again": (merge_quietly, merge_quietly),
    "a merge that replaces another plan's archive": (another_archive_before, merge_quietly),
}


def state(plan):
    """Names of all that is finished; everything of it is verified byte by byte."""
    chunks = [Path(plan.chunk_record(chunk)) for chunk in plan.chunks]
    archives = list(Path("outputs/run").glob("contact_maps-*.json"))
    for path in filter(Path.exists, chunks):
        verify_chunk(path)
    for path in archives:
        assert verify_archive(path).num_samples == len(ContactMaps(plan.archive))
    return {path.name for path in [*chunks, *archives] if path.exists()}


def copy_of(plan_folder, folder, monkeypatch):
    """A copy of what stands before the attempt; it becomes the working folder."""
    subprocess.run(["cp", "-a", plan_folder, folder], check=True)
    monkeypatch.chdir(folder)
    return folder


def critical(calls):
    """Numbers of calls around those that give a store, a record or an archive its name."""
    names = {
        number
        for number, (call, path) in enumerate(calls, start=1)
        if call in ("rename", "replace", "exchange") and "/." not in f"/{path}"
    }
    return {number + step for number in names for step in (0, 1)}


# The long ones visit all the places of the quick ones, and more.
QUICK = ("a new chunk", "a merge that replaces another plan's archive")
ATTEMPTS = [
    *((case, 200) for case in QUICK),
    *(pytest.param(case, 20, marks=pytest.mark.long) for case in CASES),
    *(pytest.param(case, 1, marks=pytest.mark.exhaustive) for case in CASES),
]


@pytest.mark.parametrize(("case", "every"), ATTEMPTS)
def test_killed_before_a_call_that_changes_the_disk(plan, tmp_path, monkeypatch, case, every):
    before, function = CASES[case]
    before(plan)
    calls = disk_calls(copy_of(tmp_path / "made", tmp_path / "all", monkeypatch), function, plan)
    assert len(critical(calls)) >= 3, calls
    seen = set()
    for number in sorted(critical(calls) | set(range(1, len(calls) + 2, every))):
        folder = copy_of(tmp_path / "made", tmp_path / f"killed{number}", monkeypatch)
        killed = killed_at_call(number, folder, function, plan)
        # Threads may save a call or two: another attempt can end before the last numbers.
        assert killed or number > len(calls) - FEWER_CALLS
        seen.add(frozenset(state(plan)))
        function(plan)
        merge(plan, quiet)
        for name, values in whole_arrays().items():
            np.testing.assert_array_equal(ContactMaps(plan.archive).group[name][:], values)
        state(plan)
        left = [p for end in ("tmp", "lock") for p in Path("outputs").rglob(f".*.{end}")]
        assert not left, (number, left)
        shutil.rmtree(folder)
    assert len(seen) >= 2, seen  # killed before and after the attempt counted


JOB = """
import sys, time
from cdm.jobs.log import job_log
with job_log("job.log") as log:
    from pathlib import Path
    from cdm.files import replacing
    with replacing(Path("store")) as temporary:
        temporary.mkdir()
        (temporary / "half").write_text("half")
        print("writing", flush=True)
        {wait}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_told_to_stop_cleans_up_and_says_one_line(tmp_path, number):
    status, seconds, errors = stop_job(tmp_path, "time.sleep(600)", number)
    assert status == 128 + number and seconds < SOON_S
    assert os.listdir(tmp_path) == ["job.log"]
    assert len(errors.splitlines()) == 1 and f"stopped by {number.name}" in errors
    assert "stopped by" in (tmp_path / "job.log").read_text()


def test_a_job_told_to_stop_in_a_long_call_ends_within_seconds(tmp_path):
    wait = (
        "import ctypes; lock = ctypes.CDLL(None).pthread_mutex_lock; mutex = bytes(64); "
        "lock(mutex); lock(mutex)"  # a deadlock, which no signal interrupts
    )
    status, seconds, errors = stop_job(tmp_path, wait, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM and seconds < SOON_S
    assert len(errors.splitlines()) == 1 and "stopped by SIGTERM" in errors


def stop_job(folder, wait, number):
    """Start a job that writes and waits, send it a signal; status, seconds it took, stderr."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOB.format(wait=wait)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.2)
    started = time.monotonic()
    process.send_signal(number)
    errors = process.communicate(timeout=PATIENCE_S)[1]
    return process.returncode, time.monotonic() - started, errors


@pytest.mark.long
def test_random_kills_of_jobs_snakemake_and_the_group_end_in_the_same_archive(tmp_path):
    counts = kill_run(tmp_path, kills=12, seed=7)
    assert counts["archives"] >= 1 and sum(counts.values()) - counts["archives"] == 12


FORKING = "import os; os.fork(); os.write(1, b'here\\n'); os.read(0, 1)"


def test_a_child_that_a_job_has_just_begun_is_not_counted_as_a_job(tmp_path):
    script = tmp_path / ".snakemake/scripts/job.py"
    script.parent.mkdir(parents=True)
    script.write_text(FORKING)
    job = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with job:
        assert [job.stdout.readline() for _ in range(2)] == [b"here\n"] * 2
        assert jobs_of(job.pid) == [job.pid]
        job.stdin.close()
