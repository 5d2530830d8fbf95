"""Which items are shown, and what is put together for each."""

import numpy as np
import pytest
from evaluations import MASKS, make_archive, run_evaluate
from helpers import NUM_POINTS, write_contacts

from cdm.archive import ContactMaps
from cdm.datasets import Sample
from cdm.errors import BadItem
from cdm.evaluation.measure import MapMeasures
from cdm.gallery import Measured, gather_items
from cdm.gallery.gather import ItemReader, choose_rows
from cdm.gallery.measures import read_measured

KEYS = [("S", str(row), 0) for row in range(100)]


def errors(values):
    return {KEYS[row]: Measured(None, value) for row, value in values.items()}


def test_half_are_spread_evenly_and_half_are_the_worst():
    measured = errors({row: float(row == 41) + row / 1000 for row in range(100)})
    chosen = choose_rows(range(100), KEYS, 10, measured)
    assert [row for row, why in chosen.items() if why == "even"] == [0, 20, 40, 60, 80]
    assert [row for row, why in chosen.items() if why == "worst"] == [41, 99, 98, 97, 96]


def test_without_measures_all_are_spread_evenly():
    chosen = choose_rows(range(100), KEYS, 4, {})
    assert chosen == dict.fromkeys([0, 25, 50, 75], "even")


def test_without_ground_truth_missed_targets_are_the_worst():
    measured = {KEYS[row]: Measured(float(row != 7), None) for row in range(100)}
    assert choose_rows(range(100), KEYS, 2, measured) == {0: "even", 7: "worst"}


def test_a_small_archive_is_shown_whole():
    assert set(choose_rows([3, 5], KEYS, 48, errors({3: 1.0}))) == {3, 5}


def test_an_item_has_the_truth_of_the_dataset_and_the_maps_of_the_archive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    _, record = run_evaluate(plan)
    measured = read_measured(record.parent / "items.csv")
    items = gather_items(plan, 48, measured)
    maps = ContactMaps(plan.archive)
    assert [(i.set, i.index, i.caption_idx) for i in items] == maps.keys
    folder = tmp_path / "data/HUMANISE/contact_motion"
    for row, item in enumerate(items):
        saved = np.load(folder / f"contacts/{int(item.index):05}.npz")
        joints = plan.config.dataset.data_repr_joints
        np.testing.assert_array_equal(item.truth, saved["dist"][:, list(joints)])
        np.testing.assert_array_equal(item.target, np.load(tmp_path / MASKS / f"{row:05}.npy"))
        rgb = np.rint((saved["points"][:, 3:] + 1) * 127.5)
        np.testing.assert_allclose(item.colors, rgb, atol=1)
        distance = maps.read("distance", row)
        near = distance < 2  # far away, the archive's distance is capped
        np.testing.assert_allclose(item.generated[near], distance[near], rtol=1e-5)
        assert item.motion is None and item.measured == measured[maps.keys[row]]


def test_points_lie_as_on_disk_even_if_the_model_saw_them_rotated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, dataset={"transforms": ["RandomRotation"]})
    xyz = np.load("data/HUMANISE/contact_motion/contacts/00000.npz")["points"][:, :3]
    turn = np.eye(4)
    turn[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]

    def read(self, name, row, whole=ContactMaps.read):
        if name == "aug_trans":
            return turn
        return (xyz @ turn[:3, :3].T) if name == "points" else whole(self, name, row)

    monkeypatch.setattr(ContactMaps, "read", read)
    [item, *_] = gather_items(plan, 1)
    np.testing.assert_allclose(item.xyz, xyz, atol=1e-5)


def test_truth_of_other_points_is_not_drawn_over_a_map(tmp_path, monkeypatch):
    """The item was edited, or the data folder of that name is another one."""
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    path = tmp_path / "data/HUMANISE/contact_motion/contacts/00002.npz"
    write_contacts(path, NUM_POINTS, 99)
    with pytest.raises(BadItem, match=r"HUMANISE/2 caption .: 32 of its 32 points are not those"):
        gather_items(plan, 48)


def test_the_closest_point_is_that_of_the_measures(tmp_path, monkeypatch):
    """It is chosen before contact is clipped to 1; else many points would be as close."""
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    maps = ContactMaps(plan.archive)
    measures = MapMeasures(plan.config, maps.attributes["statistics"])
    for row, item in enumerate(gather_items(plan, 48)):
        x = maps.read("sample", row) + 3  # beyond what is clipped
        statistics = maps.attributes["statistics"]
        arrays = {"sample": x, "points": item.xyz, "aug_trans": np.eye(4)}
        reader = ItemReader(plan.config, plan.architecture.point_feat_dim)
        sample = Sample(item.set, item.index, item.caption_idx, item.caption)
        found = reader.maps_alone(sample, arrays, statistics)
        np.testing.assert_array_equal(found.closest[:, 0], measures.pelvis_points(x))
        assert (found.generated == 0).sum() > 6  # by distance alone, these are all the closest
