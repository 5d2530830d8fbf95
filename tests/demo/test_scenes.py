"""The demo as a dataset: real layout, known without files, the same every time."""

import csv
import hashlib

import numpy as np
import pytest
from example_datasets import dataset_config
from helpers import raw_config

from cdm.config import load_config
from cdm.datasets import FileReader, stat_files
from cdm.datasets.actions import ACTIONS, action_of
from cdm.datasets.contact_map import ContactMapDataset
from cdm.datasets.statistics import compute_statistics, load_statistics
from cdm.demo.furniture import COLORS
from cdm.demo.scenes import (
    NUM_POINTS,
    NUM_WRITTEN,
    TARGET,
    TEST,
    TRAIN,
    VAL,
    DemoDataset,
    distances,
    make_backdrop,
    make_item,
    make_row,
    make_scene,
    splits,
    write_demo,
)
from cdm.model.checkpoint import DEMO_EXP_DIR


def demo_config(**options):
    defaults = {"data_dir": "demo", "sets": ("HUMANISE",), "phase": "val", "num_points": NUM_POINTS}
    return dataset_config(**{**defaults, **options})


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, phase="train", num_train=3)
    return folder


def test_samples_are_known_without_files(tmp_path):
    for phase, items in {"val": VAL, "test": TEST, "train": TRAIN}.items():
        samples = DemoDataset(demo_config(phase=phase), tmp_path / "not yet there").samples()
        assert [sample.index for sample in samples] == list(map(str, items))
        assert all(sample.text for sample in samples)


@pytest.mark.parametrize("phase", ["all", "val", "test"])
def test_samples_are_those_of_the_files(tmp_path, monkeypatch, phase):
    monkeypatch.setattr("cdm.demo.scenes.make_item", lambda *_: np.zeros((3, 1, 1)))
    write_demo(tmp_path, phase)
    config = demo_config(phase=phase, captions="all")
    dataset = ContactMapDataset(config, tmp_path)
    from_files = dataset.samples()
    assert DemoDataset(config, tmp_path).samples() == from_files
    assert len({sample.index for sample in from_files}) == len(splits()[phase])
    stat_files(dataset, [name for sample in from_files for name in dataset.files(sample)])


def test_an_item_of_train_is_the_same_from_memory_and_from_disk(demo_dir, tmp_path):
    config = demo_config(phase="train")
    from_disk = ContactMapDataset(config, demo_dir)
    from_code = DemoDataset(config, tmp_path / "not there")
    samples = from_code.samples()
    for sample in from_disk.samples():
        assert sample in samples[:3] and from_code.files(sample) == []
        disk = from_disk.load(sample, FileReader(demo_dir))
        code = from_code.load(sample, FileReader(tmp_path))
        for name in ("c_pc_xyz", "c_pc_feat", "distance", "info_scene_trans", "info_aug_trans"):
            np.testing.assert_array_equal(getattr(disk, name), getattr(code, name), err_msg=name)


def test_statistics_are_those_of_train_in_every_phase(demo_dir, monkeypatch):
    monkeypatch.setattr("cdm.demo.scenes.NUM_WRITTEN", 3)
    monkeypatch.setattr("cdm.demo.scenes.splits", lambda: splits(3))
    found = [
        compute_statistics(DemoDataset(demo_config(phase=phase), demo_dir), FileReader(demo_dir))
        for phase in ("train", "val", "test")
    ]
    assert found[0].numbers() == found[1].numbers() == found[2].numbers()


def test_the_shipped_statistics_are_those_of_the_rooms(scenes):
    """To sample with others gives maps that look right and are not."""
    name = ContactMapDataset(demo_config(), "").statistics_name()
    shipped = load_statistics(DEMO_EXP_DIR / name, 6)
    dist = [distances(scene.points[:, :3], scene.joints) for scene in scenes]
    contact = np.exp(-(np.stack(dist)[..., [0, 10, 11, 12, 20, 21]] ** 2) / (2 * 0.8**2))
    np.testing.assert_allclose(shipped.mean.ravel(), contact.mean((0, 1)), atol=0.03)
    np.testing.assert_allclose(shipped.std.ravel(), contact.std((0, 1)), atol=0.03)


def test_an_item_does_not_depend_on_the_others_and_files_repeat(demo_dir, tmp_path):
    write_demo(tmp_path, phase="train", num_train=1)
    written = sorted(tmp_path.rglob("0*.np?"))
    assert len(written) == 2
    for path in written:
        assert path.read_bytes() == (demo_dir / path.relative_to(tmp_path)).read_bytes()
    assert make_row(5, seed=1) != make_row(5)


@pytest.mark.parametrize("num_points", [300, 2500])
def test_rooms_of_any_number_of_points_are_the_same_rooms(scenes, num_points):
    """Task, furniture, motion and surfaces do not depend on it; shares of points nearly do not."""
    for item, usual in zip(TEST[:5], scenes, strict=False):
        scene = make_scene(item, num_points=num_points)
        assert scene.points.shape == (num_points, 6) and scene.labels.shape == (num_points,)
        assert scene.task == usual.task and repr(scene.room) == repr(usual.room)
        np.testing.assert_array_equal(scene.joints, usual.joints)
        shares = [(s.labels == TARGET).mean() for s in (scene, usual)]
        assert abs(shares[0] - shares[1]) < 0.08
        low, high = ([f(s.points, axis=0) for s in (scene, usual)] for f in (np.min, np.max))
        assert np.abs(low[0] - low[1])[:3].max() < 0.4 and np.abs(high[0] - high[1])[:3].max() < 0.4


