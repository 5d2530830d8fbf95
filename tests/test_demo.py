"""The built-in demo: a small dataset in the real layout, the same every time."""

import csv

import numpy as np
import pytest
from test_datasets import dataset_config

from cdm.datasets import FileReader, stat_files
from cdm.datasets.contact_map import ContactMapDataset
from cdm.demo.motion import NUM_FRAMES, make_motion
from cdm.demo.scenes import (
    HALF,
    NUM_ITEMS,
    NUM_POINTS,
    DemoDataset,
    annotations,
    make_item,
    make_room,
    splits,
    write_demo,
)
from cdm.statistics import compute_statistics


def demo_config(**options):
    defaults = {"data_dir": "demo", "sets": ("HUMANISE",), "phase": "all", "num_points": NUM_POINTS}
    defaults["transforms"] = ()
    return dataset_config(**{**defaults, **options})


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, num_items=6)
    return folder


def test_samples_are_known_without_files(tmp_path):
    dataset = DemoDataset(demo_config(), tmp_path / "not yet there")
    samples = dataset.samples()
    assert [sample.index for sample in samples] == [str(i) for i in range(NUM_ITEMS)]
    assert all(sample.text for sample in samples)


@pytest.mark.parametrize("phase", ["all", "train", "test"])
def test_samples_are_those_of_the_files(tmp_path, monkeypatch, phase):
    monkeypatch.setattr("cdm.demo.scenes.make_item", lambda *_: np.zeros((3, 1, 1)))
    write_demo(tmp_path)
    config = demo_config(phase=phase, captions="all")
    from_files = ContactMapDataset(config, tmp_path).samples()
    assert DemoDataset(config, tmp_path).samples() == from_files
    assert len({sample.index for sample in from_files}) == len(splits()[phase])


def test_items_load_and_give_statistics(demo_dir, monkeypatch):
    monkeypatch.setattr("cdm.demo.scenes.NUM_ITEMS", 6)
    dataset, reader = ContactMapDataset(demo_config(), demo_dir), FileReader(demo_dir)
    samples = dataset.samples()
    assert len(stat_files(dataset, [n for s in samples for n in dataset.files(s)])) == 6
    statistics = compute_statistics(dataset, reader)
    for sample in samples:
        item = dataset.load(sample, reader, statistics)
        assert item.x.shape == (NUM_POINTS, 6) and np.isfinite(item.x).all()
        assert item.c_pc_feat.shape == (NUM_POINTS, 3)
        assert 0 <= item.c_pc_feat.min() and item.c_pc_feat.max() <= 1
        assert np.abs(item.c_pc_xyz[:, :2]).max() < HALF + 0.2


def test_an_item_does_not_depend_on_the_others_and_files_repeat(demo_dir, tmp_path):
    write_demo(tmp_path, num_items=2)
    for path in sorted(tmp_path.rglob("0*.np?")):
        assert path.read_bytes() == (demo_dir / path.relative_to(tmp_path)).read_bytes()
    assert annotations(num_items=3) == annotations()[:3]
    assert annotations(seed=1) != annotations()


def test_table_is_valid_csv(demo_dir):
    with open(demo_dir / "HUMANISE/contact_motion/anno.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["utterance"] for row in rows] == [row.utterance for row in annotations()[:6]]
    captions = [len(row.captions()) for row in annotations()]
    assert min(captions) == 1 and max(captions) == 3


@pytest.mark.parametrize("item", range(8))
def test_the_motion_uses_what_the_caption_names(item):
    room = make_room(item)
    points, dist, labels = make_item(item)
    target = labels == 1
    assert room.pieces[0].kind in room.row.utterance and 100 < target.sum() < NUM_POINTS
    assert (points[:, 3:] >= -1).all() and (points[:, 3:] <= 1).all()
    pelvis = dist[:, 0]
    if room.action == "walk":
        assert 0.1 < pelvis[target].min() < 0.7
    else:  # the pelvis comes to rest on the target, nearer than to any other thing
        assert pelvis[target].min() < 0.2
        assert target[pelvis.argmin()]
    assert dist[labels == 0][:, 10:12].min() < 0.15  # feet touch the floor


@pytest.mark.parametrize("action", ["sit", "stand up", "lie", "walk"])
def test_motion_is_smooth_and_keeps_its_size(action):
    joints = make_motion(action, "bed", (1.2, 1.9, 0.45), 0.9)
    assert joints.shape == (NUM_FRAMES, 22, 3)
    assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 0.35  # metres a frame
    reach = np.linalg.norm(joints - joints[:, :1], axis=-1).max()
    assert 0.5 < reach < 1.1 and joints[..., 2].min() >= 0
