"""Shard files written without zarr are zarr's, byte for byte; and what the disk loses is found."""

from dataclasses import replace

import numpy as np
import pytest
import zarr

from cdm.archive import shards
from cdm.archive.layout import Layout, shard_name
from cdm.archive.shards import ShardSums, naive_write_shard, write_shard
from cdm.archive.store import create_arrays
from cdm.files import checksum

LAYOUT = Layout(5, chunk_size=8, k_samples=2, num_points=16, contact_dim=3, dtype="float32")


def made(layout, empty=()):
    """Arrays of a layout, with NaN in some rows."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.random(v.shape).astype(v.dtype) for name, v in layout.empty().items()}
    for values in arrays.values():
        values[list(empty)] = np.nan
    return arrays


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("num_rows", [1, 5, 8])
@pytest.mark.parametrize("empty", [(), (0,), (1, 4), range(5)])
def test_a_shard_has_the_bytes_that_zarr_writes(tmp_path, dtype, num_rows, empty):
    layout = replace(LAYOUT, dtype=dtype, num_samples=min(5, num_rows), chunk_size=num_rows)
    empty = [row for row in empty if row < layout.num_samples]
    theirs, ours = (create_arrays(tmp_path / name, layout) for name in ("theirs", "ours"))
    for name, values in made(layout, empty).items():
        naive_write_shard(theirs[name], values)
        shard = shard_name(name, 0, values.ndim)
        written = write_shard(tmp_path / "ours" / shard, values, num_rows)
        if len(empty) == layout.num_samples:
            assert written is None and not (tmp_path / "theirs" / shard).exists()
        else:
            content = (tmp_path / "theirs" / shard).read_bytes()
            assert (tmp_path / "ours" / shard).read_bytes() == content
            assert written == checksum(tmp_path / "theirs" / shard)
        np.testing.assert_array_equal(ours[name][:], values)


def test_rows_that_only_begin_with_nan_are_written(tmp_path):
    """Nothing of this form enters an archive, and it is for others to refuse it."""
    array = create_arrays(tmp_path, LAYOUT)["points"]
    values = made(LAYOUT)["points"]
    values[2, 0, 0] = np.nan
    write_shard(tmp_path / "points/c.0.0.0", values, LAYOUT.chunk_size)
    np.testing.assert_array_equal(array[:], values)


def test_a_flipped_bit_of_a_row_or_of_the_index_is_found_by_zarr(tmp_path):
    path, values = tmp_path / "points/c.0.0.0", made(LAYOUT)["points"]
    create_arrays(tmp_path, LAYOUT)
    write_shard(path, values, LAYOUT.chunk_size)
    content = path.read_bytes()
    for position in (3, len(content) - 30):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        with pytest.raises(Exception, match="checksum"):
            zarr.open_array(tmp_path / "points", mode="r")[0]


def test_a_disk_that_gives_back_other_bytes_is_told(tmp_path, monkeypatch):
    create_arrays(tmp_path, LAYOUT)
    monkeypatch.setattr(shards, "checksum", lambda path: [checksum(path)[0], "0" * 64])
    with pytest.raises(ValueError, match=r"c\.0\.0\.0 reads back differently"):
        write_shard(tmp_path / "points/c.0.0.0", made(LAYOUT)["points"], LAYOUT.chunk_size)


@pytest.mark.parametrize("empty", [(), (0, 3), range(5)])
def test_a_shard_summed_up_while_its_rows_are_made_is_the_same_file(tmp_path, empty):
    values, sums = made(LAYOUT, empty)["points"], ShardSums()
    for row, numbers in enumerate(values):
        sums.add(None if row in empty else numbers)
    written = write_shard(tmp_path / "known", values, LAYOUT.chunk_size, sums)
    assert written == write_shard(tmp_path / "whole", values, LAYOUT.chunk_size)
    if written:
        assert (tmp_path / "known").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_row_that_changed_after_it_was_summed_up_is_told(tmp_path):
    values, sums = made(LAYOUT)["points"], ShardSums()
    for numbers in values:
        sums.add(numbers)
    values[2, 0] += 1
    with pytest.raises(ValueError, match="reads back differently"):
        write_shard(tmp_path / "points", values, LAYOUT.chunk_size, sums)
