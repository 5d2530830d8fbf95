"""`cdm estimate`: what follows from a trial's seconds."""

import json
from dataclasses import replace

import pytest
from helpers import plan_run, run_config

from cdm.__main__ import main
from cdm.archive.layout import Layout
from cdm.commands import estimate as module
from cdm.commands.estimate import archive_bytes, describe_estimate, estimate
from cdm.commands.run_time import DISPATCH_S
from cdm.commands.trial import TrialTimes

# A job of 6 s before its first map, 1 s after its last; a map takes 0.5 s and 0.25 s a step.
TIMES = TrialTimes(
    device={"kind": "cpu", "name": "CPU", "threads": 1},
    ready_s=4.0, device_s=1.5, first_s=0.5, write_s=1.0, batch_s=0.5, step_s=0.25, merge_s=2.0,
)  # fmt: skip
GPU = replace(TIMES, device={"kind": "cuda", "name": "H200", "threads": None}, batch_maps=2)
WITH_STANDBY = {"gpu": "auto"}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, TIMES)
    return plan_run(tmp_path)  # 7 samples in chunks of 3, batches of 2, 2 steps


def use(monkeypatch, times, num_devices=0):
    """Have a trial give these times, on a machine with so many GPUs."""
    monkeypatch.setattr(module, "try_out", lambda *_: times)
    monkeypatch.setattr(module, "count_devices", lambda gpu: num_devices)
    monkeypatch.setattr(module, "_snakemake_s", lambda: 2.0)
    monkeypatch.setattr(module, "_hash_s", lambda: 0.0)


def quiet(line):
    pass


def test_chunks_are_charged_the_maps_they_have(planned):
    found = estimate(*planned, quiet, cores=1, plan_s=3.0)
    assert (found.num_samples, found.num_maps, found.batch_size, found.num_steps) == (7, 7, 2, 2)
    assert (found.jobs, found.turns, found.threads) == (1, 1, 1)
    # Snakemake 2 + 0.5, the plan 3; three jobs of 7 s, seven maps of a second; the merge 2
    assert found.seconds == pytest.approx(2 + 0.5 + 3 + 3 * 7 + 7 + 2 * DISPATCH_S + 2)
    assert found.device_hours == pytest.approx((3 * 2 + 7) / 3600)
    assert found.minutes_per_chunk == pytest.approx((7 + 3) / 60)
    assert found.seconds_on_four is None and found.suggested_chunk_size is None


def test_jobs_that_compute_beside_each_other_share_the_time(planned):
    alone = estimate(*planned, quiet, cores=1)
    two = estimate(*planned, quiet, cores=2)
    assert (two.jobs, two.turns, two.threads) == (2, 2, 1)
    # two chunks of 10 s beside each other, then the one of 8 s
    assert two.seconds == pytest.approx(alone.seconds - 10 - DISPATCH_S)


def test_the_fast_sampler_has_its_own_figure(planned):
    found = estimate(*planned, quiet, cores=1)
    assert found.fast_steps == 20
    assert found.fast_seconds == pytest.approx(found.seconds + 7 * 18 * 0.25)
    assert "20 steps in place of 2, with config/fast.yaml: about 0:01:" in describe_estimate(found)
    too_short = replace(found, fast_steps=None, fast_seconds=None)
    assert "fast.yaml" not in describe_estimate(too_short)


def test_a_start_behind_sampling_is_counted_once_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, GPU, num_devices=1)
    plan, samples = plan_run(tmp_path, diffusion={"timestep_respacing": "100"})
    found = estimate(plan, samples, quiet, cores=8)
    assert (found.jobs, found.turns, found.gpus) == (2, 1, 1)
    # batches of 0.5 + 25 s: two for a chunk of three, one for the last; only one start and end
    sampling = 3 * 2.0 + (2 + 2 + 1) * 25.5
    assert found.seconds == pytest.approx(2 + 0.5 + 4.0 + sampling + 1.0 + 2.0)
    assert found.device_hours == pytest.approx(sampling / 3600)
    assert found.seconds_on_four < found.seconds / 2
    assert "on four GPUs" in describe_estimate(found) and "1 stand by" in describe_estimate(found)
    four = estimate(plan, samples, quiet, cores=32, gpus=4)
    assert four.seconds == found.seconds_on_four and four.device_hours == found.device_hours
    assert "on four GPUs" not in describe_estimate(four)


def test_without_standby_every_start_counts_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, GPU, num_devices=1)
    planned = plan_run(tmp_path, diffusion={"timestep_respacing": "100"})
    with_standby = estimate(*planned, quiet, cores=8)
    planned = plan_run(
        tmp_path, diffusion={"timestep_respacing": "100"}, workflow={"standby": False}
    )
    found = estimate(*planned, quiet, cores=8)
    assert found.jobs == found.turns == 1
    assert found.seconds == pytest.approx(with_standby.seconds + 2 * (4.0 + 1.0 + DISPATCH_S))


def test_a_gpu_that_torch_cannot_use_is_none(planned, monkeypatch):
    use(monkeypatch, TIMES, num_devices=2)
    found = estimate(*planned, quiet, cores=1)
    assert (found.gpus, found.seconds_on_four) == (0, None)


def test_a_size_is_suggested_if_asked_for(planned):
    found = estimate(*planned, quiet, cores=1, minutes_per_chunk=12.5 / 60)
    assert found.suggested_chunk_size == 5  # 7 s, and five maps of a second
    assert found.suggested_minutes == pytest.approx(12 / 60)
    assert "--config 'workflow={chunk_size: 5}'" in describe_estimate(found)
    longer = estimate(*planned, quiet, cores=1, minutes_per_chunk=10)
    assert longer.suggested_chunk_size == 7


def test_the_command_prints_what_it_found(planned, capsys):
    assert main(["estimate", "outputs/run", "--cores", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_maps"] == 7 and found["cores"] == 1
    assert main(["estimate", "outputs/run", "--cores", "1"]) == 0
    printed = capsys.readouterr().out
    assert "whole run     7 maps in 3 chunks: about 0:00:3" in printed
    assert "fast.yaml     20 steps" in printed


def test_the_archives_bytes_are_those_of_its_arrays(planned):
    plan, _ = planned
    layout = Layout(7, 3, 1, plan.config.dataset.num_points, 6, "float32")
    assert archive_bytes(plan) == sum(values.nbytes for values in layout.empty().values())
    half = replace(plan, config=run_config(workflow={"dtype": "float16"}))
    layout = replace(layout, dtype="float16")
    assert archive_bytes(half) == sum(values.nbytes for values in layout.empty().values())


@pytest.mark.parametrize("minutes", ["nan", "inf", "0", "-1"])
def test_a_length_that_is_none_is_refused(planned, capsys, minutes):
    assert main(["estimate", "outputs/run", f"--minutes-per-chunk={minutes}"]) == 2
    assert "expected a number of minutes above 0" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--cores=-2", "--cores=0", "--gpus=0"])
def test_a_number_that_is_none_is_refused(planned, capsys, option):
    assert main(["estimate", "outputs/run", option]) == 2
    assert "expected a number from 1 on" in capsys.readouterr().err


@pytest.mark.long
def test_a_real_trial_predicts_a_run_of_this_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan_run(tmp_path, num_items=4, sampling={"k_samples": 2})
    assert main(["estimate", "outputs/run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ready_s"] > 0.5 and found["own_s"] > 1  # Python, torch; Snakemake
    assert found["ready_s"] < found["seconds"] < 120
    assert not list((tmp_path / "outputs").glob("estimate-*"))