def test_rooms_of_another_number_of_points_have_a_folder_of_their_own(tmp_path):
    usual, dense = (
        load_config(raw_config(exp_name="x", dataset={"data_dir": "demo", "num_points": n}))
        for n in (NUM_POINTS, 1100)
    )
    assert usual.data_dir == "outputs/x/data/demo" and dense.data_dir == "outputs/x/data/demo-1100"
    write_demo(tmp_path / "1", "train", num_train=2, num_points=1100)
    write_demo(tmp_path / "2", "train", num_train=2, num_points=1100, processes=2)
    written = sorted((tmp_path / "1").rglob("*.*"))
    assert len(written) == 4 + 1 + 2 * 2  # splits, table, items
    for path in written:
        same = tmp_path / "2" / path.relative_to(tmp_path / "1")
        assert path.read_bytes() == same.read_bytes()

    # From memory and from disk, as training and sampling read them.
    config = demo_config(phase="train", num_points=1100)
    sample = DemoDataset(config, "nowhere").samples()[1]
    code = DemoDataset(config, "nowhere").load(sample, FileReader("nowhere"))
    disk = ContactMapDataset(config, tmp_path / "1").load(sample, FileReader(tmp_path / "1"))
    assert code.distance.shape == (1100, 6)
    for name in ("c_pc_xyz", "c_pc_feat", "distance"):
        np.testing.assert_array_equal(getattr(disk, name), getattr(code, name), err_msg=name)


def test_the_test_split_never_changes():
    rows = repr([make_row(item) for item in TEST]).encode()
    assert hashlib.sha256(rows).hexdigest()[:16] == "ff7b770c3ae8a40f"
    made = [make_item(item) for item in TEST[:4]]
    found = [[array.mean() for array in arrays] for arrays in made]  # points, dist, target
    np.testing.assert_allclose(
        found,
        [
            [0.207431, 2.161324, 0.049805],
            [-0.017157, 1.489389, 0.137695],
            [0.035987, 2.100006, 0.12207],
            [0.091019, 2.240784, 0.042969],
        ],
        rtol=1e-4,
    )


def test_table_is_valid_csv_and_states_the_action(demo_dir):
    with open(demo_dir / "HUMANISE/contact_motion/anno.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == TRAIN.start + 3 <= TRAIN.start + NUM_WRITTEN
    for item, row in enumerate(rows):
        expected, others = make_row(item)
        assert row["utterance"] == expected.utterance and row["others"] == others
        for _, text in expected.captions():
            assert action_of(text) == action_of(row["others"]) == ACTIONS[item % 4]
    assert {len(row["utterance"].split("$$")) for row in rows} == {1, 2, 3}


def test_points_show_every_piece_in_its_color(scenes):
    for scene in scenes:
        for label, piece in enumerate(scene.room.pieces, start=TARGET):
            rgb = scene.points[scene.labels == label, 3:]
            assert len(rgb) > 20
            named = min(COLORS, key=lambda name: np.abs(rgb.mean(0) - COLORS[name]).sum())
            assert named == piece.color
        assert scene.points.dtype == np.float32 and np.abs(scene.points[:, 3:]).max() <= 1


def test_distances_match_the_naive_ones(scenes):
    scene = scenes[0]
    dist = distances(scene.points[:, :3], scene.joints)
    assert dist.dtype == np.float32 and dist.shape == (NUM_POINTS, 22)
    offsets = scene.points[::50, None, None, :3].astype(np.float64) - scene.joints
    naive = np.linalg.norm(offsets, axis=-1).min(1)
    np.testing.assert_allclose(dist[::50], naive, atol=1e-6)

    # In blocks of points, each the same as alone.
    again = distances(
        np.concatenate([scene.points[:, :3]] * 2 + [scene.points[:7, :3]]), scene.joints
    )
    np.testing.assert_array_equal(again[NUM_POINTS : 2 * NUM_POINTS], dist)
    np.testing.assert_allclose(again[2 * NUM_POINTS :], dist[:7], atol=1e-6)


def test_the_motion_of_an_item_is_the_one_its_distances_are_of(demo_dir):
    dataset = DemoDataset(demo_config(phase="train"), demo_dir)
    sample, reader = dataset.samples()[0], FileReader(demo_dir)
    item, motion = dataset.read_item(sample, reader), dataset.read_motion(sample, reader)
    apart = np.linalg.norm(item.c_pc_xyz[:, None] - motion[None, :, 0], axis=-1).min(axis=1)
    np.testing.assert_allclose(item.distance[:, 0], apart, atol=1e-4)


def test_the_backdrop_lies_on_the_surfaces_that_the_points_are_drawn_from():
    for item in (0, 24):
        backdrop, scene = make_backdrop(item), make_scene(item)
        assert backdrop.dtype == np.float32 and np.abs(backdrop[:, 3:]).max() <= 1
        # Points lie 6 mm of noise from a surface, and cells are up to 9 cm wide.
        apart = np.linalg.norm(scene.points[::8, None, :3] - backdrop[:, :3], axis=-1)
        assert apart.min(axis=1).max() < 0.09
        nearest = backdrop[apart.argmin(axis=1), 3:]
        assert np.abs(nearest - scene.points[::8, 3:]).mean() < 0.2


def test_only_a_thin_cloud_has_a_backdrop_and_no_file_or_number_knows_of_it(demo_dir):
    sample = DemoDataset(demo_config(), demo_dir).samples()[0]
    thin, dense = (
        DemoDataset(demo_config(num_points=num), demo_dir).read_backdrop(sample)
        for num in (NUM_POINTS, 16384)
    )
    assert len(thin) > 5 * NUM_POINTS and dense is None
    assert ContactMapDataset(demo_config(), demo_dir).read_backdrop(sample) is None
