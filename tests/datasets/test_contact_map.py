"""The scene sets: samples by split and table, features, what is wrong with an item."""

from dataclasses import replace

import numpy as np
import pytest
from example_datasets import damage, make

from cdm.datasets import FileReader, stat_files
from cdm.errors import BadItem, DataError


def test_samples_follow_table_order_and_sets_order(data_dir):
    samples = make(data_dir, sets=("PROX", "HUMANISE")).samples()
    assert [(s.set, s.index) for s in samples] == [
        (set_name, index) for set_name in ("PROX", "HUMANISE") for index in "013"
    ]


def test_split_ids_outside_the_table_are_listed(data_dir):
    (data_dir / "PROX/train.txt").write_text("000001\n000006\n000099\n")
    with pytest.raises(DataError, match=r"PROX/train.txt: 2 ids have no row.*\(6 rows\): 6, 99"):
        make(data_dir).samples()


def test_empty_selection_is_an_error(data_dir):
    (data_dir / "PROX/train.txt").write_text("\n")
    with pytest.raises(DataError, match=r"PROX/train.txt list no item; choose another"):
        make(data_dir).samples()


def test_mask_outside_the_scene_is_a_bad_item(data_dir):
    (data_dir / "PROX/feat").mkdir()
    features = data_dir / "PROX/feat/scene0_openscene_feat_distill.npy"
    np.save(features, np.zeros((10, 4), np.float32))
    dataset = make(data_dir, use_openscene=True)
    with pytest.raises(BadItem, match=r"'mask' goes from 0 to 15, expected row numbers.*10 ro"):
        dataset.load(dataset.samples()[0], FileReader(data_dir))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"points": np.full((16, 6), 2000.0)}, "expected metres about the origin"),
        ({"points": np.linspace(-1, 1, 96).reshape(16, 6) * 1.5}, "expected -1 to 1 in this"),
        ({"dist": np.full((16, 22), -1, np.int8)}, "'dist' goes down to -1, expected 0"),
        ({"dist": np.full((16, 22), 3000)}, "'dist' goes up to 3000, expected metres"),
    ],
)
def test_values_that_cannot_be_are_bad_items_also_for_the_statistics(data_dir, changes, text):
    damage(data_dir / "PROX/contact_motion/contacts/00000.npz", **changes)
    dataset, reader = make(data_dir), FileReader(data_dir)
    with pytest.raises(BadItem, match=text):
        dataset.load(dataset.samples()[0], reader)
    if "dist" in changes:
        with pytest.raises(BadItem, match=text):
            dataset.read_distance(dataset.samples()[0], reader)


def test_integer_distances_are_squared_without_overflow(data_dir):
    path = data_dir / "PROX/contact_motion/contacts/00000.npz"
    damage(path, dist=np.full((16, 22), 20, np.int8))  # 20 squared is beyond int8
    dataset, reader = make(data_dir), FileReader(data_dir)
    distance = dataset.read_distance(dataset.samples()[0], reader)
    assert distance.dtype == np.float32 and (distance == 20).all()
    assert (dataset.contact(distance) == 0).all()


def test_colours_are_not_looked_at_where_they_are_not_used(data_dir):
    path = data_dir / "PROX/contact_motion/contacts/00000.npz"
    points = np.linspace(-1, 1, 96).reshape(16, 6).astype(np.float32)
    points[:, 3:] = 200
    damage(path, points=points)
    dataset = make(data_dir, use_color=False)
    assert dataset.load(dataset.samples()[0], FileReader(data_dir)).c_pc_feat.shape == (16, 0)


def test_a_sample_whose_scene_has_an_impossible_name_is_one_bad_item(data_dir):
    dataset = make(data_dir, use_openscene=True, on_bad_item="skip")
    sample = replace(dataset.samples()[0], scene_id="x" * 300)
    assert None in stat_files(dataset, dataset.files(sample)).values()
    with pytest.raises(BadItem, match=r"cannot be read"):
        dataset.load(sample, FileReader(data_dir))


def test_colours_for_the_eye_are_read_whether_or_not_the_model_sees_them(data_dir):
    dataset, reader = make(data_dir, use_color=False), FileReader(data_dir)
    sample = dataset.samples()[0]
    colors = dataset.read_colors(sample, reader)
    name = dataset.files(sample)[0]
    saved = np.load(data_dir / name)["points"][:, 3:]
    assert colors.dtype == np.uint8
    np.testing.assert_allclose(colors, (saved + 1) * 127.5, atol=0.51)


def test_points_without_colours_have_none_for_the_eye(data_dir):
    dataset, reader = make(data_dir, use_color=False), FileReader(data_dir)
    sample = dataset.samples()[0]
    path = data_dir / dataset.files(sample)[0]
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"points": arrays["points"][:, :3]}))
    assert dataset.read_colors(sample, reader) is None
    assert dataset.read_motion(sample, reader) is None
