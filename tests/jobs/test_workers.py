"""Workers end with the process that they work for."""

import os
import signal
import subprocess
import sys
import time

import pytest

POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from cdm.jobs.workers import end_with

with ProcessPoolExecutor(2, initializer=end_with, initargs=(os.getpid(),)) as pool:
    print(*[pool.submit(os.getpid).result() for _ in range(4)], flush=True)
    time.sleep(600)
"""
LOADER = """
import os, time
from functools import partial
from torch.utils.data import DataLoader
from cdm.training.items import _begin_worker

def read(group):
    return os.getpid(), b"x" * 1_000_000  # more than a pipe takes: the worker waits

begin = partial(_begin_worker, os.getpid())
for pid, _ in DataLoader(range(8), 1, num_workers=1, collate_fn=read, worker_init_fn=begin):
    print(pid, flush=True)
    time.sleep(600)
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # nobody may wait for it here
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("program", [POOL, LOADER], ids=["pool", "loader"])
def test_workers_of_a_killed_process_end(program):
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        workers = {int(pid) for pid in parent.stdout.readline().split()}
        assert workers and all(map(is_alive, workers))
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = list(filter(is_alive, workers))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
