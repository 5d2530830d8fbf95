"""Which entries of a file are the weights: the same for the plan and for a job, or refused."""

import numpy as np
import pytest
import torch
from helpers import DEMO_ARCHITECTURE

from cdm.errors import CheckpointError
from cdm.model.scene_model import PointTransformerSeg
from cdm.model.state_dict import (
    SCENE_WEIGHTS,
    inspect_weights,
    is_frozen,
    load_state_dict,
    read_shapes,
)
from cdm.training.initial_weights import initial_state_dict


def save(folder, content):
    torch.save(content, folder / "model1.pt")
    return folder / "model1.pt"


@pytest.fixture
def state():
    return {
        key: torch.from_numpy(value.copy())
        for key, value in initial_state_dict(DEMO_ARCHITECTURE).items()
    }


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def check(path, state, read_as):
    """Plan and job find exactly these weights; returns nothing."""
    found = inspect_weights(path)
    assert found.shapes == {key: tuple(value.shape) for key, value in state.items()}
    assert found.read_as == read_as
    loaded = load_state_dict(path, found.sha256)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_a_plain_state_dict_is_read_as_it_is(tmp_path, state):
    check(save(tmp_path, state), state, "")


def test_every_parity_checkpoint_reads_the_same_without_torch(parity):
    paths = sorted(parity.glob("*/exp/ckpt/*.pt"))
    assert paths
    for path in paths:
        loaded = torch.load(path, weights_only=True)
        assert read_shapes(path) == {key: tuple(value.shape) for key, value in loaded.items()}


@pytest.mark.parametrize("place", ["model", "state_dict", "ema", "model_state_dict", "net"])
def test_weights_under_one_name_are_found_beside_bookkeeping(tmp_path, state, place):
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
    content = {"epoch": 3, place: state, "optimizer": optimizer}
    check(save(tmp_path, content), state, f"weights under {place}; left out: epoch, optimizer")


def test_weights_two_names_down_are_found(tmp_path, state):
    content = {"checkpoint": {"model": state}}
    check(save(tmp_path, content), state, "weights under checkpoint.model")


def test_bookkeeping_beside_the_tensors_is_left_out(tmp_path, state):
    content = state | {"epoch": 3, "name": "x", "lrs": [0.1], 7: torch.zeros(1)}
    check(save(tmp_path, content), state, "left out: epoch, name, lrs, 7")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod.model."]
)
def test_prefixes_of_wrappers_are_taken_off(tmp_path, state, prefix):
    told = f"{prefix} taken out of the keys"
    check(save(tmp_path, prefixed(prefix, state)), state, told)
    check(save(tmp_path, {"ema": prefixed(prefix, state)}), state, f"weights under ema; {told}")


def test_a_part_that_was_compiled_alone_is_found(tmp_path, state):
    compiled = {
        key.replace("contact_model.", "contact_model._orig_mod."): x for key, x in state.items()
    }
    check(save(tmp_path, compiled), state, "_orig_mod. taken out of the keys")


def test_averaged_weights_of_torch_are_read_without_their_counter(tmp_path, state):
    content = prefixed("module.", state) | {"n_averaged": torch.tensor(7)}
    told = "module. taken out of the keys; left out: n_averaged"
    check(save(tmp_path, content), state, told)


def test_frozen_encoders_are_left_out(tmp_path, state):
    frozen = {
        "module.text_model.embeddings.position_ids": torch.arange(3),
        "module.scene_model.enc1.0.linear.weight": torch.zeros(2, 3),
    }
    assert all(map(is_frozen, frozen))
    content = prefixed("module.", state) | frozen
    check(save(tmp_path, content), state, "module. taken out of the keys")


# --- what is refused, by the plan and by a job ---------------------------------------------------


def refused(path):
    """The message, which plan and job must share."""
    with pytest.raises(CheckpointError) as planned:
        inspect_weights(path)
    with pytest.raises(CheckpointError) as loaded:
        load_state_dict(path)
    assert str(planned.value) == str(loaded.value)
    return str(planned.value)


def test_a_key_with_and_without_prefix_is_refused_by_both_names(tmp_path, state):
    content = state | {"module.contact_layer.bias": torch.ones(6)}
    message = refused(save(tmp_path, content))
    assert "contact_layer.bias and module.contact_layer.bias both name" in message
    content = prefixed("module.", state) | prefixed("model.", state)
    assert "both name the weight" in refused(save(tmp_path, content))


