"""Point features: what configuration and shapes say of them, and their way from file to archive."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DEMO_ARCHITECTURE, overlay, raw_config, write_dataset
from remembered import remembered

from cdm.archive import ContactMaps
from cdm.config import load_config
from cdm.errors import CheckpointError, ConfigError
from cdm.model.architecture import FeatureWidths
from cdm.model.point_features import (
    PointFeatures,
    check_configuration,
    columns_taken,
    columns_to_read,
    dim_to_train,
    gives_color,
    training_problem,
)
from cdm.model.scene_model import PointTransformerSeg
from cdm.model.text import load_text_encoder
from cdm.run.generate import generate_chunk
from cdm.run.merge import merge
from cdm.run.plan_files import save_plan
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


def configured(scene_model, dataset):
    """A configuration with changes to these two sections."""
    return load_config(raw_config(dataset=dataset, model={"scene_model": scene_model}))


@pytest.mark.parametrize(
    ("scene_model", "dataset", "source", "dim"),
    [
        ({}, {}, "none", 0),
        ({"use_openscene": True, "point_feat_dim": 5}, {}, "none", 0),
        ({"use_scene_model": True}, {}, "scene_model", 32),
        ({"use_scene_model": True, "point_feat_dim": 16}, {}, "scene_model", 16),
        ({"use_scene_model": True, "use_openscene": True}, {}, "dataset", None),
        ({"use_scene_model": True}, {"use_openscene": True}, "dataset", None),
        (
            {"use_scene_model": True, "use_openscene": False},
            {"use_openscene": True},
            "scene_model",
            32,
        ),
        ({"use_scene_model": True, "use_openscene": True, "point_feat_dim": 3}, {}, "dataset", 3),
    ],
)
def test_the_configuration_tells_the_source_and_perhaps_the_columns(
    scene_model, dataset, source, dim
):
    assert PointFeatures.of(configured(scene_model, dataset)) == PointFeatures(source, dim)


@pytest.mark.parametrize(
    ("dim", "widths", "usual_text_dim", "expected"),
    [
        (None, FeatureWidths(100, 7, 107, ""), 512, (100, 7)),  # the weights show both
        (7, FeatureWidths(None, None, 107, ""), 512, (100, 7)),  # the sum, and the configured dim
        (None, FeatureWidths(None, None, 107, ""), 100, (100, 7)),  # the sum, and the encoder
        (None, FeatureWidths(None, None, 107, ""), None, (107, 0)),  # hashing may have any width
        (0, FeatureWidths(None, None, 107, ""), None, (107, 0)),
    ],
)
def test_widths_that_weights_show_as_a_sum_are_split(dim, widths, usual_text_dim, expected):
    assert PointFeatures("dataset", dim).split(widths, usual_text_dim) == expected


@pytest.mark.parametrize(
    ("scene_model", "dataset", "message"),
    [
        ({"pretrained_weight": None}, {}, "pretrained_weight is null"),
        ({"use_openscene": False}, {"use_openscene": True}, "set dataset.use_openscene: false"),
        ({"use_color": False}, {}, "use_color is False but dataset.use_color is True"),
        ({"num_points": 9}, {}, "num_points is 9 but dataset.num_points is 8192"),
        (
            {"use_openscene": True},
            {"name": "ContactHumanML3DDataset", "use_openscene": True},
            "ContactHumanML3DDataset has no OpenScene features",
        ),
    ],
)
def test_keys_that_contradict_each_other_say_what_to_change(scene_model, dataset, message):
    scene_model = {"use_scene_model": True, "pretrained_weight": "w.pth"} | scene_model
    with pytest.raises(ConfigError) as error:
        check_configuration(configured(scene_model, dataset))
    assert message in str(error.value)
    check_configuration(configured({}, {"num_points": 9}))


def test_all_contradictions_are_listed_at_once():
    changes = {"use_scene_model": True, "use_color": False, "num_points": 9}
    with pytest.raises(ConfigError) as error:
        check_configuration(configured(changes, {}))
    assert str(error.value).count("model.scene_model") >= 3


@pytest.mark.parametrize(
    ("name", "use_color", "expected"),
    [
        ("ContactMapDataset", True, True),
        ("ContactMapDataset", False, False),
        ("ContactMapCustomDataset", True, True),
        ("ContactHumanML3DDataset", True, False),
    ],
)
def test_colours_come_from_datasets_that_have_them(name, use_color, expected):
    assert gives_color(configured({}, {"name": name, "use_color": use_color})) is expected


def test_a_model_takes_its_columns_or_with_one_column_features_as_wide_as_the_text():
    wide, single = (replace(DEMO_ARCHITECTURE, point_feat_dim=dim) for dim in (5, 1))
    columns_taken(wide).check(5)
    for found in (4, None, TEXT_FEAT_DIM):
        with pytest.raises(ValueError, match=f"has {found or 'no'} columns, expected 5$"):
            columns_taken(wide).check(found)
    for found in (1, TEXT_FEAT_DIM):
        columns_taken(single).check(found)
    with pytest.raises(ValueError, match=f"expected 1 or {TEXT_FEAT_DIM}, to be compared"):
        columns_taken(single).check(3)
    for color_dim in (0, 3):  # the scene model's inputs, whatever the backbone sees
        columns_taken(wide, color_dim).check(3)
    with pytest.raises(ValueError, match="has no columns, expected 3"):
        columns_taken(wide, 3).check(None)


def test_training_wants_its_columns_configured_or_the_scene_models():
    assert dim_to_train(configured({}, {})) == 0
    given = {"use_scene_model": True, "use_openscene": True}
    assert dim_to_train(configured(given | {"point_feat_dim": 3}, {})) == 3
    with pytest.raises(ConfigError, match="point_feat_dim is null"):
        dim_to_train(configured(given, {}))
    seen = {"use_scene_model": True}
    assert dim_to_train(configured(seen, {})) == 32
    with pytest.raises(ConfigError, match="is 16, but the frozen scene model gives 32"):
        dim_to_train(configured(seen | {"point_feat_dim": 16}, {}))
    assert columns_to_read(configured(seen, {}), 32) == 3  # colours go into the scene model
    assert columns_to_read(configured(seen, {"use_color": False}), 32) == 0
    assert columns_to_read(configured(given, {}), 7) == 7
    assert training_problem(3, 3) == training_problem(3, 0) == ""
    assert "has 4 point features, expected 3" in training_problem(4, 3)


# --- from file to archive ------------------------------------------------------------------------


@remembered
def fill(folder):
    """A dataset, checkpoints of one layer for each width of point features, and a scene model."""
    write_dataset(folder / "data", NUM_ITEMS, NUM_POINTS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(PointTransformerSeg(6).state_dict(), "scene_model.pth")
    sizes = DEMO_ARCHITECTURE.sizes | {"depth": 1}
    for width in (0, 1, 3, 32):
        architecture = replace(DEMO_ARCHITECTURE, point_feat_dim=width, sizes=sizes)
        write_checkpoint(Path(f"exp{width}/ckpt/model000001.pt"), architecture)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What `fill` makes, as working folder."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
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


def test_without_point_features_colours_change_nothing(folder):
    usual = maps_of(configure(0))
    colourless = configure(0, exp_name="other", dataset={"use_color": False})
    np.testing.assert_array_equal(maps_of(colourless), usual)


def test_the_scene_models_features_are_those_one_could_give(folder):
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


def test_plain_colours_are_the_rgb_of_the_file(folder):
    colours = {"model": {"scene_model": {"use_scene_model": True, "use_openscene": True}}}
    usual = maps_of(configure(3, **colours))
    write_features([points_of(item)[1][0].numpy() for item in range(NUM_ITEMS)])
    found = maps_of(configure(3, exp_name="given", **given(False)))
    np.testing.assert_array_equal(found, usual)


def test_one_column_is_the_dot_product_with_the_text_or_the_affordance_file(folder):
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


def test_features_of_another_width_are_named_with_the_item(folder):
    write_features(np.zeros((NUM_ITEMS, NUM_POINTS, 5), np.float32))
    with pytest.raises(ConfigError, match=r"HUMANISE/0: c_pc_feat has 5 columns, expected 32"):
        run(configure(32, **given(False)))


def test_columns_the_dataset_does_not_give_are_told_by_the_plan(folder):
    plain = {"model": {"scene_model": {"use_scene_model": True, "use_openscene": True}}}
    with pytest.raises(ConfigError, match="trained on 32 point features, the dataset gives 3"):
        make_plan(configure(32, **plain))
    write_features(np.zeros((NUM_ITEMS, NUM_POINTS, 1), np.float32))
    with pytest.raises(ConfigError, match=r"set dataset\.use_color: false"):
        make_plan(configure(1, **given(True)))


# --- the scene model's file is part of what a chunk is made of -----------------------------------


def test_the_scene_models_weights_decide_the_chunks_and_are_recorded(folder):
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


def test_too_little_memory_for_the_scene_model_halves_the_batch(folder, monkeypatch):
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
def test_a_gpu_gives_the_cpus_maps_with_the_scene_model(folder):
    config = configure(32, model={"scene_model": SCENE_MODEL})
    usual = maps_of(config)
    found = maps_of(replace(config, exp_name="gpu", gpu=0))
    np.testing.assert_allclose(found, usual, rtol=1e-4, atol=1e-4)
