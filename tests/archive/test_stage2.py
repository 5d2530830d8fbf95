"""What stage 2 asks for, and what it can read."""

import io
import os
import random

import numpy as np
import pytest
import stage2
from example_datasets import dataset_config

from cdm.archive.stage2 import asked_items, check_maps, map_name, read_map_header
from cdm.datasets import make_dataset


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        (("HUMANISE", "4", 2), "00004.npy"),
        (("custom", "123456", 0), "123456.npy"),
        (("HUMANISE", "4", 2, True), "00004-2.npy"),
        (("H3D", "M000021", 2), "M000021-2.npy"),
        (("H3D", "M000021", 0, True), "M000021-0.npy"),
    ],
)
def test_a_map_has_the_name_that_stage_2_looks_for(sample, name):
    assert map_name(*sample) == name


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return stage2.write_data(tmp_path_factory.mktemp("data"))


def items(data, tests=False, **options):
    return asked_items(make_dataset(dataset_config(**options), seed=2023, data_dir=data), tests)


@pytest.mark.parametrize("captions", ["random", "all"])
def test_an_item_is_asked_for_once_whatever_its_captions(data, captions):
    found = items(data, phase="train", captions=captions)
    rows = [(set, [sample.index for sample in samples]) for set, samples in found.items()]
    assert rows == [(set, ["0", "1", "3"]) for set in stage2.SETS]
    found = items(data, True, name="ContactHumanML3DDataset", phase="test", captions=captions)
    keys = [(sample.index, sample.caption_idx) for sample in found["H3D"]]
    assert keys == [("000021", 2), ("M000004", 0), ("000021", 0)]


def test_training_takes_all_items_and_a_test_its_first_ones_in_afford_motions_order(data):
    train = items(data, phase="all", sets=("PROX",), max_items=2)
    assert [sample.index for sample in train["PROX"]] == ["0", "1", "2", "3", "4", "5"]
    options = {"phase": "all", "sets": ("PROX",), "max_items": 2}
    first = [sample.index for sample in items(data, True, **options)["PROX"]]
    order = list(range(6))
    random.Random(2023).shuffle(order)
    assert first == [str(index) for index in order[:2]]


def test_h3d_is_asked_for_below_200_frames_whatever_our_max_horizon(data):
    found = items(data, name="ContactHumanML3DDataset", phase="train", max_horizon=50)
    assert {sample.index for sample in found["H3D"]} == {"000021", "M000004"}


