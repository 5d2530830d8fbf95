"""Point features from file to archive: none, scene model, given, compared with text, affordance."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DEMO_ARCHITECTURE, overlay, raw_config, write_dataset

from cdm.archive import ContactMaps
from cdm.config import load_config
from cdm.errors import CheckpointError, ConfigError
from cdm.model.scene_model import PointTransformerSeg
from cdm.model.text import load_text_encoder
from cdm.run.generate import generate_chunk
from cdm.run.merge import merge
from cdm.run.plan import save_plan
from cdm.run.planning import make_plan
from cdm.training.initial_weights import write_checkpoint

NUM_ITEMS, NUM_POINTS = 3, 256
TEXT_FEAT_DIM = DEMO_ARCHITECTURE.text_feat_dim
SCENE_MODEL = {"use_scene_model": True, "pretrained_weight": "scene_model.pth"}
BASE = {
    "gpu": None,
    "dataset": {
        "data_dir": "data",
        "sets": ["HUMANISE"],
        "num_points": NUM_POINTS,
        "transforms": [],
        "captions": "first",
    },
    "model": {"text_model": {"version": "hashing"}},
    "diffusion": {"timestep_respacing": 2},
    "sampling": {"batch_size": 2, "precision": "fp32"},
    "workflow": {"chunk_size": 2},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A dataset, checkpoints for each width of point features, and a scene model."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", NUM_ITEMS, NUM_POINTS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(PointTransformerSeg(6).state_dict(), "scene_model.pth")
    for width in (0, 1, 3, 32):
        architecture = replace(DEMO_ARCHITECTURE, point_feat_dim=width)
        write_checkpoint(Path(f"exp{width}/ckpt/model000001.pt"), architecture)
    return tmp_path


def configure(width, **changes):
    base = overlay(BASE, {"exp_dir": f"exp{width}", "exp_name": f"run{width}"})
    if width:
        base = overlay(base, {"model": {"scene_model": {"point_feat_dim": width}}})
    return load_config(overlay(raw_config(**base), changes))


def given(use_color):
    """The dataset's features as they are."""
    return {
        "dataset": {"use_color": use_color, "use_openscene": True},
        "model": {"scene_model": {"use_scene_model": True}},
    }


def run(config, log=lambda line: None):
    plan, samples = make_plan(config)
    save_plan(plan, samples)
    for chunk in plan.chunks:
        if not Path(plan.chunk_record(chunk)).exists():
            generate_chunk(plan, chunk, log)
    merge(plan, log)
    return ContactMaps(plan.archive)


def maps_of(config):
    return run(config).group["sample"][:]


def points_of(item):
    path = f"data/HUMANISE/contact_motion/contacts/{item:05}.npz"
    points = torch.from_numpy(np.load(path)["points"])[None]
    return points[..., :3], (points[..., 3:] + 1) / 2


def write_features(features):
    """OpenScene files, one for each item's scene."""
    Path("data/HUMANISE/feat").mkdir(parents=True, exist_ok=True)
    for item, rows in enumerate(features):
        name = f"scene{item:04}_vh_clean_2_openscene_feat_distill.npy"
        np.save(f"data/HUMANISE/feat/{name}", rows)


def texts():
    encode = load_text_encoder("hashing", 20, TEXT_FEAT_DIM)
    captions = [f"sit on chair {i}" if i != 1 else "" for i in range(NUM_ITEMS)]
    return encode(captions).numpy()


def test_without_point_features_colours_change_nothing():
    usual = maps_of(configure(0))
    colourless = configure(0, exp_name="other", dataset={"use_color": False})
    np.testing.assert_array_equal(maps_of(colourless), usual)


def test_the_scene_models_features_are_those_one_could_give():
    """Also in batches of another size."""
    usual = maps_of(configure(32, model={"scene_model": SCENE_MODEL}))
    model = PointTransformerSeg(6).eval()
    model.load_state_dict(torch.load("scene_model.pth", weights_only=True))
    write_features([model(*points_of(item))[0].numpy() for item in range(NUM_ITEMS)])
    found = maps_of(configure(32, exp_name="given", sampling={"batch_size": 3}, **given(False)))
    np.testing.assert_allclose(found, usual, rtol=1e-4, atol=1e-5)
    write_features(np.zeros((NUM_ITEMS, NUM_POINTS, 32), np.float32))
    without = maps_of(configure(32, exp_name="given", **given(False)))
    assert np.abs(without - usual).max() > 1e-2


