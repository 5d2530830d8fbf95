"""The frozen scene model against afford-motion, and what is said of files that are none."""

import pytest
import torch
from golden import assert_close, check_slots_and_threads, forward_files, load_case, scene_weights
from helpers import overlay, raw_config

import cdm.model.checkpoint
from cdm.config import load_config
from cdm.errors import CheckpointError
from cdm.files import hash_file
from cdm.model.checkpoint import inspect_scene_model
from cdm.model.scene_model import PointTransformerSeg, load_scene_model

variants = pytest.mark.parametrize("variant", ["c6", "c3"])


def load_variant(parity, variant):
    path = scene_weights(parity, variant)
    return load_scene_model(path, hash_file(path))


def arrays_of(parity, variant):
    found = forward_files(parity, "07_scene_model")
    [arrays] = [a for a in found if ("enc2_x" in a) == (variant == "c6")]
    return arrays


@variants
def test_features_match_afford_motion(parity, parity_index, variant):
    model, arrays = load_variant(parity, variant), arrays_of(parity, variant)
    out = model(arrays["c_pc_xyz"], arrays["c_pc_feat"])
    assert_close(variant, arrays["out"], out, **parity_index["tolerances"]["forward_fp32"])


@torch.no_grad()
def test_every_level_matches_afford_motion(parity, parity_index):
    model, arrays = load_variant(parity, "c6"), arrays_of(parity, "c6")
    xyz, color = arrays["c_pc_xyz"], arrays["c_pc_feat"]
    levels = model.geometry(xyz)
    features = model.encode(model.input_proj(xyz) + model.input_proj(color, start=3), levels)
    for number, found in enumerate(features[1:], start=2):
        expected = arrays[f"enc{number}_x"].view_as(found)
        tolerance = parity_index["tolerances"]["forward_fp32"]
        assert_close(f"enc{number}", expected, found, **tolerance)


def load_with_scene_model(parity):
    cdm = load_case(parity, "02_pointmamba_feat32")
    cdm.scene_model = load_variant(parity, "c6")
    return cdm


def inputs_of(parity):
    [arrays] = forward_files(parity, "07b_pointmamba_with_scene_model")
    names = "x", "timesteps", "text_vec", "c_pc_xyz", "c_pc_feat"
    return [arrays[name] for name in names], arrays["out"]


@torch.no_grad()
def test_cdm_with_scene_model_matches_afford_motion(parity, parity_index):
    inputs, out = inputs_of(parity)
    found = load_with_scene_model(parity)(*inputs)
    assert_close("07b", out, found, **parity_index["tolerances"]["forward_fp32"])


def test_maps_do_not_depend_on_batch_or_threads(parity):
    inputs, _ = inputs_of(parity)
    inputs = [x[:, :300] if x.ndim == 3 else x for x in inputs]
    check_slots_and_threads(load_with_scene_model(parity), inputs, (1, 2))


@torch.no_grad()
def test_the_scene_model_wants_colours(parity):
    inputs, _ = inputs_of(parity)
    with pytest.raises(ValueError, match="no columns, expected 3"):
        load_with_scene_model(parity)(*inputs[:-1])


@pytest.mark.gpu
@variants
def test_cuda_matches_afford_motion(parity, parity_index, variant):
    model, arrays = load_variant(parity, variant).cuda(), arrays_of(parity, variant)
    out = model(arrays["c_pc_xyz"].cuda(), arrays["c_pc_feat"].cuda()).cpu()
    assert_close(variant, arrays["out"], out, **parity_index["tolerances"]["forward_fp32"])


# --- the weights file, as the plan looks at it ---------------------------------------------------


@pytest.fixture(scope="module")
def state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PointTransformerSeg(6).state_dict()


def configure(path, **changes):
    base = {
        "exp_dir": "exp",
        "model": {"scene_model": {"use_scene_model": True, "pretrained_weight": str(path)}},
    }
    return load_config(overlay(raw_config(**base), changes))


def save(folder, state):
    torch.save(state, folder / "model.pth")
    return folder / "model.pth"


def test_a_whole_file_is_taken_with_its_hash_and_other_keys_are_ignored(tmp_path, state):
    path = save(tmp_path, state | {"cls.0.weight": torch.zeros(2)})
    expected = {"path": str(path), "sha256": hash_file(path)}
    assert inspect_scene_model(configure(path), 32) == expected
    load_scene_model(path, expected["sha256"])
    openscene = {"model": {"scene_model": {"use_openscene": True}}}
    assert inspect_scene_model(configure(path, **openscene), 32) is None


def test_only_the_first_look_at_scene_models_needs_torch(tmp_path, state, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, asked = save(tmp_path, state), []
    real = cdm.model.checkpoint._scene_model_shapes
    monkeypatch.setattr(
        cdm.model.checkpoint,
        "_scene_model_shapes",
        lambda in_dim: asked.append(in_dim) or real(in_dim),
    )
    for _ in range(2):
        inspect_scene_model(configure(path), 32)
    assert asked == [6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enc3.2.bn1.num_batches_tracked": None}, "bn1.num_batches_tracked is missing"),
        ({"dec1.1.linear3.weight": torch.zeros(2, 2)}, "weight is (2, 2), expected (32, 32)"),
        ({"enc1.0.linear.weight": torch.zeros(32, 9)}, "is (32, 9), expected (32, 6)"),
        ({"enc6.0.linear.weight": torch.zeros(1)}, "enc6.0.linear.weight (1,) is unexpected"),
    ],
)
def test_faults_of_the_file_are_listed_by_key(tmp_path, state, changes, message):
    changed = {key: x for key, x in (state | changes).items() if x is not None}
    path = save(tmp_path, changed)
    with pytest.raises(CheckpointError) as error:
        inspect_scene_model(configure(path), 32)
    assert str(path) in str(error.value) and message in str(error.value)


def test_what_contradicts_the_configuration_is_told(tmp_path, state):
    path = save(tmp_path, state)
    with pytest.raises(CheckpointError, match="gives 32 point features, the contact model was"):
        inspect_scene_model(configure(path), 16)
    with pytest.raises(CheckpointError, match=r"set dataset\.use_color: true"):
        inspect_scene_model(configure(path, dataset={"use_color": False}), 32)
    with pytest.raises(CheckpointError, match="no such file; model"):
        inspect_scene_model(configure(tmp_path / "other.pth"), 32)


def test_points_alone_need_no_colours(tmp_path, state):
    first = state["enc1.0.linear.weight"]
    path = save(tmp_path, state | {"enc1.0.linear.weight": first[:, :3].clone()})
    assert inspect_scene_model(configure(path, dataset={"use_color": False}), 32)


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path, state):
    path = save(tmp_path, state)
    planned = inspect_scene_model(configure(path), 32)["sha256"]
    save(tmp_path, {key: x + 1 for key, x in state.items()})
    with pytest.raises(CheckpointError, match="changed since the run was planned"):
        load_scene_model(path, planned)
