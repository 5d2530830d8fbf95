"""A run over all GPUs of a machine: the archive of one GPU, every GPU used, kills survived."""

import json
import os
import re
import signal

import pytest
from runs import Run, arrays, assert_same
from slurm_lab import wait_until

from cdm.jobs.device import visible_devices

pytestmark = pytest.mark.gpu

# Seven chunks of one item, each some seconds long.
LONG = {"diffusion": {"timestep_respacing": 500}, "sampling": {"batch_size": 1, "k_samples": 16}}
CHUNKS = {"workflow": {"chunk_size": 1}, "num_points": 2048}


@pytest.fixture(scope="module")
def gpus() -> list[str]:
    names = visible_devices()
    if len(names) < 2:
        pytest.skip(f"needs two CUDA devices, this machine has {len(names)}")
    return names


@pytest.fixture(scope="module")
def one_gpu(gpus, tmp_path_factory) -> Run:
    """The run that one GPU made."""
    run = Run(tmp_path_factory.mktemp("one") / "run", gpu="auto", **LONG, **CHUNKS)
    run.finish("--cores", "4", "--resources", "gpu=1")
    assert len(devices_of(run)) == 1
    return run


def devices_of(run: Run) -> set[str]:
    """UUIDs of the GPUs that chunk jobs held."""
    return set(re.findall(r"computing on ((?:GPU|MIG)-\S+)", run.logs()))


def job_on(run: Run, gpu: str) -> int | None:
    """Process id of the job that samples on a GPU."""
    for beat in (run.outputs / "running").glob("*.json"):
        log = run.outputs / "logs/generate_chunk" / f"{beat.stem}.log"
        if log.exists() and gpu in (text := log.read_text()) and "model: " in text:
            return json.loads(beat.read_bytes())["pid"]
    return None


def over_all(gpus) -> tuple[str, ...]:
    return "--cores", str(4 * len(gpus)), "--resources", f"gpu={len(gpus)}"


def test_all_gpus_are_used_and_the_archive_is_that_of_one(gpus, one_gpu, tmp_path):
    run = Run(tmp_path / "run", gpu="auto", **LONG, **CHUNKS)
    run.finish(*over_all(gpus))
    run.check()
    assert devices_of(run) == set(gpus)
    assert_same(arrays(run), arrays(one_gpu))


def test_a_job_killed_on_the_second_gpu_is_resumed(gpus, one_gpu, tmp_path):
    run = Run(tmp_path / "run", gpu="auto", **LONG, **CHUNKS)
    process = run.start(*over_all(gpus))
    wait_until(lambda: job_on(run, gpus[1]), "a job on the second GPU", timeout_s=120)
    os.kill(job_on(run, gpus[1]), signal.SIGKILL)
    assert process.wait() != 0
    finished = {path: path.stat().st_mtime_ns for path in run.records()}
    run.finish(*over_all(gpus))
    run.check()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert_same(arrays(run), arrays(one_gpu))
    assert not run.leftovers()


def test_a_gpu_chosen_by_its_number_is_the_one_that_computes(gpus, one_gpu, tmp_path):
    run = Run(tmp_path / "run", gpu=len(gpus) - 1, **LONG, **CHUNKS)
    run.finish("--cores", "4", "--resources", "gpu=1")
    assert devices_of(run) == {gpus[-1]}
    assert_same(arrays(run), arrays(one_gpu))


def test_more_jobs_than_gpus_wait_for_their_turn(gpus, one_gpu, tmp_path):
    run = Run(tmp_path / "run", gpu="auto", **LONG, **CHUNKS)
    visible = ",".join(gpus[:2])
    arguments = ("--cores", "12", "--resources", "gpu=3")
    run.finish(*arguments, CUDA_VISIBLE_DEVICES=visible)
    assert "all 2 GPU(s) are taken by other jobs" in run.logs()
    assert devices_of(run) == set(gpus[:2])
    assert_same(arrays(run), arrays(one_gpu))
