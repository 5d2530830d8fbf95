"""The trial of a chunk job: what is concluded from its chunks, and one real trial."""

import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import plan_run

from cdm.commands import trial as module
from cdm.commands.trial import PartClock, Trial, main, measure
from cdm.commands.try_out import make_trial
from cdm.files import read_json
from cdm.run.dataset import open_dataset


class FakeChunks:
    """Chunks whose seconds are known: a map takes 0.5 s and 0.1 s a step; 3 s for the first use."""

    def __init__(self, kind, batch):
        self.kind, self.batch, self.made = kind, batch, []

    def __call__(self, trial, size, num_steps, clock=None):
        maps = -(-size // self.batch)
        sample_s = maps * (0.5 + num_steps * 0.1) + 3.0 * (not self.made)
        self.made.append((size, num_steps))
        if clock:
            clock.began |= {"wait": clock.zero + 7.0, "sample": clock.zero + 8.5}
        record = SimpleNamespace(provenance={"device": {"kind": self.kind}})
        return SimpleNamespace(
            record=record, size=size, sample_s=sample_s, write_s=0.2 + 0.04 * size,
            num_bytes=4_000_000 * size,
        )  # fmt: skip


def fake_trial(monkeypatch, kind, batch=1, samples=8, num_steps=100):
    """(what is measured, the chunks that were made)"""
    chunks = FakeChunks(kind, batch)
    monkeypatch.setattr(module, "_make_chunk", chunks)
    monkeypatch.setattr(module, "_read_items", lambda trial: 0.03)
    monkeypatch.setattr(module, "_merge", lambda trial, made: 0.25)
    clock = PartClock()
    clock.zero, clock.seconds["plan"] = clock._began, 0.5
    config = SimpleNamespace(sampling=SimpleNamespace(batch_size=batch))
    plan = SimpleNamespace(config=config)
    trial = Trial(plan, [("sample", ["file"])] * samples, list(range(num_steps)), threads=1)
    return measure(trial, clock), chunks.made


def test_a_step_and_a_map_are_told_apart(monkeypatch):
    found, _ = fake_trial(monkeypatch, "cpu", samples=2)
    assert (found.step_s, found.batch_s) == (pytest.approx(0.1), pytest.approx(0.5))
    assert (found.first_s, found.batch_maps) == (pytest.approx(3.0), 1)
    assert found.byte_s == module.USUAL_BYTE_S  # a few kilobytes tell nothing
    assert (found.item_s, found.merge_s) == (0.03, 0.75)


def test_the_start_ends_where_the_job_needs_its_device(monkeypatch):
    found, _ = fake_trial(monkeypatch, "cpu")
    assert found.ready_s == pytest.approx(7.0, abs=0.1)
    assert found.device_s == pytest.approx(1.5)


def test_a_batch_of_a_gpu_is_measured_full(monkeypatch):
    found, made = fake_trial(monkeypatch, "cuda", batch=4)
    assert (found.step_s, found.batch_s) == (pytest.approx(0.1), pytest.approx(0.5))
    assert (found.batch_maps, made[1][0]) == (4, 4)
    assert found.byte_s == pytest.approx(1e-8)  # a chunk of one map beside one of four


@pytest.mark.parametrize("num_steps", [1, 2, 3, 18, 1000])
def test_a_trial_is_short_whatever_the_chain(monkeypatch, num_steps):
    found, made = fake_trial(monkeypatch, "cpu", num_steps=num_steps)
    assert max(steps for _, steps in made) <= num_steps
    seconds = sum(size * (0.5 + steps * 0.1) for size, steps in made)
    assert seconds < 3 * module.TIMED_S
    predicted = found.batch_s + num_steps * found.step_s
    assert predicted == pytest.approx(0.5 + num_steps * 0.1, rel=0.2)


def test_a_real_trial_tells_the_parts_of_a_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, samples = plan_run(tmp_path, sampling={"k_samples": 2})
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    folder = tmp_path / "outputs" / "trial"
    trial = make_trial(plan, dataset, samples, folder, threads=1)
    (folder / "trial.pickle").write_bytes(pickle.dumps(trial))
    assert main([str(folder / "trial.pickle"), str(folder / "found.json")]) == 0
    found = read_json(folder / "found.json")
    assert found["device"]["kind"] == "cpu" and found["batch_maps"] == 1
    for part in ("ready_s", "device_s", "write_s", "step_s", "item_s", "merge_s"):
        assert found[part] > 0, part
    assert found["ready_s"] > found["item_s"]


@pytest.mark.parametrize(("quiet", "options", "times"), [(False, [], 1), (True, [], 0)])
def test_what_the_device_says_is_said_once(tmp_path, monkeypatch, capsys, quiet, options, times):
    monkeypatch.chdir(tmp_path)
    module._tell.cache_clear()
    plan, samples = plan_run(tmp_path)
    monkeypatch.setattr("cdm.run.generate.generate_chunk", lambda plan, chunk, log, *_: log("CPU"))
    trial = Trial(plan, [(sample, []) for sample in samples], [0, 1], 1, quiet)
    clock = PartClock()
    clock.began["sample"] = clock.ended["sample"] = 0.0
    for _ in range(3):
        module._make_chunk(trial, 1, 1, clock)
    assert capsys.readouterr().err == "CPU\n" * times


def test_what_a_job_would_end_with_is_handed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, samples = plan_run(tmp_path)
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    folder = tmp_path / "outputs" / "trial"
    trial = make_trial(plan, dataset, samples, folder, threads=1)
    other = replace(trial.plan.checkpoint, sha256="0" * 64)
    trial = replace(trial, plan=replace(trial.plan, checkpoint=other))
    (folder / "trial.pickle").write_bytes(pickle.dumps(trial))
    assert main([str(folder / "trial.pickle"), str(folder / "found.json")]) == 0
    found = read_json(folder / "found.json")
    assert found["kind"] == "CheckpointError" and ".pt" in found["error"]
