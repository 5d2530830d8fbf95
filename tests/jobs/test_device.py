"""Leases of devices: one job each, freed by the system when the process ends, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import REPO

from cdm.errors import ConfigError
from cdm.jobs.device import choose_device, lease

HOLD = """
import sys, time
from pathlib import Path
from cdm.jobs.device import lease
def log(line): print(line, flush=True)
print(lease(["a", "b"], log, Path(sys.argv[1])), flush=True)
time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that leases one of two devices; killed at the end."""
    running = []

    def start(**environment):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path],
            cwd=REPO,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_two_jobs_get_two_devices_and_a_third_waits_until_one_is_killed(hold):
    first, second = hold(), hold()
    assert {first.stdout.readline(), second.stdout.readline()} == {"a\n", "b\n"}
    third = hold()
    assert third.stdout.readline() == "all 2 GPU(s) are taken by other jobs; waiting for one\n"
    time.sleep(1)
    first.send_signal(signal.SIGKILL)
    assert third.stdout.readline() in ("a\n", "b\n")


def test_jobs_inside_one_allocation_of_a_scheduler_share_no_device(hold):
    first, second = hold(SLURM_JOB_ID="7"), hold(SLURM_JOB_ID="7")
    assert {first.stdout.readline(), second.stdout.readline()} == {"a\n", "b\n"}
    assert "taken by other jobs" in hold(SLURM_JOB_ID="7").stdout.readline()


def test_what_a_scheduler_gave_is_not_waited_for_because_of_its_other_jobs(hold):
    for _ in range(2):  # both devices are held by job 7
        assert hold(SLURM_JOB_ID="7").stdout.readline() in ("a\n", "b\n")
    assert hold(SLURM_JOB_ID="8").stdout.readline() == "a\n"


def test_a_finished_job_leaves_no_lock_file(tmp_path):
    code = HOLD.replace("time.sleep(600)", "")
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=REPO, check=True)
    assert os.listdir(tmp_path) == []


def test_a_lock_file_of_another_user_can_be_held(tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs root, to be two users")
    shared = tmp_path / "shared"  # as /tmp: anyone may create files, owners remove them
    code = (
        "import os, sys; from pathlib import Path; from cdm.files import try_lock\n"
        "os.setuid(int(sys.argv[2]))\n"
        "print(try_lock(Path(sys.argv[1], 'a.lock')) is not None)"
    )
    shared.mkdir()
    shared.chmod(0o1777)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    for user in ("1234", "1235"):
        done = subprocess.run(
            [sys.executable, "-c", code, shared, user], cwd=REPO, capture_output=True, text=True
        )
        assert done.stdout == "True\n", done.stderr
    assert os.listdir(shared) == ["a.lock"]


@pytest.mark.gpu
def test_two_jobs_on_a_machine_with_one_gpu_take_turns(tmp_path):
    code = (
        "import time, torch; from cdm.jobs.device import choose_device\n"
        "device = choose_device('auto', print); began = time.monotonic()\n"
        "a = torch.rand(4096, 4096, device=device)\n"
        "while time.monotonic() < began + 3: (a @ a).sum().item()\n"
        "print('held', device, began, time.monotonic())"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0"}
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": environment, "cwd": REPO}
    jobs = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    outputs = [job.communicate(timeout=120)[0] for job in jobs]
    assert sum("all 1 GPU(s) are taken" in output for output in outputs) == 1, outputs
    spans = sorted(
        tuple(map(float, line.split()[2:]))
        for output in outputs
        for line in output.splitlines()
        if line.startswith("held cuda:0")
    )
    assert len(spans) == 2 and spans[0][1] <= spans[1][0] + 0.1, spans


def test_a_job_keeps_its_device_for_all_its_chunks(tmp_path):
    assert lease(["x", "y"], print, tmp_path) == "x"
    assert lease(["x", "y"], print, tmp_path) == "x"
    assert os.listdir(tmp_path) == ["x.lock"]
    assert lease(["x"], print, tmp_path) == "x"


def test_no_gpu_means_the_cpu():
    assert choose_device(None, print) == "cpu"


def test_a_device_number_that_is_not_there_says_what_to_type():
    with pytest.raises(ConfigError, match=r"gpu is 99, but .*--config gpu=null"):
        choose_device(99, print)
