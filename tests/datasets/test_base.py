"""What the datasets share: samples, picks that depend on nothing else, rotation, the files."""

import shutil

import numpy as np
import pytest
from example_datasets import make, make_h3d, parity_cases, parity_dataset

from cdm.datasets import FileReader, Sample, rotate, stat_files
from cdm.datasets.base import evenly_spread, gravity_rotation
from cdm.datasets.statistics import Statistics, find_statistics
from cdm.errors import ConfigError, DataError


def test_messages_name_a_sample_by_set_index_and_caption():
    assert str(Sample("HUMANISE", "12", 3, "sit")) == "HUMANISE/12 caption 3"


def test_entries_are_spread_evenly_and_never_more_than_there_are():
    assert evenly_spread(range(10), 4) == [0, 2, 5, 7]
    assert evenly_spread("abc", 2) == ["a", "b"]
    assert evenly_spread([4, 5, 6], 9) == [4, 5, 6]
    assert evenly_spread([], 3) == evenly_spread([1], 0) == []


def assert_close(name, ref, out, atol=1e-6, rtol=1e-6):
    assert ref.shape == out.shape and out.dtype == np.float32, (name, ref.shape, out.shape)
    error = np.abs(ref - out).max(initial=0)
    assert np.allclose(out, ref, rtol=rtol, atol=atol), f"{name}: differs by {error:.2e}"


def test_items_match_afford_motion(parity, parity_index):
    case = parity / "10_dataset"
    for name, entry in parity_cases(parity_index).items():
        expected = np.load(case / name)
        data_dir = case / "tree/data"
        items = parity_dataset(entry, data_dir, captions="first").samples()
        dataset = parity_dataset(entry, data_dir)
        by_text = {(s.set, s.index, s.text): s for s in dataset.samples()}
        by_line = {(s.set, s.index, s.caption_idx): s for s in dataset.samples()}
        statistics = Statistics(expected["mean"], expected["std"], name)
        reader = FileReader(data_dir)

        order = expected["order_all_data_index"]
        assert sorted(order) == list(range(len(items))), name
        for row, position in enumerate(order):
            item = items[position]
            place, text = f"{name} item {row}", str(expected["c_text"][row])
            assert item.index == str(expected["info_index"][row]), place
            if "info_set" in expected:
                assert item.set == expected["info_set"][row], place
            if "info_caption_index" in expected:
                sample = by_line[item.set, item.index, expected["info_caption_index"][row]]
            else:
                sample = by_text[item.set, item.index, text]
            assert sample.text == text, place
            check_item(place, dataset, sample, reader, statistics, expected, row)


def check_item(place, dataset, sample, reader, statistics, expected, row):
    item = dataset.load(sample, reader, statistics)
    if "info_aug_trans" in expected:
        item = rotate(item, expected["info_aug_trans"][row])
    # x = (contact - mean) / std amplifies the last bit of contact by 1 / std
    x_atol = max(1e-6, 2e-7 / float(expected["std"].min()))
    if "x" in expected and row < len(expected["x"]):
        x = item.x
        if not dataset.has_ground_truth:  # afford-motion's stand-in
            assert x is None
            x = statistics.normalise(np.zeros_like(expected["x"][row]))
        assert_close(f"{place} x", expected["x"][row], x, atol=x_atol)
    for key in ("c_pc_xyz", "c_pc_feat", "info_scene_trans"):
        if key in expected and row < len(expected[key]):
            assert_close(f"{place} {key}", expected[key][row], getattr(item, key))
    if "info_scene_mesh" in expected:
        assert str(expected["info_scene_mesh"][row]) == f"./data/{item.info_scene_mesh}", place
    if "info_obj_mask" in expected:
        valid = bool(expected["info_obj_mask_valid"][row])
        assert valid == (item.info_obj_mask is not None), place
        assert not valid or np.array_equal(expected["info_obj_mask"][row], item.info_obj_mask)


