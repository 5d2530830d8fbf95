"""A run over all GPUs of a machine: the archive of one GPU, every GPU used, kills survived."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from helpers import REPO, overlay
from runs import Run, arrays, assert_same
from waiting import wait_until

from cdm.archive.records import read_record
from cdm.jobs.device import give_back, lease, visible_devices

pytestmark = pytest.mark.gpu

# Four chunks of at most two items, each some seconds long.
LONG = {"diffusion": {"timestep_respacing": 500}, "sampling": {"batch_size": 1, "k_samples": 8}}
CHUNKS = {"workflow": {"chunk_size": 2}, "num_points": 2048}
NUM_CHUNKS = 4
HOLD = """
import sys, time
from cdm.jobs.device import lease
print(lease(sys.argv[1:], print), flush=True)
time.sleep(600)
"""
# A tiny model that trains for four steps.
TRAINING = {
    "exp_name": "trained",
    "exp_dir": None,
    "model": {
        "time_emb_dim": 16, "arch_pointmamba": {"trans_dim": 16, "depth": 1, "last_dim": 8}
    },
    "training": {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "warmup_steps": 0},
}  # fmt: skip
STUDY = {"samplers": ["ddpm 2"], "k_samples": 2, "max_items": 2}


@pytest.fixture(scope="module")
def gpus() -> list[str]:
    names = visible_devices()
    if len(names) < 2:
        pytest.skip(f"needs two CUDA devices, this machine has {len(names)}")
    return names


@pytest.fixture(autouse=True)
def no_process_outlives_its_test(tmp_path):
    """Where a test fails, its run may go on; it would hold a GPU of the next test."""
    yield
    for process in psutil.process_iter(["cwd"]):
        if (process.info["cwd"] or "").startswith(str(tmp_path)):
            process.kill()


@pytest.fixture(scope="module")
def one_gpu(gpus, tmp_path_factory) -> Run:
    """The run that one GPU made."""
    run = Run(tmp_path_factory.mktemp("one") / "run", gpu="auto", **LONG, **CHUNKS)
    run.finish("--cores", "4", "--resources", "gpu=1", CUDA_VISIBLE_DEVICES=gpus[0])
    assert devices_of(run) == {gpus[0]}
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
    assert len(devices_of(run)) == min(len(gpus), NUM_CHUNKS)
    assert_same(arrays(run), arrays(one_gpu))


def test_a_job_killed_on_the_second_gpu_is_resumed(gpus, one_gpu, tmp_path):
    run = Run(tmp_path / "run", gpu="auto", **LONG, **CHUNKS)
    process = run.start(*over_all(gpus))
    wait_until(lambda: job_on(run, gpus[1]), "a job on the second GPU")
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


def test_the_next_job_stands_by_and_only_one_gpu_is_used(gpus, one_gpu, tmp_path):
    seconds, totals = {}, {}
    for standby in (True, False):
        changes = overlay(CHUNKS, {"workflow": {"standby": standby}})
        run = Run(tmp_path / f"{standby}", gpu="auto", **LONG, **changes)
        began = time.monotonic()
        run.finish("--cores", "1", "--resources", "gpu=1")  # the machine has more of both
        seconds[standby] = time.monotonic() - began
        run.check()
        assert_same(arrays(run), arrays(one_gpu))
        assert len(devices_of(run)) == 1
        assert ("turn(s) of this run are taken" in run.logs()) == standby
        totals[standby] = [read_record(path).seconds for path in run.records()]
    assert seconds[True] < seconds[False], (seconds, totals)


def test_killed_with_a_job_that_stands_by_nothing_holds_the_gpu(gpus, one_gpu, tmp_path):
    run = Run(tmp_path / "run", gpu="auto", **LONG, **CHUNKS)
    process = run.start("--cores", "1", "--resources", "gpu=1")
    waits = "turn(s) of this run are taken"
    wait_until(lambda: waits in run.logs(), "a job that stands by")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    lease([*gpus], pytest.fail)  # would say that it waits
    give_back()
    run.unlock()
    run.finish("--cores", "1", "--resources", "gpu=1")
    run.check()
    assert_same(arrays(run), arrays(one_gpu))
    assert not run.leftovers()


def test_commands_and_training_compute_on_a_gpu_that_is_free(gpus, tmp_path):
    few = {"diffusion": {"timestep_respacing": 4}, "evaluation": {"resamples": 100}}
    run = Run(tmp_path / "run", gpu="auto", compare=STUDY, **few, **CHUNKS)
    (run.folder / "training.yaml").write_text(yaml.safe_dump(TRAINING))
    run.finish("--cores", "4", "--resources", "gpu=1")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, gpus[0]], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(gpus[:2])}
    snakemake = ["snakemake", "-s", f"{REPO}/Snakefile", "--cores", "4", "--resources", "gpu=1"]
    cdm = [sys.executable, "-m", "cdm"]
    commands = {
        "estimate": [*cdm, "estimate", "--configfile", "mine.yaml"],
        "resample": [*cdm, "verify", "outputs/run/contact_maps.zarr", "--resample", "1"],
        "train": [*snakemake, "--configfile", "mine.yaml", "training.yaml", "--", "train"],
        "compare_samplers": [*snakemake, "--configfile", "mine.yaml", "--", "compare_samplers"],
    }
    try:
        assert holder.stdout.readline().strip() == gpus[0]
        for name, command in commands.items():
            done = subprocess.run(
                command, cwd=run.folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
            said = done.stdout + done.stderr
            for log in (run.folder / "outputs").glob(f"*/logs/{name}*.log"):
                said += log.read_text()
            assert set(re.findall(r"computing on (\S+)", said)) == {gpus[1]}, f"{name}: {said}"
    finally:
        holder.kill()
        holder.wait()
