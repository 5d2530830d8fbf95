"""The configuration: every key in one place, and the shipped files are valid."""

import jsonschema
import pytest
import yaml
from helpers import REPO, demo_config, overlay, raw_config

from cdm.config import SCHEMA, is_demo, load_config
from cdm.errors import ConfigError

REAL = {"exp_dir": "outputs/my_exp"}


def leaves(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def schema_leaves(schema: dict, prefix: str = ""):
    for key, sub in schema["properties"].items():
        if "properties" in sub:
            yield from schema_leaves(sub, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_schema_and_default_config_have_the_same_keys():
    schema = yaml.safe_load(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert sorted(leaves(raw_config())) == sorted(schema_leaves(schema))


def test_every_key_has_a_description():
    def check(schema, path):
        for key, sub in schema["properties"].items():
            assert sub.get("description"), f"{path}{key}"
            if "properties" in sub:
                check(sub, f"{path}{key}.")

    check(yaml.safe_load(SCHEMA.read_text()), "")


@pytest.mark.parametrize("name", ["demo.yaml", "test.yaml"])
def test_shipped_configs_are_valid(name):
    changes = yaml.safe_load((REPO / "config" / name).read_text())
    load_config(overlay(raw_config(**REAL), changes))


def test_the_demo_runs_only_when_neither_data_nor_checkpoint_is_named():
    assert is_demo(raw_config())
    assert not is_demo(raw_config(**REAL))
    assert not is_demo(raw_config(dataset={"data_dir": "d"}))
    assert not is_demo(raw_config(reference="theirs.yaml"))
    assert demo_config().is_demo_data


def test_paths_take_the_home_folder_and_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/scratch/data")
    config = load_config(
        raw_config(
            exp_dir="~/exp",
            dataset={"data_dir": "$DATA/afford", "statistics": "${DATA}/s.npz"},
            model={
                "text_model": {"path": "~/clip"},
                "scene_model": {"pretrained_weight": "~/w.pth"},
            },
        )
    )
    assert config.checkpoint_dir == f"{tmp_path}/exp"
    assert (config.data_dir, config.dataset.statistics) == (
        "/scratch/data/afford",
        "/scratch/data/s.npz",
    )
    assert config.model.text_model.path == f"{tmp_path}/clip"
    assert config.model.scene_model.pretrained_weight == f"{tmp_path}/w.pth"
    assert load_config(config.as_dict()) == config


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ConfigError, match=r"exp_dir: found '\$NOWHERE/exp', but the variable"):
        load_config(raw_config(exp_dir="$NOWHERE/exp"))


def test_an_experiment_without_data_dir_reads_the_data_folder_beside_it():
    assert load_config(raw_config(**REAL)).data_dir == "data"


@pytest.mark.parametrize("name", ["archive", "sampling", "evaluation"])
def test_environments_pin_what_the_constraints_pin(name):
    constraints = (REPO / "constraints.txt").read_text().splitlines()
    environment = yaml.safe_load((REPO / f"envs/{name}.yaml").read_text())
    pins = environment["dependencies"][-1]["pip"]
    assert pins and not set(pins) - set(constraints)


def test_a_configuration_of_afford_motion_is_told_where_to_go():
    with pytest.raises(ConfigError, match="--config reference=FILE"):
        load_config(raw_config(**REAL, task={"dataset": {"sigma": 0.8}}))


def test_values_of_an_older_plan_that_lack_the_newest_keys_are_read():
    values = demo_config().as_dict()
    for key in ("reference", "trust"):
        del values[key]
    del values["dataset"]["statistics_sets"]
    assert load_config(values) == demo_config()
