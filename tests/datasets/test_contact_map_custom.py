"""Scenes of the user's own."""

import numpy as np
import pytest
from example_datasets import make

from cdm.datasets import FileReader
from cdm.datasets.statistics import Statistics
from cdm.errors import BadItem, DataError


def test_custom_items_have_no_truth_and_no_rotation(data_dir):
    dataset = make(data_dir, name="ContactMapCustomDataset")
    (sample,) = dataset.samples()
    item = dataset.load(sample, FileReader(data_dir), Statistics(np.zeros(1), np.ones(1), ""))
    assert item.x is None and item.distance is None
    assert np.array_equal(item.info_scene_trans[:3, 3], [-1, -2, -3])
    assert np.array_equal(item.info_aug_trans, np.eye(4))
    with pytest.raises(DataError, match=r"no OpenScene features; set it to false"):
        make(data_dir, name="ContactMapCustomDataset", use_openscene=True).samples()


@pytest.mark.parametrize("scale, text", [(1 / 255, "expected 0 to 255"), (2, "expected 0 to 255")])
def test_colours_go_from_0_to_255(data_dir, scale, text):
    path = data_dir / "custom/points/0000.npz"
    points = np.load(path)["points"]
    dataset = make(data_dir, name="ContactMapCustomDataset")
    (sample,) = dataset.samples()
    features = dataset.load(sample, FileReader(data_dir)).c_pc_feat
    assert np.array_equal(features, points[:, 3:] / np.float32(255))
    np.savez(path, points=points * [1, 1, 1, scale, scale, scale])
    with pytest.raises(BadItem, match=text):
        dataset.load(sample, FileReader(data_dir))


def test_millimetres_are_refused(data_dir):
    path = data_dir / "custom/points/0000.npz"
    np.savez(path, points=np.load(path)["points"] * 1000)
    dataset = make(data_dir, name="ContactMapCustomDataset", use_color=False)
    with pytest.raises(BadItem, match=r"0000.npz: 'points' reach to .*divide millimetres by 1000"):
        dataset.load(dataset.samples()[0], FileReader(data_dir))


def test_colours_for_the_eye_are_those_of_the_file(data_dir):
    dataset = make(data_dir, name="ContactMapCustomDataset", use_color=False)
    sample = dataset.samples()[0]
    saved = np.load(data_dir / dataset.files(sample)[0])["points"][:, 3:]
    colors = dataset.read_colors(sample, FileReader(data_dir))
    np.testing.assert_allclose(colors, saved, atol=0.51)
