"""Arrays are read whole, remembered by content, and checked before they are unpacked."""

import io
import os
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from example_datasets import damage, make, message

from cdm.datasets import FileReader, stat_files
from cdm.datasets.files import load_npy, load_npz, safe_path
from cdm.errors import BadItem, DataError
from cdm.files import hash_file, safe_name


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


NAN = np.zeros((16, 22), np.float32)
NAN[4, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"points": np.zeros((15, 6))},
            "(15, 6), expected (16, 6) (if all items have 15 points, set dataset.num_points: 15)",
        ),
        ({"points": np.zeros((0, 6))}, "'points' is (0, 6), expected (16, 6);"),
        ({"points": np.zeros((6, 16))}, "'points' is (6, 16), expected (16, 6);"),
        ({"points": np.zeros((17, 6))}, "'points' is (17, 6), expected (16, 6)"),
        ({"points": np.zeros((16, 3))}, "'points' is (16, 3), expected (16, 6)"),
        ({"dist": np.zeros((16, 6))}, "'dist' is (16, 6), expected (16, 22)"),
        ({"dist": NAN}, "'dist' holds 1 NaN or infinite numbers, the first at [4, 2]"),
        ({"points": np.full((16, 6), np.inf)}, "'points' holds 96 NaN or infinite numbers"),
        ({"points": np.full((16, 6), "x")}, "'points' is of type <U1, expected numbers"),
        ({"points": np.full((16, 6), None)}, "'points' is of type object, expected numbers"),
        ({"points": np.full((16, 6), 1j)}, "'points' is of type complex128, expected numbers"),
        ({"points": np.full((16, 6), 1e300)}, "'points' holds 96 NaN or infinite numbers"),
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
    found = "is empty" if keep == 0 else "damaged, truncated or not numeric .* bytes"
    with pytest.raises(BadItem, match=f"00000.npz: {found}"):
        dataset.load(dataset.samples()[0], FileReader(data_dir))


def test_any_flipped_byte_of_the_data_is_a_bad_item(data_dir):
    path = data_dir / "PROX/contact_motion/contacts/00000.npz"
    data = bytearray(path.read_bytes())
    data[400] ^= 0xFF
    path.write_bytes(data)
    dataset = make(data_dir)
    with pytest.raises(BadItem, match=r"00000.npz: 'points' is damaged"):
        dataset.load(dataset.samples()[0], FileReader(data_dir))


def test_vanished_file_is_a_bad_item(data_dir):
    dataset = make(data_dir)
    sample = dataset.samples()[0]
    (data_dir / dataset.files(sample)[0]).unlink()
    with pytest.raises(BadItem, match=r"contacts/00000.npz: cannot be read \(No such file"):
        dataset.load(sample, FileReader(data_dir))


@pytest.fixture
def item(data_dir):
    """The path of an item's file, and what is said when the item is loaded."""
    path = data_dir / "PROX/contact_motion/contacts/00000.npz"

    def problem() -> str:
        dataset = make(data_dir)
        with pytest.raises(BadItem) as error:
            dataset.load(dataset.samples()[0], FileReader(data_dir))
        return message(error)

    return path, problem


def test_an_array_under_the_name_of_an_archive_is_a_bad_item(item):
    path, problem = item
    with open(path, "wb") as file:
        np.save(file, np.zeros((16, 6), np.float32))
    assert "00000.npz: is one array, expected an .npz archive" in problem()


def test_an_archive_under_the_name_of_an_array_is_a_bad_item(data_dir):
    np.savez(data_dir / "a.npz", x=np.zeros(3))
    (data_dir / "a.npz").rename(data_dir / "a.npy")
    with pytest.raises(BadItem, match=r"a.npy: is an .npz archive, expected one array"):
        load_npy(FileReader(data_dir), "a.npy", (3,))


def test_a_pipe_or_folder_in_place_of_a_file_is_a_bad_item(item):
    path, problem = item
    path.unlink()
    os.mkfifo(path)
    assert "00000.npz: cannot be read (not a file)" in problem()
    path.unlink()
    path.mkdir()
    assert "00000.npz: cannot be read (not a file)" in problem()


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "/etc/hostname", "../x", "a//b", "", "a/.."])
def test_a_name_that_cannot_be_is_a_bad_item_and_counts_as_missing(data_dir, name):
    with pytest.raises(BadItem):
        FileReader(data_dir).read(name)
    assert stat_files(make(data_dir, on_bad_item="skip"), [f"PROX/{name}\0"]) == {
        f"PROX/{name}\0": None
    }


