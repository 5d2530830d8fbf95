"""Rows read by their offset are those that zarr reads, and damage is named."""

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr
from archives import LAYOUT, SKIPPED_ROW, make_run, quiet, whole_arrays
from zarr.codecs import ZstdCodec

import cdm.archive.rows
from cdm.archive import ContactMaps
from cdm.archive.layout import SHARDED
from cdm.archive.rows import (
    DamagedRow,
    ShardRows,
    is_finite,
    is_finite_naive,
    plain_form_problem,
    read_row_naive,
)
from cdm.errors import ArchiveError
from cdm.run.merge import merge

OK_ROWS = [row for row in range(7) if row != SKIPPED_ROW]


@pytest.fixture(scope="module", params=["float32", "float16"])
def merged(request, tmp_path_factory):
    """A folder with a merged run of this dtype; sample 4 was skipped."""
    folder = tmp_path_factory.mktemp("merged")
    with contextlib.chdir(folder):
        merge(make_run(replace(LAYOUT, dtype=request.param)), quiet)
    return folder


@pytest.fixture
def archive(merged, tmp_path, monkeypatch):
    """A copy that a test may change, under the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(merged / "outputs", "outputs")
    return Path("outputs/run/contact_maps.zarr")


def rows_of(archive, name="distance"):
    array = zarr.open_group(archive, mode="r")[name]
    assert plain_form_problem(array) is None
    return ShardRows(str(archive), name, array, lambda shard: None), array


@pytest.mark.parametrize("name", SHARDED)
def test_a_row_is_the_one_that_zarr_reads(archive, name):
    rows, array = rows_of(archive, name)
    for row in OK_ROWS:
        found, expected = rows.read(row), read_row_naive(array, row)
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
        found[:] = 0  # it is the caller's
        np.testing.assert_array_equal(rows.read(row), expected)


def test_a_row_that_zarr_reads_as_nan_is_an_error_with_its_shard(archive):
    rows, array = rows_of(archive)
    assert np.isnan(read_row_naive(array, SKIPPED_ROW)).all()
    with pytest.raises(DamagedRow, match=r"distance/c.1.0.0.0: row 4 is not in it, expected"):
        rows.read(SKIPPED_ROW)

    (archive / "distance/c.0.0.0.0").unlink()
    assert np.isnan(read_row_naive(array, 0)).all()
    with pytest.raises(DamagedRow, match=r"distance/c.0.0.0.0: No such file"):
        rows_of(archive)[0].read(0)


def test_any_flipped_bit_that_a_row_depends_on_is_found(archive):
    path = archive / "points/c.1.0.0"  # rows 3, 4 (skipped) and 5
    path.chmod(0o644)
    content = path.read_bytes()
    expected = rows_of(archive, "points")[0].read(3).tobytes()
    size = len(expected) + 4
    assert content[: size - 4] == expected
    index = len(content) - (3 * 16 + 4)
    for place in (*range(0, size, 7), size - 4, size - 1, *range(index, len(content))):
        path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        with pytest.raises(DamagedRow, match=r"points/c.1.0.0: .*crc32c"):
            rows_of(archive, "points")[0].read(3)
    path.write_bytes(content[:size] + bytes([content[size] ^ 8]) + content[size + 1 :])
    assert rows_of(archive, "points")[0].read(3).tobytes() == expected  # of row 5


@pytest.mark.parametrize("kept", [0, 3, 51, 60, -1])
def test_a_shard_that_was_cut_off_is_found(archive, kept):
    path = archive / "distance/c.0.0.0.0"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedRow, match=r"distance/c.0.0.0.0: (cut off|corrupt)"):
        rows_of(archive)[0].read(0)


def test_a_shard_that_is_cut_off_while_it_is_open_is_found(archive):
    rows, path = rows_of(archive)[0], archive / "distance/c.0.0.0.0"
    rows.read(0)
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DamagedRow, match=r"distance/c.0.0.0.0: cut off: row 2 has"):
        rows.read(2)


def test_whether_all_values_are_numbers_is_told_as_numpy_tells_it():
    around = [0, 0x7C00, 0x8000, 0xFC00]  # zero and infinity of each sign
    bits = {(each + by) % 2**16 for each in around for by in range(-3, 4)} | {*range(0, 2**16, 997)}
    halves = np.array(sorted(bits), np.uint16).view(np.float16)
    words = np.array([0, 1, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FFFFFFF], np.uint32)
    singles = np.concatenate([words, words | 0x80000000]).view(np.float32)
    for values in (halves, singles):
        for value in values:
            beside = np.array([0.5, value, -2], values.dtype)
            assert is_finite(beside) == is_finite_naive(beside) == bool(np.isfinite(value))
    for values in (np.zeros(0, np.float16), np.array([1.0, np.inf]), np.float32(np.nan)):
        assert is_finite(np.asarray(values)) == is_finite_naive(values)


def test_an_array_of_another_form_is_read_by_zarr(archive):
    """As a user may write it who compresses an archive for keeping."""
    group, expected = zarr.open_group(archive, mode="r+"), {}
    for path in archive.rglob("*"):
        path.chmod(0o755)
    for record in archive.parent.glob("contact_maps-*.json"):
        record.unlink()
    for name, changes in {
        "distance": {"compressors": [ZstdCodec()]},
        "points": {"chunks": (3, 16, 3)},
    }.items():
        old, values = group[name], group[name][:]
        shutil.rmtree(archive / name)
        kept = {"shards": old.shards, "chunks": old.chunks, "compressors": old.compressors}
        zarr.create_array(archive / name, data=values, fill_value=float("nan"), **(kept | changes))
        expected[name] = values
    with pytest.warns(match="Consolidated metadata"):
        zarr.consolidate_metadata(archive)
    maps = ContactMaps(archive)
    for name, values in expected.items():
        assert plain_form_problem(maps.group[name])
        for row in OK_ROWS:
            np.testing.assert_array_equal(maps.read(name, row), values[row])


def test_only_so_many_shards_are_open_at_once(archive, monkeypatch):
    def open_shards():
        paths = [file.path for file in psutil.Process().open_files()]
        return len([path for path in paths if path.startswith(str(archive.absolute()))])

    monkeypatch.setattr(cdm.archive.rows, "OPEN_SHARDS", 2)
    maps, expected = ContactMaps(archive), whole_arrays()["points"]
    for row in 2 * OK_ROWS:
        np.testing.assert_allclose(maps.read("points", row), expected[row], rtol=1e-3)
    assert open_shards() == 2
    del maps
    gc.collect()
    assert open_shards() == 0


def test_threads_read_right_rows_while_shards_are_closed_and_opened(archive, monkeypatch):
    monkeypatch.setattr(cdm.archive.rows, "OPEN_SHARDS", 1)
    maps = ContactMaps(archive)
    expected = {row: maps.read("distance", row).tobytes() for row in OK_ROWS}

    def right(row):
        return maps.read("distance", row).tobytes() == expected[row]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, 100 * OK_ROWS))


def digests(maps, rows):
    return [maps.read("distance", row).tobytes() for row in rows]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_other_processes_read_the_same_rows(archive, method):
    maps = ContactMaps(archive)
    expected = digests(maps, OK_ROWS)  # its shards are open
    with concurrent.futures.ProcessPoolExecutor(
        2, mp_context=multiprocessing.get_context(method)
    ) as pool:
        for found in [pool.submit(digests, maps, OK_ROWS) for _ in range(4)]:
            assert found.result() == expected


def test_a_pickle_opens_the_same_archive_or_none(archive, monkeypatch, tmp_path):
    maps = ContactMaps(archive, checksums=True)
    pickled, expected = pickle.dumps(maps), digests(maps, OK_ROWS)
    monkeypatch.chdir(tmp_path.parent)  # the path was relative
    again = pickle.loads(pickled)
    assert digests(again, OK_ROWS) == expected and again.checksums
    monkeypatch.chdir(tmp_path)
    shutil.copytree(archive, "copy.zarr")
    shutil.rmtree(archive)
    shutil.move("copy.zarr", archive)
    with pytest.raises(ArchiveError, match="was replaced or removed while it was open"):
        pickle.loads(pickled)