def look(folder, files, tests=False, joints=6, deep=False, **options):
    """The report on PROX, or on H3D, with these files there."""
    options = {"sets": ("PROX",), "phase": "train", **options}
    data = folder / "data"
    if not data.exists():
        data.mkdir()
        stage2.write_data(data)
    wanted = items(data, tests, **options)
    [set] = wanted
    (folder / set / "pred_contact").mkdir(parents=True)
    for name, content in files.items():
        path = folder / set / "pred_contact" / name
        if callable(content):
            content(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
    [report] = check_maps(folder, wanted, tests, {set: stage2.POINTS}, joints, deep)
    return report


GOOD = np.ones((1, stage2.POINTS, 6), np.float32)


def test_what_is_there_missing_and_unasked_is_told_apart(tmp_path):
    files = {"00000.npy": GOOD, "00003.npy": GOOD, "00001-0.npy": GOOD, "00005.npy": GOOD}
    report = look(tmp_path, files | {".00001.npy": GOOD, "notes.txt": b"x"})
    assert (report.num_items, report.num_read, report.ok) == (3, 2, False)
    assert report.missing == ["PROX/1"] and report.unreadable == {}
    assert report.unasked == ["00001-0.npy", "00005.npy"]
    assert report.lines(tests=False)[1:] == [
        "  1 without one, stage 2 would take ground truth: PROX/1",
        "  2 file(s) that no item asks for: 00001-0.npy, 00005.npy",
    ]
    lines = report.lines(tests=True)
    assert "stage 2 would stop there" in lines[1]
    assert lines[3].endswith("--config dataset='{phase: test, captions: reference}'")


def test_all_there_is_ok(tmp_path):
    report = look(tmp_path, {f"{i:05}.npy": GOOD for i in (0, 1, 3)}, deep=True)
    assert report.ok and report.num_read == 3 and report.num_maps == {1: 3}
    assert len(report.lines(tests=False)) == 1 and report.as_dict()["ok"]


def savez(path):
    with open(path, "wb") as file:
        np.savez(file, GOOD)


def npy(values) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


BROKEN = {
    "two maps": (GOOD.repeat(2, 0), "is (2, 16, 6), expected (1, 16, 6)"),
    "no first axis": (GOOD[0], "is (16, 6), expected"),
    "other points": (GOOD[:, 1:], "is (1, 15, 6), expected"),
    "other joints": (GOOD[..., 1:], "is (1, 16, 5), expected"),
    "integers": (GOOD.astype(np.int32), "holds int32, expected floating-point"),
    "a pickle": (np.array([{}], object), "holds object"),
    "cut off": (npy(GOOD)[:-1], "cut off (511 bytes, expected 512)"),
    "cut in the header": (npy(GOOD)[:20], "not an array in numpy's format"),
    "empty": (b"", "not an array in numpy's format"),
    "npz": (savez, "not an array in numpy's format"),
    "a folder": (lambda path: path.mkdir(), "not a file"),
    "a pipe": (os.mkfifo, "not a file"),
    "a dead link": (lambda path: path.symlink_to("nowhere"), "No such file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_stage_2_cannot_use_is_named_with_the_reason(tmp_path, kind):
    content, reason = BROKEN[kind]
    report = look(tmp_path, {"00000.npy": content, "00001.npy": GOOD, "00003.npy": GOOD})
    assert list(report.unreadable) == ["00000.npy"] and reason in report.unreadable["00000.npy"]
    assert report.num_read == 2 and not report.ok and not report.missing


def test_only_a_deep_look_finds_numbers_that_are_none(tmp_path):
    bad = GOOD.copy()
    bad[0, 3, 2] = np.nan
    path = tmp_path / "a.npy"
    np.save(path, bad)
    assert read_map_header(path) == GOOD.shape
    with pytest.raises(ValueError, match="NaN or infinity"):
        read_map_header(path, deep=True)


def test_a_test_takes_any_number_of_maps(tmp_path):
    files = {"00002.npy": GOOD.repeat(30, 0), "00004.npy": GOOD, "00000.npy": GOOD[0]}
    report = look(tmp_path, files, tests=True, phase="test")
    assert report.num_read == 2 and report.num_maps == {1: 1, 30: 1} and not report.unreadable
    assert "maps of an item: 1 (1 files), 30 (1 files)" in report.lines(tests=True)[0]


def test_unknown_joints_are_those_of_most_maps(tmp_path):
    files = {"00000.npy": GOOD, "00001.npy": GOOD, "00003.npy": GOOD[..., :2]}
    report = look(tmp_path, files, joints=None)
    assert report.shape == (16, 6) and list(report.unreadable) == ["00003.npy"]


def test_training_on_h3d_takes_any_caption_of_a_clip_and_reads_all_its_files(tmp_path):
    options = {"name": "ContactHumanML3DDataset"}
    files = {"000021-1.npy": GOOD, "000021-7.npy": GOOD, "000007-0.npy": GOOD, "000021.npy": GOOD}
    report = look(tmp_path, files, **options)
    assert report.missing == ["H3D/M000004 caption 0"] and report.num_read == 2
    assert report.unasked == ["000007-0.npy", "000021.npy"]
    np.save(tmp_path / "H3D/pred_contact/000021-7.npy", GOOD[0])
    wanted = items(tmp_path / "data", phase="train", **options)
    [report] = check_maps(tmp_path, wanted, False, {"H3D": 16}, 6)
    assert report.num_read == 0 and list(report.unreadable) == ["000021-7.npy"]


def test_a_missing_folder_means_that_every_item_is_without_a_map(tmp_path):
    data = stage2.write_data(tmp_path)
    [report] = check_maps(tmp_path, items(data, sets=("PROX",), phase="all"), False, {"PROX": 16})
    assert len(report.missing) == report.num_items == 6 and report.shape == (16, None)
