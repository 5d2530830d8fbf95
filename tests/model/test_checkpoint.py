"""Checkpoints: found, read off without torch, and refused with every key named."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import (
    DEMO_ARCHITECTURE,
    REPO,
    demo_config,
    model_section,
    overlay,
    raw_config,
    small_architecture,
)

import cdm.model.checkpoint
from cdm.config import load_config
from cdm.errors import CheckpointError, NoCheckpoint
from cdm.files import seal, unseal
from cdm.model.checkpoint import (
    DEMO_EXP_DIR,
    expected_shapes,
    find_checkpoint,
    infer_architecture,
    inspect_checkpoint,
)
from cdm.model.state_dict import load_state_dict
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


def test_names_with_the_same_number_are_refused_whatever_the_folder_lists_first(tmp_path, state):
    for name in ("model1.pt", "model01.pt", "model0.pt"):
        save(tmp_path, {"x": torch.zeros(1)}, name)
    with pytest.raises(CheckpointError, match=r"model01\.pt and model1\.pt have the same number"):
        find_checkpoint(str(tmp_path))
    save(tmp_path, {"x": torch.zeros(1)}, "model2.pt")
    assert find_checkpoint(str(tmp_path)).name == "model2.pt"


def test_names_with_other_digits_than_ascii_are_text(tmp_path):
    for name in ("model\u00b2.pt", "model1.pt"):
        save(tmp_path, {"x": torch.zeros(1)}, name)
    assert find_checkpoint(str(tmp_path)).name == "model\u00b2.pt"


@pytest.mark.parametrize("folder", ["a\0b", "x" * 300, "file", "loop"])
def test_a_folder_that_cannot_be_one_is_told(tmp_path, folder):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NoCheckpoint, match="no checkpoint: looked for"):
        find_checkpoint(f"{tmp_path}/{folder}")


@pytest.mark.parametrize("put", ["folder", "pipe", "dead link"])
def test_the_newest_name_must_be_a_file(tmp_path, state, put):
    newest = save(tmp_path, state, "model1.pt").with_name("model2.pt")
    {
        "folder": newest.mkdir,
        "pipe": lambda: os.mkfifo(newest),
        "dead link": lambda: newest.symlink_to("nowhere"),
    }[put]()
    with pytest.raises(CheckpointError, match=r"model2\.pt"):
        inspect_checkpoint(find_checkpoint(str(tmp_path)), CONFIG)


def test_a_wrapped_checkpoint_says_how_it_was_read(tmp_path, state):
    assert inspect_checkpoint(save(tmp_path, state), CONFIG).read_as == ""
    path = save(tmp_path, {"ema": {f"module.{k}": v for k, v in state.items()}, "step": 3})
    found = inspect_checkpoint(path, CONFIG)
    assert found.architecture == DEMO_ARCHITECTURE
    assert found.read_as == "weights under ema; module. taken out of the keys; left out: step"


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("contact_dim", 7),
        ("last_dim", 97),
        ("time_emb_dim", 95),
        ("arch", "Unknown"),
        ("sizes", [1]),
        ("contact_dim", "6"),
        ("more", 1),
    ],
)
def test_a_kept_architecture_that_contradicts_the_shapes_is_read_off_again(
    tmp_path, monkeypatch, state, inferred, key, value
):
    """Even one whose checksum fits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save(tmp_path, state)
    inspect_checkpoint(path, CONFIG)
    [kept] = (tmp_path / "cache/contact-maps").iterdir()
    content = unseal(kept.read_bytes())
    kept.write_bytes(seal(content | {"value": content["value"] | {key: value}}))
    for _ in range(2):
        assert inspect_checkpoint(path, CONFIG).architecture == DEMO_ARCHITECTURE
    assert len(inferred) == 2


def test_a_flipped_bit_in_what_is_kept_changes_nothing(tmp_path, monkeypatch, state, inferred):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save(tmp_path, state)
    inspect_checkpoint(path, CONFIG)
    [kept] = (tmp_path / "cache/contact-maps").iterdir()
    kept.write_bytes(kept.read_bytes().replace(b'"d_state": 16', b'"d_state": 17'))
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


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("contact_model.point_encoder.local_encoder.0.weight", "EnhancedPerceiver"),
        ("contact_model.enc1.mamba_fwd.A_log", "PointMambaUNet"),
    ],
)
def test_a_backbone_of_the_forks_that_is_not_built_is_refused_by_its_name(
    tmp_path, state, key, name
):
    around = {k: v for k, v in state.items() if not k.startswith("contact_model.")}
    path = save(tmp_path, around | {key: torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match=rf"weights of {name}, which cannot be sampled"):
        inspect_checkpoint(path, CONFIG)


def test_another_backbone_than_the_configured_one_is_named(tmp_path, state):
    with pytest.raises(CheckpointError, match="arch is MLP, the weights have PointMamba"):
        inspect_checkpoint(save(tmp_path, state), demo_config(model={"arch": "MLP"}))


def test_a_tensor_with_too_few_axes_is_named(tmp_path, state):
    state["contact_layer.weight"] = torch.zeros(6)
    with pytest.raises(CheckpointError, match=r"contact_layer.weight is \(6,\), expected 2 axes"):
        inspect_checkpoint(save(tmp_path, state), CONFIG)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("arch", ["HybridMamba", "MLP", "Perceiver"])
@pytest.mark.parametrize("size", [0, 10**12])
def test_sizes_of_which_no_model_can_be_made_are_refused(arch, size):
    """Whatever key has them: the plan gives an error of ours and no traceback."""
    architecture = small_architecture(arch)
    shapes, config = expected_shapes(architecture), demo_config(model=model_section(architecture))
    refused = 0
    for key in list(shapes)[::9]:
        changed = shapes | {key: tuple(size for _ in shapes[key])}
        if changed[key] == shapes[key]:
            continue
        with pytest.raises(CheckpointError, match=r"^x\.pt: "):
            infer_architecture(changed, config, "x.pt")
        refused += 1
    assert refused > 3


@pytest.mark.parametrize("given", ["exp/ckpt", "exp/ckpt/model1.pt"])
def test_a_folder_or_file_inside_the_experiment_is_told_with_the_experiment(tmp_path, given):
    (tmp_path / "exp/ckpt").mkdir(parents=True)
    (tmp_path / "exp/ckpt/model1.pt").touch()
    with pytest.raises(NoCheckpoint, match=rf"--config exp_dir={tmp_path}/exp$"):
        find_checkpoint(f"{tmp_path}/{given}")
