"""What is written about where a job ran, and what earlier versions wrote."""

import gc
import os
import platform
import subprocess
import sys
import time

import pytest
import torch

from cdm.jobs.machine import (
    RUN_PROCESS,
    SCHEDULER_JOB,
    THREAD_VARIABLES,
    announce_run,
    describe_device,
    device_text,
    garbage_waits,
    keep_freed_memory,
    process_age_s,
    process_birth,
    process_space,
    read_device,
    run_has_ended,
    scheduler_job,
    set_thread_variables,
)


@pytest.fixture
def no_scheduler(monkeypatch):
    for name in SCHEDULER_JOB:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", SCHEDULER_JOB)
def test_each_schedulers_job_number_is_found(monkeypatch, no_scheduler, name):
    assert scheduler_job() == ""
    monkeypatch.setenv(name, "1234")
    assert scheduler_job() == "1234"


def test_an_empty_number_is_none(monkeypatch, no_scheduler):
    monkeypatch.setenv("SLURM_JOB_ID", "")
    monkeypatch.setenv("JOB_ID", "7")
    assert scheduler_job() == "7"


def test_a_cpu_is_described_in_parts():
    described = describe_device("cpu")
    assert described == {"kind": "cpu", "name": "CPU", "threads": torch.get_num_threads()}
    assert read_device(described) == described
    assert device_text(described) == f"CPU ({torch.get_num_threads()} thread(s))"


def test_a_gpu_is_described_by_its_vendors_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:0": "NVIDIA H200"}.get)
    assert describe_device("cuda:0") == {"kind": "cuda", "name": "NVIDIA H200", "threads": None}
    assert device_text(describe_device("cuda:0")) == "NVIDIA H200"


@pytest.mark.parametrize(
    ("old", "parts"),
    [
        ("CPU (4 thread(s))", ("cpu", "CPU", 4)),
        ("CPU", ("cpu", "CPU", None)),
        ("NVIDIA H100 80GB HBM3", ("cuda", "NVIDIA H100 80GB HBM3", None)),
    ],
)
def test_the_text_of_earlier_versions_is_understood(old, parts):
    assert tuple(read_device(old).values()) == parts
    assert device_text(old) == old


def test_a_process_has_one_birth_and_one_space():
    assert process_birth(os.getpid()) == process_birth(os.getpid()) != process_birth(1) != ""
    assert process_birth(2**31 - 1) == ""
    assert process_space() == process_space()


def test_the_age_of_a_process_counts_from_its_start():
    code = (
        "import time; time.sleep(0.3); from cdm.jobs.machine import process_age_s as a; print(a())"
    )
    began = time.monotonic()
    age_s = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert 0.3 <= age_s <= time.monotonic() - began + 0.02  # the system counts hundredths


def test_an_age_that_the_system_hides_is_none(monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: "hidden")
    assert process_age_s() is None


def test_a_run_has_ended_when_its_process_is_gone(monkeypatch):
    monkeypatch.setenv(RUN_PROCESS, "")
    assert not run_has_ended()  # nobody said which run it is
    announce_run()
    assert not run_has_ended()
    code = (
        "import os; from cdm.jobs.machine import *; announce_run(); print(os.environ[RUN_PROCESS])"
    )
    gone = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    monkeypatch.setenv(RUN_PROCESS, gone)
    assert run_has_ended()
    # Its number may belong to another process now, or mean another one in a container.
    birth, space = gone.split("|")[1:]
    monkeypatch.setenv(RUN_PROCESS, f"{os.getpid()}|{birth}|{space}")
    assert run_has_ended()
    monkeypatch.setenv(RUN_PROCESS, f"{os.getpid()}|{birth}|pid:[elsewhere]")
    assert not run_has_ended()


def test_libraries_are_told_their_threads(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "0")
    set_thread_variables(3)
    assert {os.environ[name] for name in THREAD_VARIABLES} == {"3"}


FAULTS = """
import ctypes, resource, sys
from cdm.jobs.machine import keep_freed_memory
kept = "kept" in sys.argv and keep_freed_memory()
def step():
    for array in [ctypes.create_string_buffer(size) for size in 6 * [3_000_000]]:
        ctypes.memset(array, 1, len(array))
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_that_is_freed_is_kept_for_the_next_step():
    def run(word):
        line = [sys.executable, "-c", FAULTS, word]
        told = subprocess.run(line, capture_output=True, check=True).stdout
        return tuple(map(int, told.split()))

    kept, faults = run("kept")
    assert kept and faults < 100
    assert run("as usual")[1] > 10 * 100  # 18 MB a step, given back and taken again


def test_where_the_c_library_has_no_such_setting_nothing_is_set(monkeypatch):
    monkeypatch.setattr("cdm.jobs.machine.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False


def test_garbage_waits_until_the_block_ends():
    try:
        with garbage_waits():
            assert not gc.isenabled()
            kept = gc.get_freeze_count()
        assert gc.isenabled()
        assert gc.get_freeze_count() > kept  # what is there now is not searched again
        with pytest.raises(ImportError), garbage_waits():
            raise ImportError("no torch here")
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_garbage_collection_that_was_off_stays_off():
    gc.disable()
    try:
        with garbage_waits():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
