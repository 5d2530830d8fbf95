"""What is written about where a job ran, and what earlier versions wrote."""

import os

import pytest
import torch

from cdm.jobs.machine import (
    SCHEDULER_JOB,
    describe_device,
    device_text,
    process_birth,
    process_space,
    read_device,
    scheduler_job,
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