def test_existing_statistics_are_found_by_the_name_of_afford_motion(parity, parity_index):
    case = parity / "10_dataset"
    for name, entry in parity_cases(parity_index).items():
        dataset = parity_dataset(entry, case / "tree/data")
        assert dataset.statistics_name() in entry["meta"]["stats_files_present_after"], name
        if entry["meta"]["stats_computed_from"] == "already present":
            expected, found = np.load(case / name), find_statistics(dataset)
            assert np.array_equal(found.mean, expected["mean"]), name
            assert np.array_equal(found.std, expected["std"]), name


def test_captions_all_first_and_random(data_dir):
    texts = ["sit", "sit down", "have a seat"]
    every = make(data_dir, captions="all").samples()
    assert [(s.index, s.caption_idx, s.text) for s in every] == [
        *[("0", i, text) for i, text in enumerate(texts)],
        ("1", 0, ""),
        *[("3", i, text) for i, text in enumerate(texts)],
    ]
    assert [s.text for s in make(data_dir, captions="first").samples()] == ["sit", "", "sit"]
    picked = [make(data_dir, seed).samples()[0] for seed in range(20)]
    assert {s.caption_idx for s in picked} == {0, 1, 2}
    assert all(s in every for s in picked)


def test_max_items_takes_the_first_items_with_all_their_captions(data_dir):
    every = make(data_dir, captions="all", sets=("HUMANISE", "PROX")).samples()
    for most, rows in ((1, 3), (2, 4), (4, 10), (6, 14), (7, 14)):
        fewer = make(data_dir, captions="all", sets=("HUMANISE", "PROX"), max_items=most)
        assert fewer.samples() == every[:rows]
        assert fewer.num_items == 6
    clips = make_h3d(data_dir, captions="all").samples()
    assert make_h3d(data_dir, captions="all", max_items=3).samples() == clips[:4]


def test_statistics_are_of_the_whole_split_whatever_max_items_says(data_dir):
    for options in ({}, {"captions": "reference"}):
        whole = make(data_dir, **options).statistics_samples()
        assert make(data_dir, max_items=1, **options).statistics_samples() == whole
        assert [sample.index for sample in whole] == ["0", "1", "3"]


def test_caption_and_rotation_do_not_depend_on_the_other_items(data_dir):
    few, many = make(data_dir, phase="train"), make(data_dir, sets=("HUMANISE", "PROX"))
    reader = FileReader(data_dir)
    for sample in few.samples():
        assert sample in many.samples()
        assert np.array_equal(few.load(sample, reader).c_pc_xyz, many.load(sample, reader).c_pc_xyz)


@pytest.mark.parametrize("gravity_dim", [1, 2])
def test_rotation_keeps_height_and_lengths(gravity_dim):
    matrix = gravity_rotation(0.7, gravity_dim)
    up = np.eye(4)[gravity_dim]
    assert np.allclose(matrix @ up, up)
    assert np.allclose(matrix @ matrix.T, np.eye(4)) and np.isclose(np.linalg.det(matrix), 1)


def test_rotation_in_the_phases_train_and_all_with_the_transform(data_dir):
    reader = FileReader(data_dir)
    for phase, transforms, rotated in (
        ("train", ("RandomRotation",), True),
        ("train", (), False),
        ("all", ("RandomRotation",), True),
        ("train", None, True),
    ):
        dataset = make(data_dir, phase=phase, transforms=transforms)
        item = dataset.load(dataset.samples()[0], reader)
        assert np.array_equal(item.info_aug_trans, np.eye(4)) != rotated
        assert item.c_pc_xyz.dtype == item.info_scene_trans.dtype == np.float32


def test_missing_files_are_counted_in_the_plan(data_dir):
    shutil.rmtree(data_dir / "PROX/contact_motion/contacts")
    dataset = make(data_dir, sets=("HUMANISE", "PROX"), phase="all")
    with pytest.raises(
        DataError, match=r"6 of 12 files .* missing:\n.*PROX/.*00000.npz\n[^$]*and 1 more"
    ):
        stat_files(dataset, (n for s in dataset.samples() for n in dataset.files(s)))


def test_unknown_dataset_name_lists_the_known(data_dir):
    with pytest.raises(ConfigError, match=r"'Nope', expected one of ContactMapDataset"):
        make(data_dir, name="Nope")
