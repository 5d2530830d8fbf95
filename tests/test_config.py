"""The configuration: every key in one place, nothing unknown, nothing silent."""

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


def test_command_line_strings_are_read_as_the_type_the_schema_wants():
    config = load_config(
        raw_config(
            exp_name=12,
            exp_dir="x",
            gpu="null",
            sampling={"batch_size": "16", "eta": "0"},
            dataset={"sets": "[HUMANISE]", "use_color": "false", "sigma": "0.5"},
            diffusion={"timestep_respacing": 50},
        )
    )
    assert (config.exp_name, config.gpu, config.sampling.batch_size) == ("12", None, 16)
    assert config.dataset.sets == ("HUMANISE",)
    assert (config.dataset.use_color, config.dataset.sigma) == (False, 0.5)
    rate = load_config(raw_config(exp_dir="x", training={"lr": yaml.safe_load("1e-4")})).training.lr
    assert rate == 1e-4  # which YAML takes for text
    assert load_config(raw_config(exp_dir="x", gpu=0)).gpu == 0
    assert load_config(raw_config(exp_dir="x", gpu="1")).gpu == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sampling": {"batchsize": 4}},
            "'sampling.batchsize'; did you mean 'sampling.batch_size'",
        ),
        ({"dataset": {"batch_size": 4}}, "did you mean 'sampling.batch_size'?"),
        ({"trans_dim": 4}, "did you mean 'model.arch_pointmamba.trans_dim'?"),
        ({"task": {}}, "unknown key 'task'; the nearest valid key is"),
        ({"sampling": {"batch_size": 0}}, "sampling.batch_size: found 0, expected type"),
        ({"dataset": {"data_repr": "contact"}}, 'dataset.data_repr: found "contact", expected'),
        ({"exp_name": "a/b"}, 'exp_name: found "a/b"'),
    ],
)
def test_a_wrong_key_or_value_names_the_place_and_the_way_out(changes, message):
    with pytest.raises(ConfigError) as error:
        load_config(raw_config(**REAL, **changes))
    assert message in str(error.value)


def test_a_missing_key_is_named():
    raw = raw_config(**REAL)
    del raw["sampling"]["precision"]
    with pytest.raises(ConfigError, match=r"missing key 'sampling\.precision'"):
        load_config(raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"data_repr": "contact_pelvis"}},
            "the model would be asked for maps it was not",
        ),
        ({"sampling": {"eta": 0.5}}, "ddpm, which has no eta"),
        ({"sampling": {"method": "dpmpp_2m", "eta": 1}}, "dpmpp_2m, which has no eta"),
        ({"dataset": {"min_horizon": 200}}, "no clip can be"),
        ({"model": {"scene_model": {"use_scene_model": True}}}, "pretrained_weight is null"),
        (
            {
                "dataset": {"use_openscene": True},
                "model": {"scene_model": {"use_scene_model": True, "use_openscene": False}},
            },
            "set dataset.use_openscene: false",
        ),
        (
            {"model": {"scene_model": {"use_scene_model": True, "use_color": False}}},
            "use_color is False but dataset.use_color is True",
        ),
        (
            {"model": {"scene_model": {"use_scene_model": True, "num_points": 9}}},
            "num_points is 9 but dataset.num_points is 8192",
        ),
        ({"model": {"text_model": {"version": "hashing", "path": "p"}}}, "hashing, which has no"),
    ],
)
def test_contradictory_settings_are_errors_that_say_what_to_change(changes, message):
    with pytest.raises(ConfigError) as error:
        load_config(overlay(raw_config(**REAL), changes))
    assert message in str(error.value)


def test_the_demo_runs_only_when_neither_data_nor_checkpoint_is_named():
    assert is_demo(raw_config())
    assert not is_demo(raw_config(**REAL))
    assert not is_demo(raw_config(dataset={"data_dir": "d"}))
    assert demo_config().is_demo_data


def test_an_experiment_without_data_dir_reads_the_data_folder_beside_it():
    assert load_config(raw_config(**REAL)).data_dir == "data"


def test_outputs_lie_under_the_run_name_only():
    assert demo_config(exp_name="mine").run_dir == "outputs/mine"


@pytest.mark.parametrize("name", ["archive", "sampling", "evaluation"])
def test_environments_pin_what_the_constraints_pin(name):
    constraints = (REPO / "constraints.txt").read_text().splitlines()
    environment = yaml.safe_load((REPO / f"envs/{name}.yaml").read_text())
    pins = environment["dependencies"][-1]["pip"]
    assert pins and not set(pins) - set(constraints)