def test_plain_colours_are_the_rgb_of_the_file():
    colours = {"model": {"scene_model": {"use_scene_model": True, "use_openscene": True}}}
    usual = maps_of(configure(3, **colours))
    write_features([points_of(item)[1][0].numpy() for item in range(NUM_ITEMS)])
    found = maps_of(configure(3, exp_name="given", **given(False)))
    np.testing.assert_array_equal(found, usual)


def test_one_column_is_the_dot_product_with_the_text_or_the_affordance_file():
    features = np.random.default_rng(0).normal(size=(NUM_ITEMS, NUM_POINTS, TEXT_FEAT_DIM))
    features = features.astype(np.float32)
    write_features(features)
    compared = maps_of(configure(1, **given(False)))
    folder = Path("data/HUMANISE/contact_motion/affordance")
    folder.mkdir()
    for item, text in enumerate(texts()):
        np.save(folder / f"{item:05}.npy", features[item] @ text[:, None])
    found = maps_of(configure(1, exp_name="affordance", **given(False)))
    np.testing.assert_allclose(found, compared, rtol=1e-4, atol=1e-5)
    for item in range(NUM_ITEMS):
        np.save(folder / f"{item:05}.npy", np.ones((NUM_POINTS, 1), np.float32))
    other = maps_of(configure(1, exp_name="affordance", **given(False)))
    assert np.abs(other - compared).max() > 1e-2


def test_features_of_another_width_are_named_with_the_item():
    write_features(np.zeros((NUM_ITEMS, NUM_POINTS, 5), np.float32))
    with pytest.raises(ConfigError, match=r"HUMANISE/0: c_pc_feat has 5 columns, expected 32"):
        run(configure(32, **given(False)))


def test_columns_the_dataset_does_not_give_are_told_by_the_plan():
    plain = {"model": {"scene_model": {"use_scene_model": True, "use_openscene": True}}}
    with pytest.raises(ConfigError, match="trained on 32 point features, the dataset gives 3"):
        make_plan(configure(32, **plain))
    write_features(np.zeros((NUM_ITEMS, NUM_POINTS, 1), np.float32))
    with pytest.raises(ConfigError, match=r"set dataset\.use_color: false"):
        make_plan(configure(1, **given(True)))


# --- the scene model's file is part of what a chunk is made of -----------------------------------


def test_the_scene_models_weights_decide_the_chunks_and_are_recorded():
    config = configure(32, model={"scene_model": SCENE_MODEL})
    found = run(config)
    plan, _ = make_plan(config)
    recorded = found.attributes["scene_model"]
    assert recorded == asdict(plan.scene_model) and len(recorded["sha256"]) == 64
    assert "scene_model.pth" in Path("outputs/run32/checkpoint_info.txt").read_text()
    state = torch.load("scene_model.pth", weights_only=True)
    torch.save(state | {"enc1.0.bn.bias": state["enc1.0.bn.bias"] + 1}, "scene_model.pth")
    changed, _ = make_plan(config)
    assert not {c.name for c in changed.chunks} & {c.name for c in plan.chunks}
    Path(plan.chunk_record(plan.chunks[0])).unlink()
    with pytest.raises(CheckpointError, match=r"scene_model\.pth: changed since the run"):
        generate_chunk(plan, plan.chunks[0], lambda line: None)


def test_too_little_memory_for_the_scene_model_halves_the_batch(monkeypatch):
    config = configure(32, model={"scene_model": SCENE_MODEL})
    usual = maps_of(config)
    forward, calls, lines = PointTransformerSeg.forward, [], []

    def small(self, *inputs):
        calls.append(inputs)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("out of memory (made up)")
        return forward(self, *inputs)

    monkeypatch.setattr(PointTransformerSeg, "forward", small)
    found = run(replace(config, exp_name="other"), lines.append)
    np.testing.assert_array_equal(found.group["sample"][:], usual)
    assert any("batch_size 2; going on with 1" in line for line in lines)


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_maps_with_the_scene_model():
    config = configure(32, model={"scene_model": SCENE_MODEL})
    usual = maps_of(config)
    found = maps_of(replace(config, exp_name="gpu", gpu=0))
    np.testing.assert_allclose(found, usual, rtol=1e-4, atol=1e-4)