@pytest.mark.parametrize("names", [("model", "ema"), ("state_dict", "model_ema")])
def test_two_sets_of_weights_are_refused_with_what_to_type(tmp_path, state, names):
    message = refused(save(tmp_path, dict.fromkeys(names, state)))
    assert ", ".join(names) in message and f"['{names[1]}']" in message


def test_weights_in_the_file_itself_and_under_a_name_are_refused(tmp_path, state):
    assert "the file itself, ema" in refused(save(tmp_path, state | {"ema": state}))


@pytest.mark.parametrize(
    ("content", "found"),
    [({"step": 3}, "found step"), ([1], "found list"), ({}, "found"), (7, "found int")],
)
def test_a_file_without_tensors_is_refused(tmp_path, content, found):
    message = refused(save(tmp_path, content))
    assert found in message and "expected a dict of tensors such as contact_layer" in message


@pytest.mark.parametrize(
    "dtype", [torch.complex64, torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn]
)
def test_weights_of_a_type_no_model_has_are_refused_by_key(tmp_path, state, dtype):
    state["contact_layer.weight"] = state["contact_layer.weight"].to(dtype)
    name = str(dtype).removeprefix("torch.")
    message = refused(save(tmp_path, {"model": state}))
    assert f"contact_layer.weight is {name}" in message and "contact_layer.bias" not in message


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_float_types_are_taken(tmp_path, state, dtype):
    state = {key: value.to(dtype) for key, value in state.items()}
    check(save(tmp_path, state), state, "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_key(tmp_path, state, value):
    state["contact_layer.bias"][2] = value
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        content = {key: tensor.to(dtype) for key, tensor in state.items()}
        assert "NaN or infinity in contact_layer.bias;" in refused(save(tmp_path, content))


def test_a_weight_beyond_float32_is_refused(tmp_path, state):
    state["contact_layer.bias"] = torch.full((6,), 1e300, dtype=torch.float64)
    assert "NaN or infinity in contact_layer.bias;" in refused(save(tmp_path, state))


def test_a_view_of_a_storage_with_nan_elsewhere_is_taken(tmp_path, state):
    whole = torch.cat([state["contact_layer.bias"], torch.tensor([float("nan")])])
    check(save(tmp_path, state | {"contact_layer.bias": whole[:-1]}), state, "")
    content = state | {"contact_layer.bias": whole[1:]}
    inspect_weights(save(tmp_path, content))  # left to the job
    with pytest.raises(CheckpointError, match=r"NaN or infinity in contact_layer\.bias;"):
        load_state_dict(tmp_path / "model1.pt")


def test_terminal_escapes_in_keys_do_not_reach_the_terminal(tmp_path):
    message = refused(save(tmp_path, {"\x1b[31mred": 1}))
    assert "\x1b" not in message and "red" in message


def test_a_checkpoint_that_changed_since_the_plan_is_refused(tmp_path, state):
    with pytest.raises(CheckpointError, match="changed since the run was planned"):
        load_state_dict(save(tmp_path, state), sha256="0" * 64)


# --- the scene model -----------------------------------------------------------------------------


def test_a_scene_models_classifier_is_left_out_and_its_counters_are_integers(tmp_path):
    with torch.random.fork_rng():
        state = PointTransformerSeg(3).state_dict()
    content = {"epoch": 3, "state_dict": prefixed("module.", state)}
    content["state_dict"]["module.cls.0.weight"] = torch.arange(3)
    path = save(tmp_path, content)
    found = inspect_weights(path, SCENE_WEIGHTS)
    assert found.shapes == {key: tuple(value.shape) for key, value in state.items()}
    loaded = load_state_dict(path, found.sha256, SCENE_WEIGHTS)
    np.testing.assert_array_equal(loaded["enc1.0.bn.weight"], state["enc1.0.bn.weight"])


def test_a_counter_that_was_saved_as_a_float_is_taken(tmp_path, state):
    """As training here saves it."""
    key = "contact_model.bn.num_batches_tracked"
    for value in (torch.tensor(3), torch.tensor(3.0)):
        check(save(tmp_path, state | {key: value}), state | {key: value}, "")
