"""Values are read as the type the schema wants; a wrong one names the place and the way out."""

import datetime
import re

import pytest
from helpers import overlay, raw_config

from cdm.config import load_config
from cdm.config.schema import all_keys
from cdm.errors import ConfigError

REAL = {"exp_dir": "outputs/my_exp"}


def refused(**changes) -> str:
    """What is said about changes that are not valid."""
    with pytest.raises(ConfigError) as error:
        load_config(overlay(raw_config(**REAL), changes))
    return str(error.value)


def test_command_line_strings_are_read_as_the_type_the_schema_wants():
    config = load_config(
        raw_config(
            exp_name="12",
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
    rate = load_config(raw_config(exp_dir="x", training={"lr": "1e-4"})).training.lr
    assert rate == 1e-4
    assert load_config(raw_config(exp_dir="x", gpu=0)).gpu == 0
    assert load_config(raw_config(exp_dir="x", gpu="1")).gpu == 1
    training = load_config(raw_config(exp_dir="x", training={"steps": "500_000"})).training
    assert training.steps == 500_000


@pytest.mark.parametrize("name", ["007", "2024_10_01", "1e3", "2024-10-01", "no", "1.10"])
def test_text_keys_keep_what_was_typed(name):
    config = load_config(raw_config(exp_name=name, exp_dir=name))
    assert (config.exp_name, config.exp_dir) == (name, name)


def test_a_number_for_a_text_key_is_refused_as_what_was_typed_is_lost():
    for value in (7, 1.1, datetime.date(2024, 10, 1)):
        for key in ("exp_name", "exp_dir"):
            assert f"{key}: found" in refused(**{key: value})
    assert "exp_name: found the number 7, expected text" in refused(exp_name=7)


@pytest.mark.parametrize(
    "text", ["3.0", "010", "1e2", "0x10", "12:30", "", "٣", "1__0", "9" * 5000, "three"]
)
def test_only_plain_decimals_are_integers(text):
    assert "sampling.batch_size: found" in refused(sampling={"batch_size": text})


def test_a_float_is_no_integer_even_where_it_is_whole():
    message = refused(sampling={"batch_size": 3.0}, gpu=1.0, dataset={"data_repr_joints": [0.0]})
    for place in ("sampling.batch_size: found 3.0", "gpu: found 1.0", "joints.0: found 0.0"):
        assert place in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), ".nan", "inf", 0, -1, 1e300, True])
def test_sigma_is_a_width_in_metres(value):
    assert "dataset.sigma: found" in refused(dataset={"sigma": value})


@pytest.mark.parametrize("name", [".", "..", "a\n", "a/b", "", " a", "a\0", "x" * 201, "ü"])
def test_a_run_name_is_one_plain_folder(name):
    assert "exp_name: found" in refused(exp_name=name)


def test_several_gpus_are_told_where_to_ask_for_them():
    assert "--resources gpu=2" in refused(gpu="0,1")


def test_a_dotted_key_is_shown_nested():
    message = refused(**{"sampling.batch_size": "2"})
    assert "sampling: {batch_size: ...}, or --config sampling='{batch_size: ...}'" in message
    message = refused(**{"model.scene_model.freeze": "x"})
    assert "model: {scene_model: {freeze: ...}}, or" in message


def test_a_section_that_is_no_section_lists_its_keys():
    message = refused(diffusion="foo")
    assert 'diffusion: found "foo", expected keys with values: steps, noise_schedule' in message
    assert len(message) < 300
    assert "diffusion: found null" in refused(diffusion=None)


def test_number_keys_are_unknown_keys():
    assert "unknown key 'sampling.1'" in refused(**{"sampling": {1: 2}})


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
        (
            {"sampling": {"batch_size": 0}},
            'batch_size: found 0, expected a whole number, at least 1, or "auto" (',
        ),
        ({"dataset": {"data_repr": "contact"}}, 'dataset.data_repr: found "contact", expected'),
        ({"exp_name": "a/b"}, 'exp_name: found "a/b"'),
        (
            {"dataset": {"sets": ["humanise"]}},
            'dataset.sets.0: found "humanise", expected one of "HumanML3D", "HUMANISE", "PROX" '
            "(sets of ContactMapDataset, in this order)",
        ),
        ({"export": {"to": "$NO_SUCH/x"}}, "export.to: found '$NO_SUCH/x', but the variable"),
        (
            {"model": {"text_model": {"path": "s3://a/b"}}},
            "model.text_model.path: found s3://a/b, expected a path on this machine",
        ),
        ({"dataset": {"data_dir": "s3://"}}, "dataset.data_dir: found s3://, expected the name"),
    ],
)
def test_a_wrong_key_or_value_names_the_place_and_the_way_out(changes, message):
    with pytest.raises(ConfigError) as error:
        load_config(raw_config(**REAL, **changes))
    assert message in str(error.value)


def test_every_wrong_value_is_told_in_words():
    """No message has words of JSON schema in it."""
    nested = {"type": {"x": 1}, "number": -1.5, "list": [[1], [1]]}
    refusals = 0
    for key in all_keys():
        for wrong in nested.values():
            changes = wrong
            for part in reversed(key.split(".")):
                changes = {part: changes}
            try:
                load_config(raw_config(**overlay(REAL, changes)))
            except ConfigError as error:
                refusals += 1
                told = re.sub(r"\(.*\)", "", str(error))  # less the key's description
                found = re.findall(r'\benum|\bconst\b|[a-z]+Items|[eE]xclusive|inimum|type "', told)
                assert not found, error
                assert not re.search(r"expected *(,|\n|$)", told), error
    assert refusals > 200


def test_fp16_samples_and_does_not_train():
    config = load_config(raw_config(**REAL, sampling={"precision": "fp16"}))
    assert config.sampling.precision == "fp16"
    message = refused(training={"precision": "fp16"})
    assert 'training.precision: found "fp16", expected one of "auto", "bf16", "fp32"' in message
    assert "fp16 is for sampling only, because small gradients would become 0 in it" in message


def test_a_missing_key_is_named():
    raw = raw_config(**REAL)
    del raw["sampling"]["precision"]
    with pytest.raises(ConfigError, match=r"missing key 'sampling\.precision'"):
        load_config(raw)


def test_missing_keys_are_each_told_once():
    with pytest.raises(ConfigError) as error:
        load_config({"exp_name": "x"})
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == len(set(lines)) == 11
    assert "  missing key 'dataset' (see config/config.yaml)" in lines


@pytest.mark.parametrize("number", ["18446744073709551616", "1" + "0" * 30, 10**30])
@pytest.mark.parametrize("section, key", [("evaluation", "seed"), ("workflow", "chunk_size")])
def test_a_number_that_no_plan_can_hold_is_refused(section, key, number):
    message = refused(**{section: {key: number}})
    assert f"{section}.{key}: found " in message and "expected a number below 2^64" in message


def test_data_on_this_machine_may_have_a_file_url():
    config = load_config(raw_config(**REAL, dataset={"data_dir": "file:///data/my%20rooms"}))
    assert config.dataset.data_dir == "/data/my rooms"


def test_a_learning_rate_that_no_float32_holds_is_refused():
    assert "training.lr: found 1e+300, expected" in refused(training={"lr": 1e300})
