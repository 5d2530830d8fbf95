"""What a job loads is what was planned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import plan_run

from cdm.datasets.statistics import Statistics, save_statistics
from cdm.errors import ArchiveError, CheckpointError
from cdm.run.load import encode_texts, load_model, planned_statistics
from cdm.run.plan import PlannedStatistics


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)[0]


def write_statistics(path, mean=0.2):
    mean, std = np.full((1, 6), mean, np.float32), np.full((1, 6), 0.3, np.float32)
    save_statistics(path, Statistics(mean, std, ""))
    return {"mean": mean.tolist(), "std": std.tolist()}


def test_statistics_must_hold_the_planned_numbers(plan):
    path = Path("Mean_Std.npz")
    plan = replace(plan, statistics=PlannedStatistics(str(path), write_statistics(path)))
    assert planned_statistics(plan).numbers() == plan.statistics.values
    write_statistics(path, mean=0.21)
    with pytest.raises(ArchiveError, match="changed since the run was planned"):
        planned_statistics(plan)


def test_computed_statistics_were_not_known_to_the_plan(plan):
    path = Path("Mean_Std.npz")
    plan = replace(plan, statistics=PlannedStatistics(str(path), None))
    numbers = write_statistics(path)
    assert planned_statistics(plan).numbers() == numbers


def test_equal_captions_are_encoded_once(plan):
    features = encode_texts(plan, ["sit", "walk", "sit"], "cpu")
    assert sorted(features) == ["sit", "walk"]
    assert features["sit"].shape == (plan.architecture.text_feat_dim,)
    assert features["sit"].dtype == torch.float32
    assert not torch.equal(features["sit"], features["walk"])
    again = encode_texts(plan, ["sit"], "cpu")  # a feature does not depend on its neighbours
    assert torch.equal(again["sit"], features["sit"])


def test_the_model_is_the_planned_checkpoint(plan):
    model = load_model(plan, "cpu")
    assert model.architecture == plan.architecture and not model.training
    state = torch.load(plan.checkpoint.path, weights_only=True)
    assert torch.equal(model.state_dict()["contact_layer.bias"], state["contact_layer.bias"])


def test_another_checkpoint_under_the_planned_name_is_refused(plan):
    other = replace(plan, checkpoint=replace(plan.checkpoint, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="changed since the run was planned"):
        load_model(other, "cpu")
