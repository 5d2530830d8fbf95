"""Datasets: items of the reference, picks that depend on nothing else, and readable errors."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from example_datasets import dataset_config, make, parity_cases, parity_dataset

from cdm.datasets import FileReader, make_dataset, rotate, stat_files
from cdm.datasets.base import gravity_rotation
from cdm.datasets.statistics import Statistics, find_statistics
from cdm.errors import BadItem, ConfigError, DataError
from cdm.files import hash_file


def assert_close(name, ref, out, atol=1e-6, rtol=1e-6):
    assert ref.shape == out.shape and out.dtype == np.float32, (name, ref.shape, out.shape)
    error = np.abs(ref - out).max(initial=0)
    assert np.allclose(out, ref, rtol=rtol, atol=atol), f"{name}: differs by {error:.2e}"


def test_items_match_reference(parity, parity_index):
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
        if not dataset.has_ground_truth:  # the reference's stand-in
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


def test_existing_statistics_are_found_by_the_reference_name(parity, parity_index):
    case = parity / "10_dataset"
    for name, entry in parity_cases(parity_index).items():
        dataset = parity_dataset(entry, case / "tree/data")
        assert dataset.statistics_name() in entry["meta"]["stats_files_present_after"], name
        if entry["meta"]["stats_computed_from"] == "already present":
            expected, found = np.load(case / name), find_statistics(dataset)
            assert np.array_equal(found.mean, expected["mean"]), name
            assert np.array_equal(found.std, expected["std"]), name


# A small dataset of every layout, in the folder a test may damage.


def make_h3d(data_dir, facts_path=None, **options):
    config = dataset_config(**{"name": "ContactHumanML3DDataset", "phase": "train", **options})
    return make_dataset(config, data_dir=data_dir, facts_path=facts_path)


def message(error) -> str:
    return re.sub(r"\s+", " ", str(error.value))


def test_samples_follow_table_order_and_sets_order(data_dir):
    samples = make(data_dir, sets=("PROX", "HUMANISE")).samples()
    assert [(s.set, s.index) for s in samples] == [
        (set_name, index) for set_name in ("PROX", "HUMANISE") for index in "013"
    ]


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


def test_h3d_is_not_rotated_unless_asked(data_dir):
    assert not make_h3d(data_dir, phase="train", transforms=None).rotates
    assert make_h3d(data_dir, phase="train", transforms=("RandomRotation",)).rotates


def test_reader_records_exactly_what_it_returned(data_dir):
    dataset, reader = make(data_dir), FileReader(data_dir)
    sample = dataset.samples()[0]
    dataset.load(sample, reader)
    path = data_dir / dataset.files(sample)[0]
    assert list(reader.contents) == dataset.files(sample)
    record = reader.contents[dataset.files(sample)[0]]
    (state,) = stat_files(dataset, dataset.files(sample)).values()
    assert record == (state, hash_file(path))
    os.utime(path)
    dataset.load(sample, again := FileReader(data_dir))
    assert again.contents[dataset.files(sample)[0]].sha256 == record.sha256


def test_an_edit_that_keeps_size_and_mtime_shows_in_the_state(data_dir):
    dataset, reader = make(data_dir), FileReader(data_dir)
    sample = dataset.samples()[0]
    dataset.load(sample, reader)
    (name,) = dataset.files(sample)
    record, path = reader.contents[name].as_dict(), data_dir / name
    assert stat_files(dataset, [name])[name].agrees_with(record)
    data, times = bytearray(path.read_bytes()), (record["mtime_ns"], record["mtime_ns"])
    data[-40] ^= 1
    path.write_bytes(data)  # in place: same inode
    os.utime(path, ns=times)
    edited = stat_files(dataset, [name])[name]
    assert edited[:2] == (record["size"], record["mtime_ns"]) and not edited.agrees_with(record)
    other = path.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=times)
    other.replace(path)
    assert stat_files(dataset, [name])[name].inode != record["inode"]
    assert stat_files(dataset, [name])[name].agrees_with(
        {k: record[k] for k in ("size", "mtime_ns")}
    )


def test_a_file_replaced_between_two_captions_is_an_error(data_dir):
    dataset, reader = make(data_dir, captions="all"), FileReader(data_dir)
    first, second = dataset.samples()[:2]
    assert dataset.files(first) == dataset.files(second)
    dataset.load(first, reader)
    path = data_dir / dataset.files(first)[0]
    os.utime(path)
    dataset.load(second, reader)  # only touched
    damage(path, points=np.zeros((16, 6), np.float32))
    with pytest.raises(DataError, match=r"00000.npz: was replaced while this job ran") as error:
        dataset.load(second, reader)
    assert not isinstance(error.value, BadItem)  # or on_bad_item: skip would hide it


def test_scene_features_are_read_once(data_dir, monkeypatch):
    (data_dir / "PROX/feat").mkdir()
    for i in range(6):
        features = np.full((16, 4), i, np.float32)
        np.save(data_dir / f"PROX/feat/scene{i}_openscene_feat_distill.npy", features)
    dataset, reader = make(data_dir, use_openscene=True), FileReader(data_dir, num_shared=2)
    reads, read = [], reader.read
    monkeypatch.setattr(reader, "read", lambda name: reads.append(name) or read(name))
    for sample in dataset.samples() * 2:
        item = dataset.load(replace(sample, scene_id="scene4"), reader)
        assert item.c_pc_feat.shape == (16, 7) and (item.c_pc_feat[:, 3:] == 4).all()
    assert sum("/feat/" in name for name in reads) == 1
    for scene in ("scene1", "scene2", "scene3"):
        reader.read_shared(f"PROX/feat/{scene}_openscene_feat_distill.npy")
    assert len(reader._shared) == 2


def test_h3d_items_by_length_parts_before_their_clip(data_dir):
    dataset = make_h3d(data_dir, captions="all")
    assert [(s.index, s.caption_idx, s.text) for s in dataset.samples()] == [
        ("a", 2, "later"),  # 42 frames
        ("d", 2, "later"),
        *[("b", 0, "hops"), ("b", 1, "lands")],  # 45; its part has 35
        *[("a", 0, "hops"), ("a", 1, "lands")],
        *[("d", 0, "hops"), ("d", 1, "lands")],
    ]
    assert dataset.dropped == {"c": "20 frames", "missing": "no motion file"}
    assert len(dataset.statistics_samples()) == 4
    test = make_h3d(data_dir, phase="test")
    assert {s.caption_idx for s in test.samples()} == {0, 2}


def test_h3d_facts_are_cached_by_size_and_mtime(data_dir, monkeypatch):
    from cdm.datasets import contact_humanml3d as module

    facts = data_dir / "cache/facts.json"
    before, opened, read = make_h3d(data_dir, facts).samples(), [], module._read_motion
    monkeypatch.setattr(module, "_read_motion", lambda path: opened.append(path.name) or read(path))
    assert make_h3d(data_dir, facts).samples() == before and opened == []
    motion = np.zeros((61, 263), np.float32)
    motion[3, 5] = np.nan
    np.save(data_dir / "H3D/new_joint_vecs/a.npy", motion)
    dataset = make_h3d(data_dir, facts)
    assert "a" not in {s.index for s in dataset.samples()} and opened == ["a.npy"]
    assert dataset.dropped["a"] == "NaN in the motion"
    facts.write_text("{")
    assert make_h3d(data_dir, facts).samples() == dataset.samples()
    assert json.loads(facts.read_text())


# What is wrong with the data is said in one message, with the place and what to do.


def test_missing_folder_and_index_files_say_what_was_looked_for(data_dir):
    with pytest.raises(DataError, match=r"nowhere: no such folder.*PROX/contact_motion/anno.csv"):
        make(data_dir / "nowhere").samples()
    with pytest.raises(DataError, match=r"PROX/val.txt: no such file.*all.txt.*train.txt.*phase"):
        make(data_dir, phase="val").samples()
    with pytest.raises(DataError, match=r"H3D/val.txt: no such file"):
        make_h3d(data_dir, phase="val").samples()


def test_missing_csv_columns_are_named(data_dir):
    table = data_dir / "PROX/contact_motion/anno.csv"
    table.write_text(table.read_text().replace("scene_trans_y", "y", 1).replace("utterance", "u"))
    with pytest.raises(DataError, match=r"columns scene_trans_y, utterance are missing, found sc"):
        make(data_dir).samples()


def test_broken_csv_row_is_named(data_dir):
    table = data_dir / "PROX/contact_motion/anno.csv"
    table.write_text(table.read_text() + "scene6,0.0,nan,0.0,walk,\n")
    with pytest.raises(DataError, match=r"anno.csv: row 6 is .*finite numbers"):
        make(data_dir).samples()


def test_split_ids_outside_the_table_are_listed(data_dir):
    (data_dir / "PROX/train.txt").write_text("000001\n000006\n000099\n")
    with pytest.raises(DataError, match=r"PROX/train.txt: 2 ids have no row.*\(6 rows\): 6, 99"):
        make(data_dir).samples()
    (data_dir / "PROX/train.txt").write_text("000001\nabc\n")
    with pytest.raises(DataError, match=r"train.txt: line 2 is 'abc', expected a row number"):
        make(data_dir).samples()


def test_empty_selection_is_an_error(data_dir):
    (data_dir / "PROX/train.txt").write_text("\n")
    with pytest.raises(DataError, match=r"PROX/train.txt list no item; choose another"):
        make(data_dir).samples()
    with pytest.raises(DataError, match=r"none of 5 clips can be used .*a: 60 frames"):
        make_h3d(data_dir, min_horizon=400, max_horizon=500).samples()


def test_missing_files_are_counted_in_the_plan(data_dir):
    shutil.rmtree(data_dir / "PROX/contact_motion/contacts")
    dataset = make(data_dir, sets=("HUMANISE", "PROX"), phase="all")
    with pytest.raises(
        DataError, match=r"6 of 12 files .* missing:\n.*PROX/.*00000.npz\n[^$]*and 1 more"
    ):
        stat_files(dataset, (n for s in dataset.samples() for n in dataset.files(s)))


def test_broken_caption_line_and_motion_are_named(data_dir):
    (data_dir / "H3D/texts/a.txt").write_text("fine#x#0.0#0.0\nno times here\n")
    with pytest.raises(DataError, match=r"texts/a.txt: line 2 is 'no times here', expected"):
        make_h3d(data_dir).samples()
    (data_dir / "H3D/new_joint_vecs/b.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"b.npy: cannot be read as a motion"):
        make_h3d(data_dir).samples()


def damage(path, **changes):
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


NAN = np.zeros((16, 22), np.float32)
NAN[4, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"points": np.zeros((15, 6))}, "'points' is (15, 6), expected (16, 6)"),
        ({"points": np.zeros((17, 6))}, "'points' is (17, 6), expected (16, 6)"),
        ({"points": np.zeros((16, 3))}, "'points' is (16, 3), expected (16, 6)"),
        ({"dist": np.zeros((16, 6))}, "'dist' is (16, 6), expected (16, 22)"),
        ({"dist": NAN}, "'dist' holds 1 NaN or infinite numbers, the first at [4, 2]"),
        ({"points": np.full((16, 6), np.inf)}, "'points' holds 96 NaN or infinite numbers"),
        ({"points": np.full((16, 6), "x")}, "'points' is of type <U1, expected numbers"),
        ({"points": np.full((16, 6), None)}, "damaged, truncated or not numeric (ValueError"),
        ({"dist": None}, "'dist' not in the file, found points, mask; scenes without ground truth"),
    ],
)
def test_bad_item_says_what_was_found_and_expected(data_dir, changes, text):
    path = data_dir / "PROX/contact_motion/contacts/00000.npz"
    damage(path, **changes)
    dataset = make(data_dir)
    with pytest.raises(BadItem) as error:
        dataset.load(dataset.samples()[0], FileReader(data_dir))
    assert str(path) in message(error) and text in message(error)
    assert "dataset.on_bad_item" in message(error)


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_truncated_file_is_a_bad_item(data_dir, keep):
    path = data_dir / "PROX/contact_motion/contacts/00000.npz"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if keep < 1 else keep])
    dataset = make(data_dir)
    with pytest.raises(BadItem, match=r"00000.npz: damaged, truncated or not numeric .* bytes"):
        dataset.load(dataset.samples()[0], FileReader(data_dir))


def test_any_flipped_byte_of_the_data_is_a_bad_item(data_dir):
    path = data_dir / "PROX/contact_motion/contacts/00000.npz"
    data = bytearray(path.read_bytes())
    data[400] ^= 0xFF
    path.write_bytes(data)
    dataset = make(data_dir)
    with pytest.raises(BadItem, match=r"00000.npz: damaged"):
        dataset.load(dataset.samples()[0], FileReader(data_dir))


def test_vanished_file_is_a_bad_item(data_dir):
    dataset = make(data_dir)
    sample = dataset.samples()[0]
    (data_dir / dataset.files(sample)[0]).unlink()
    with pytest.raises(BadItem, match=r"contacts/00000.npz: cannot be read \(No such file"):
        dataset.load(sample, FileReader(data_dir))


def test_mask_outside_the_scene_is_a_bad_item(data_dir):
    (data_dir / "PROX/feat").mkdir()
    features = data_dir / "PROX/feat/scene0_openscene_feat_distill.npy"
    np.save(features, np.zeros((10, 4), np.float32))
    dataset = make(data_dir, use_openscene=True)
    with pytest.raises(BadItem, match=r"'mask' is int64 from 0 to 15, expected row numbers.*10 ro"):
        dataset.load(dataset.samples()[0], FileReader(data_dir))


def test_custom_items_have_no_truth_and_no_rotation(data_dir):
    dataset = make(data_dir, name="ContactMapCustomDataset")
    (sample,) = dataset.samples()
    item = dataset.load(sample, FileReader(data_dir), Statistics(np.zeros(1), np.ones(1), ""))
    assert item.x is None and item.distance is None
    assert np.array_equal(item.info_scene_trans[:3, 3], [-1, -2, -3])
    assert np.array_equal(item.info_aug_trans, np.eye(4))
    with pytest.raises(DataError, match=r"no OpenScene features; set it to false"):
        make(data_dir, name="ContactMapCustomDataset", use_openscene=True).samples()


def test_unknown_dataset_name_lists_the_known(data_dir):
    with pytest.raises(ConfigError, match=r"'Nope', expected one of ContactMapDataset"):
        make(data_dir, name="Nope")