ODD = [
    "",
    ".",
    "..",
    "...",
    ".a",
    "a.",
    "..a",
    "a..",
    " ",
    "a\n",
    "\n",
    "x\x00y",
    "x\x7f",
    "ü",
    "a b",
]


@pytest.mark.parametrize("part", ODD)
@pytest.mark.parametrize("form", ["{}", "a/{}", "{}/a", "a/{}/b", "/{}", "{}/", "a//{}"])
def test_a_path_is_refused_exactly_where_a_part_of_it_is_no_name(part, form):
    relpath, refused = form.format(part), False
    for each in relpath.split("/"):
        try:
            safe_name(each, "here", BadItem)
        except BadItem:
            refused = True
    if refused:
        with pytest.raises(BadItem, match="expected the name of one file"):
            safe_path(Path("data"), relpath)
    else:
        assert safe_path(Path("data"), relpath) == Path("data", relpath)


def test_a_file_of_terabytes_is_not_read(item):
    path, problem = item
    with open(path, "r+b") as file:
        file.truncate(2**40)  # sparse: it takes no space
    assert "has 1099511627776 bytes, expected at most" in problem()


def write_member(path, shape, num_bytes, dtype="<f4", name="points.npy", times=1):
    """An .npz whose array claims a shape, with so many zero bytes behind it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(times):
            archive.writestr(name, header.getvalue() + bytes(num_bytes))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "member, text",
    [
        ({"shape": (16, 2**40), "num_bytes": 0}, "is (16, 1099511627776), expected (16, 6)"),
        ({"shape": (16, 6), "num_bytes": 2**24}, "more bytes than the array has"),
        ({"shape": (16, 6), "num_bytes": 5}, "damaged, truncated"),
        ({"shape": (16, 6), "num_bytes": 384, "dtype": "|O"}, "of type object, expected numbers"),
        ({"shape": (16, 6), "num_bytes": 384, "times": 2}, "points comes twice"),
    ],
)
def test_what_an_archive_declares_is_checked_before_it_is_unpacked(tmp_path, member, text):
    write_member(tmp_path / "a.npz", **member)
    tracemalloc.start()
    with pytest.raises(BadItem) as error:
        load_npz(FileReader(tmp_path), "a.npz", {"points": (16, 6)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text in message(error) and peak < 2**22


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "bool", ">f8", "float16"])
def test_numbers_of_every_type_become_float32(tmp_path, dtype):
    values = np.array([[0, 1, 100]]).astype(dtype)
    np.savez(tmp_path / "a.npz", x=values)
    (array,) = load_npz(FileReader(tmp_path), "a.npz", {"x": (1, 3)}).values()
    assert array.dtype == np.float32 and np.array_equal(array, values.astype(np.float32))


def test_row_numbers_are_integers(tmp_path):
    np.savez(tmp_path / "a.npz", good=np.array([3, 200], np.uint8), bad=np.array([0.0, 1.0]))
    reader, shapes = FileReader(tmp_path), {"good": (2,)}
    good = load_npz(reader, "a.npz", shapes, indices=("good",))["good"]
    assert good.dtype == np.int64 and good.tolist() == [3, 200]
    with pytest.raises(BadItem, match=r"'bad' is of type float64, expected integers"):
        load_npz(reader, "a.npz", {"bad": (2,)}, indices=("bad",))


def test_compressed_archives_are_read(tmp_path):
    points = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", points=np.asfortranarray(points))
    read = load_npz(FileReader(tmp_path), "a.npz", {"points": (16, (3, 6))})["points"]
    assert np.array_equal(read, points)


def test_a_pointer_in_the_place_of_an_array_is_called_so(data_dir):
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    for read, name in ((load_npy, "a.npy"), (load_npz, "a.npz")):
        (data_dir / name).write_bytes(pointer)
        shape = (3,) if read is load_npy else {"points": (3,)}
        with pytest.raises(BadItem, match=rf"{name}: is a git-LFS pointer .*rebuild the file"):
            read(FileReader(data_dir), name, shape)
