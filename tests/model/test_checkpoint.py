"""Checkpoints: found, read off without torch, and refused with every key named."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import DEMO_ARCHITECTURE, REPO, demo_config, overlay, raw_config

import cdm.model.checkpoint
from cdm.config import load_config
from cdm.errors import CheckpointError
from cdm.model.checkpoint import DEMO_EXP_DIR, find_checkpoint, inspect_checkpoint
from cdm.model.state_dict import load_state_dict, read_shapes
from cdm.training.initial_weights import initial_state_dict

CONFIG = demo_config()


def save(folder, state, name="model000100.pt"):
    path = folder / "ckpt" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


@pytest.fixture
def state():
    return {
        key: torch.from_numpy(value.copy())
        for key, value in initial_state_dict(DEMO_ARCHITECTURE).items()
    }


def test_the_newest_checkpoint_by_natural_order_is_used(tmp_path, state):
    for name in ("model000200.pt", "model1000000.pt", "model000900.pt"):
        save(tmp_path, {"x": torch.zeros(1)}, name)
    assert find_checkpoint(str(tmp_path)).name == "model1000000.pt"


@pytest.mark.parametrize(
    ("made", "seen"),
    [((), "no such folder"), (("exp",), "has no ckpt/"), (("exp", "exp/ckpt"), "holds nothing")],
)
def test_no_checkpoint_says_where_it_looked_and_what_is_there(tmp_path, made, seen):
    for name in made:
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError) as error:
        find_checkpoint(str(tmp_path / "exp"))
    assert f"{tmp_path}/exp/ckpt/model*.pt" in str(error.value)
    assert seen in str(error.value) and "exp_dir=" in str(error.value)


def test_shapes_read_without_torch_are_those_torch_loads(tmp_path, state):
    path = save(tmp_path, state)
    assert read_shapes(path) == {key: tuple(value.shape) for key, value in state.items()}


def test_every_parity_checkpoint_reads_the_same_without_torch(parity):
    paths = sorted(parity.glob("*/exp/ckpt/*.pt"))
    assert paths
    for path in paths:
        loaded = torch.load(path, weights_only=True)
        assert read_shapes(path) == {key: tuple(value.shape) for key, value in loaded.items()}


def test_only_the_first_inspection_of_a_checkpoint_imports_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = (
        "import sys; from cdm.commands.config_files import read_config; import cdm.run.plan\n"
        "from cdm.model.checkpoint import inspect_checkpoint, find_checkpoint\n"
        "before = 'torch' in sys.modules\n"
        "found = inspect_checkpoint(find_checkpoint('demo'), read_config([], []))\n"
        "print(before, 'torch' in sys.modules, found.architecture)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [run.stdout.strip() for run in runs] == [
        f"False {torch_is_there} {DEMO_ARCHITECTURE}" for torch_is_there in (True, False)
    ], runs[0].stderr + runs[1].stderr


@pytest.fixture
def inferred(monkeypatch):
    """How often shapes were asked for an architecture."""
    calls = []
    real = cdm.model.checkpoint._infer
    monkeypatch.setattr(cdm.model.checkpoint, "_infer", lambda *a: calls.append(a) or real(*a))
    return calls


def test_what_is_remembered_holds_for_these_shapes_configuration_and_source(
    tmp_path, monkeypatch, state, inferred
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save(tmp_path, state)
    for _ in range(2):
        inspect_checkpoint(path, CONFIG)
    save(tmp_path, state | {"module.text_model.x": torch.zeros(1)})
    inspect_checkpoint(path, CONFIG)
    assert len(inferred) == 1
    inspect_checkpoint(path, demo_config(model={"time_emb_dim": 96}))
    assert len(inferred) == 2
    monkeypatch.setattr(cdm.model.checkpoint, "SOURCES", cdm.model.checkpoint.SOURCES[1:])
    inspect_checkpoint(path, CONFIG)
    assert len(inferred) == 3
    with pytest.raises(CheckpointError):
        inspect_checkpoint(save(tmp_path, state | {"extra": torch.zeros(1)}), CONFIG)


@pytest.mark.parametrize("damage", ["truncate", "empty", "other", "readonly"])
def test_a_damaged_or_unwritable_cache_costs_time_only(
    tmp_path, monkeypatch, state, inferred, damage
):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    path = save(tmp_path, state)
    if damage == "readonly":
        cache.write_text("a file where a folder should be")
    else:
        inspect_checkpoint(path, CONFIG)
        [kept] = cache.glob("contact-maps/*.json")
        whole = kept.read_bytes()
        kept.write_bytes({"truncate": whole[:-9], "empty": b"", "other": b"[1]"}[damage])
    for _ in range(2):
        assert inspect_checkpoint(path, CONFIG).architecture == DEMO_ARCHITECTURE
    assert len(inferred) == 2


def test_the_shipped_demo_weights_are_trained_and_small():
    path = find_checkpoint("demo")
    assert inspect_checkpoint(path, CONFIG).architecture == DEMO_ARCHITECTURE
    assert sum(file.stat().st_size for file in DEMO_EXP_DIR.rglob("*.*")) < 4e6
    shipped, made = load_state_dict(path), initial_state_dict(DEMO_ARCHITECTURE)
    assert all(torch.isfinite(value).all() for value in shipped.values())
    np.testing.assert_array_equal(shipped["timestep_embedder.pe"], made["timestep_embedder.pe"])
    assert not np.allclose(shipped["contact_layer.weight"], made["contact_layer.weight"])


def test_data_parallel_prefix_and_frozen_encoders_are_taken_off(tmp_path, state):
    wrapped = {f"module.{key}": value for key, value in state.items()}
    wrapped["module.text_model.token_embedding.weight"] = torch.zeros(3, 4)
    path = save(tmp_path, wrapped)
    assert inspect_checkpoint(path, CONFIG).architecture == DEMO_ARCHITECTURE
    assert sorted(load_state_dict(path)) == sorted(state)


def test_missing_unexpected_and_misshapen_keys_are_all_listed(tmp_path, state):
    del state["contact_model.layers.1.mamba.D"]
    state["contact_model.extra"] = torch.zeros(2)
    state["contact_model.out_proj.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as error:
        inspect_checkpoint(save(tmp_path, state), CONFIG)
    message = str(error.value)
    assert "contact_model.layers.1.mamba.D is missing" in message
    assert "contact_model.extra (2,) is unexpected" in message
    assert "contact_model.out_proj.bias is (7,), expected (96,)" in message


def test_a_key_that_decides_a_size_is_named_when_it_is_missing(tmp_path, state):
    del state["contact_layer.weight"]
    with pytest.raises(CheckpointError, match=r"key 'contact_layer\.weight' is missing"):
        inspect_checkpoint(save(tmp_path, state), CONFIG)


def test_sizes_that_contradict_the_configuration_are_named_key_by_key(tmp_path, state):
    sizes = {"trans_dim": 256, "depth": 8, "last_dim": 96}
    config = demo_config(model={"arch_pointmamba": sizes, "time_emb_dim": 128})
    with pytest.raises(CheckpointError) as error:
        inspect_checkpoint(save(tmp_path, state), config)
    message = str(error.value)
    assert "model.arch_pointmamba.trans_dim is 256, the weights have 96" in message
    assert "model.arch_pointmamba.depth is 8, the weights have 6" in message
    assert "model.time_emb_dim is 128, the weights have 96" in message
    assert "last_dim" not in message


def test_a_text_model_of_another_width_is_named(tmp_path, state):
    changes = {"exp_dir": "x", "model": {"text_model": {"version": "ViT-B/32"}}}
    config = load_config(overlay(raw_config(), changes))
    with pytest.raises(CheckpointError, match=r"check model\.text_model\.version \(ViT-B/32\)"):
        inspect_checkpoint(save(tmp_path, state), config)


def test_joints_that_the_weights_do_not_have_are_named(tmp_path, state):
    config = demo_config(dataset={"data_repr": "contact_pelvis"})
    with pytest.raises(CheckpointError, match=r"has 1 joints, the weights .* have 6"):
        inspect_checkpoint(save(tmp_path, state), config)


def test_an_unknown_layout_is_told_with_its_unexpected_keys(tmp_path, state):
    shared = {key: x for key, x in state.items() if not key.startswith("contact_model.")}
    own = {f"contact_model.unet.{i}.weight": torch.zeros(2, i) for i in range(40)}
    with pytest.raises(CheckpointError) as error:
        inspect_checkpoint(save(tmp_path, shared | own), CONFIG)
    message = str(error.value)
    assert "no backbone known here (PointMamba" in message
    assert "contact_model.unet.3.weight (2, 3)" in message and "and 10 more" in message
    assert "contact_layer" not in message


def test_another_backbone_than_the_configured_one_is_named(tmp_path, state):
    with pytest.raises(CheckpointError, match="arch is MLP, the weights have PointMamba"):
        inspect_checkpoint(save(tmp_path, state), demo_config(model={"arch": "MLP"}))


def test_a_tensor_with_too_few_axes_is_named(tmp_path, state):
    state["contact_layer.weight"] = torch.zeros(6)
    with pytest.raises(CheckpointError, match=r"contact_layer.weight is \(6,\), expected 2 axes"):
        inspect_checkpoint(save(tmp_path, state), CONFIG)


def test_a_truncated_or_flipped_checkpoint_is_refused(tmp_path, state):
    path = save(tmp_path, state)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="it may be truncated"):
        read_shapes(path)
    flipped = bytearray(whole)
    flipped[whole.index(state["contact_layer.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_shapes(path)


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("it ran",)

    with pytest.raises(CheckpointError, match="not a plain state dict"):
        read_shapes(save(tmp_path, {"contact_layer.weight": Evil()}))


def test_a_training_state_instead_of_weights_is_refused(tmp_path, state):
    with pytest.raises(CheckpointError, match="found step, expected a dict of tensors"):
        read_shapes(save(tmp_path, {"step": 3}))


def test_a_checkpoint_that_changed_since_the_plan_is_refused(tmp_path, state):
    path = save(tmp_path, state)
    with pytest.raises(CheckpointError, match="changed since the run was planned"):
        load_state_dict(path, sha256="0" * 64)
