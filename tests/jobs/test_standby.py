"""How chunk jobs share a machine, and that no more of them compute than have a turn."""

import os
import subprocess
import sys

import pytest
from helpers import REPO

from cdm.errors import ConfigError
from cdm.jobs import standby
from cdm.jobs.device import give_back
from cdm.jobs.standby import Share, count_devices, share_out, wait_for_turn

JOB = """
import sys
from cdm.jobs.device import give_back
from cdm.jobs.standby import wait_for_turn
wait_for_turn(sys.argv[1], int(sys.argv[2]), lambda line: print(line, flush=True))
print("my turn", flush=True)
sys.stdin.readline()
give_back()
print("given back", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def job(tmp_path):
    """job(turns) starts a process that takes a turn and gives it back when told; killed later."""
    running = []

    def start(turns, folder=tmp_path):
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, folder, str(turns)],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def said(process) -> str:
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("cores", "gpus", "devices", "share"),
    [
        (1, 1, 1, Share(jobs=2, turns=1, threads=1)),  # the usual command
        (16, 4, 4, Share(jobs=8, turns=4, threads=4)),
        (16, 1, 4, Share(jobs=2, turns=1, threads=16)),  # three GPUs are left to others
        (12, 3, 2, Share(jobs=4, turns=3, threads=4)),  # more turns than GPUs
        (4, 8, 8, Share(jobs=8, turns=4, threads=1)),  # a job that computes needs a core
        (8, None, 2, Share(jobs=2, turns=1, threads=8)),
    ],
)
def test_on_gpus_one_job_stands_by_for_each_that_computes(cores, gpus, devices, share):
    assert share_out(cores, gpus, devices) == share
    without = share_out(cores, gpus, devices, standby=False)
    assert without == Share(share.turns, share.turns, share.threads)


@pytest.mark.parametrize(
    ("cores", "chunks", "share"),
    [
        (1, 9, Share(1, 1, 1)),
        (2, 9, Share(2, 2, 1)),
        (2, 1, Share(1, 1, 2)),
        (8, 9, Share(3, 3, 2)),
        (64, 99, Share(8, 8, 8)),
    ],
)
def test_on_the_cpu_no_job_stands_by_and_several_share_the_cores(cores, chunks, share):
    assert share_out(cores, 1, 0, num_chunks=chunks) == share


def test_threads_that_are_set_are_kept():
    assert share_out(16, 2, 2, threads=3) == Share(jobs=4, turns=2, threads=3)
    assert share_out(16, 1, 0, threads=8, num_chunks=9) == Share(jobs=2, turns=2, threads=8)
    assert share_out(2, 1, 0, threads=8, num_chunks=9) == Share(jobs=1, turns=1, threads=8)


def test_devices_are_counted_as_jobs_will_choose_them(monkeypatch):
    monkeypatch.setattr(standby, "visible_devices", lambda: ["GPU-a", "GPU-b"])
    assert [count_devices(gpu) for gpu in (None, "auto", 1)] == [0, 2, 1]
    monkeypatch.setattr(standby, "visible_devices", lambda: [])
    assert [count_devices(gpu) for gpu in (None, "auto", 0)] == [0, 0, 0]


def test_a_driver_that_does_not_answer_is_left_to_the_jobs_to_tell(monkeypatch):
    def broken():
        raise ConfigError("NVIDIA's driver does not list the GPUs")

    monkeypatch.setattr(standby, "visible_devices", broken)
    assert count_devices("auto") == 0


def test_a_job_waits_until_another_gives_its_turn_back_and_not_until_it_ends(job):
    first = job(1)
    assert said(first) == "my turn"
    second = job(1)
    waits = f"all 1 turn(s) of this run are taken by other jobs (process {first.pid})"
    assert said(second) == f"{waits}; waiting for one"
    print(file=first.stdin, flush=True)
    assert (said(first), said(second)) == ("given back", "my turn")
    assert first.poll() is None


def test_a_turn_is_free_when_its_job_is_killed(job):
    first, second = job(1), None
    assert said(first) == "my turn"
    second = job(1)
    assert "waiting for one" in said(second)
    first.kill()
    assert said(second) == "my turn"


def test_runs_in_other_folders_have_turns_of_their_own(job, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert said(job(1)) == "my turn"
    assert said(job(1, tmp_path / "other")) == "my turn"
    assert "waiting for one" in said(job(1, tmp_path / "link"))  # the same folder


@pytest.mark.parametrize("turns", [None, 0])
def test_a_job_of_a_cluster_needs_no_turn(tmp_path, turns):
    lines = []
    wait_for_turn(tmp_path, turns, lines.append)
    give_back()
    assert not lines and os.environ.get("CDM_RUN_PROCESS") is None
