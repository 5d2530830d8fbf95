"""What follows from a configuration's keys."""

import json
from dataclasses import replace

import pytest
from helpers import demo_config, raw_config

from cdm.config import load_config


def test_outputs_lie_under_the_run_name_only():
    assert demo_config(exp_name="mine").run_dir == "outputs/mine"


def test_without_an_experiment_the_runs_own_folder_holds_the_checkpoint():
    trained = load_config(raw_config(exp_name="mine", dataset={"data_dir": "d"}))
    assert trained.checkpoint_dir == "outputs/mine"
    assert load_config(raw_config(exp_dir="outputs/exp")).checkpoint_dir == "outputs/exp"


@pytest.mark.parametrize(
    "data_repr, contact_dim",
    [("contact_cont_joints", 2), ("contact_all_joints", 22), ("contact_pelvis", 1)],
)
def test_a_map_has_a_column_for_each_joint(data_repr, contact_dim):
    dataset = demo_config().dataset
    chosen = replace(dataset, data_repr=data_repr, data_repr_joints=(0, 10))
    assert chosen.contact_dim == contact_dim


def test_a_configuration_survives_json():
    config = demo_config(export={"for": "train", "items": ["HUMANISE/3"]}, dataset={"phase": "all"})
    assert config.as_dict()["export"]["for"] == config.export.for_ == "train"
    assert load_config(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "tests"),
    [
        ({}, False),
        ({"dataset": {"phase": "test"}}, True),
        ({"dataset": {"name": "ContactMapCustomDataset"}}, True),
        ({"dataset": {"phase": "all"}, "export": {"for": "train"}}, False),
    ],
)
def test_stage_2_tests_on_the_test_split_and_on_scans_and_trains_on_the_rest(changes, tests):
    assert demo_config(**changes).stage_2_tests is tests
