"""Leases of devices: one job each, freed by the system when the process ends, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import REPO

from cdm.device import choose_device, lease
from cdm.errors import ConfigError

HOLD = """
import sys, time
from pathlib import Path
from cdm.device import lease
def log(line): print(line, flush=True)
print(lease(["a", "b"], log, Path(sys.argv[1])), flush=True)
time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that leases one of two devices; killed at the end."""
    running = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path], cwd=REPO, stdout=subprocess.PIPE, text=True
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


def test_a_job_keeps_its_device_for_all_its_chunks(tmp_path):
    assert lease(["x", "y"], print, tmp_path) == "x"
    assert lease(["x", "y"], print, tmp_path) == "x"
    assert os.listdir(tmp_path) == ["x.lock"]


def test_no_gpu_means_the_cpu():
    assert choose_device(None, print) == "cpu"


def test_a_device_number_that_is_not_there_says_what_to_type():
    with pytest.raises(ConfigError, match=r"gpu is 99, but .*--config gpu=null"):
        choose_device(99, print)
