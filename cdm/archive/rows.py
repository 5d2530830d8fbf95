"""One row of a sharded array: the naive form reads it through zarr, the fast one by its offset.

A shard is a file: rows one after the other, each with its crc32c, then an index with the offset and
the size of every row, then the index's own crc32c (Zarr v3, `sharding_indexed`). Zarr opens the
file and reads its index for every row anew. The fast form keeps shards open and their indices in
memory, so that a row is one `pread` and one checksum.
"""

import os
import stat
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import google_crc32c  # what zarr computes its crc32c with
import numpy as np

if TYPE_CHECKING:
    import zarr

OPEN_SHARDS = 128  # files that an archive keeps open; a process may have 1024 by default
MISSING = np.iinfo(np.uint64).max  # offset and size of a row that was never written
CRC_BYTES = 4
BYTES_AND_CRC = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "crc32c"},
]
# Bits of the smallest positive value that is not finite (infinity). With the sign bit, they are
# those of the smallest negative one.
NOT_FINITE = {
    np.dtype("float16"): (np.int16, 0x7C00, np.uint16, 0xFC00),
    np.dtype("float32"): (np.int32, 0x7F800000, np.uint32, 0xFF800000),
}


class DamagedRow(Exception):
    """A row that cannot be read; the text names the file, from the archive's folder on."""


def read_row_naive(array: "zarr.Array", row: int | slice) -> np.ndarray:
    """One row, or several, through zarr. A file or a row that is missing reads as NaN."""
    return np.asarray(array[row])


def shard_key(array: "zarr.Array", number: int) -> str:
    """Path of a shard in the folder of its array, `c.7.0.0.0`."""
    place = (number, *(0 for _ in array.shape[1:]))
    return array.metadata.chunk_key_encoding.encode_chunk_key(place)


def is_finite_naive(values: np.ndarray) -> bool:
    """Whether all values are numbers."""
    return bool(np.isfinite(values).all())


def is_finite(values: np.ndarray) -> bool:
    """Whether all values are numbers, by the largest of their bits: numpy's float16 is slow.

    Read as integers, NaN and infinity are the largest values of each sign.

    Args:
        values: float16 or float32, contiguous; other types take the naive form.
    """
    if values.dtype not in NOT_FINITE or not values.size or not values.ndim:
        return is_finite_naive(values)
    signed, positive, unsigned, negative = NOT_FINITE[values.dtype]
    bits = values.view(signed), values.view(unsigned)
    return bool(bits[0].max() < positive and bits[1].max() < negative)


def plain_form_problem(array: "zarr.Array") -> str | None:
    """Why `ShardRows` cannot read an array, or None.

    It reads arrays with one row in an inner chunk that is not compressed, which is the form in
    which this program writes them. Any other (compressed later, by another program) is read by
    zarr.
    """
    found, row = array.metadata.to_dict(), array.shape[1:]
    expected = {
        "zarr_format": 3,
        "storage_transformers": (),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": ((array.shards or (0,))[0], *row)},
        },
        "codecs": (
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": (1, *row),
                    "codecs": BYTES_AND_CRC,
                    "index_codecs": BYTES_AND_CRC,
                    "index_location": "end",
                },
            },
        ),
    }
    for key, value in expected.items():
        if _as_lists(found.get(key, ())) != _as_lists(value):
            return f"{key} is {found.get(key)}"
    if array.dtype not in NOT_FINITE or sys.byteorder != "little" or not hasattr(os, "preadv"):
        return f"{array.dtype} on a {sys.byteorder}-endian machine ({sys.platform})"
    return None


def _as_lists(value: Any) -> Any:
    """JSON values whose tuples are lists."""
    if isinstance(value, dict):
        return {key: _as_lists(each) for key, each in value.items()}
    return [_as_lists(each) for each in value] if isinstance(value, list | tuple) else value


class ShardRows:
    """Rows of one array on this machine's disk, each held against its crc32c.

    Threads and forked processes may share an object: reading moves no file position.

    Args:
        folder: of the archive.
        name: of the array, of the form that `plain_form_problem` asks for.
        array: the same array, opened by zarr.
        check: called with a shard's path in the archive before the shard is opened; what it
            returns is what is wrong with the file, or None.
    """

    def __init__(
        self, folder: str, name: str, array: "zarr.Array", check: Callable[[str], str | None]
    ):
        self.folder, self.check = folder, check
        self.shape, self.dtype = array.shape[1:], array.dtype
        self.rows_per_shard = array.shards[0]
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.shape))
        self._shard_name = lambda number: f"{name}/{shard_key(array, number)}"
        self._shard = lru_cache(OPEN_SHARDS)(self._open)

    def read(self, row: int) -> np.ndarray:
        """One row of the array, of its dtype; the caller may change it.

        Raises:
            DamagedRow: the shard is missing, cut off or damaged, or has no such row.
        """
        shard = self._shard(row // self.rows_per_shard)
        offset, size = shard.index[row % self.rows_per_shard]
        if size != self.row_bytes + CRC_BYTES:
            what = "is not in it" if offset == size == MISSING else f"has {size} bytes in its index"
            raise DamagedRow(
                f"{shard.name}: row {row} {what}, expected {self.row_bytes + CRC_BYTES} bytes"
            )
        values, crc = np.empty(self.shape, self.dtype), bytearray(CRC_BYTES)
        buffers: list[Any] = [values, crc]
        # Offsets are at most 2**63 - 1 where the file is whole; others are told like a short file.
        try:
            found = os.preadv(shard.descriptor, buffers, min(offset, sys.maxsize))
        except OSError as error:
            raise DamagedRow(f"{shard.name}: {error.strerror or error}") from None
        if found != size:
            raise DamagedRow(f"{shard.name}: cut off: row {row} has {found} bytes, expected {size}")
        if google_crc32c.value(values) != int.from_bytes(crc, "little"):
            raise DamagedRow(f"{shard.name}: corrupt (row {row} does not match its crc32c)")
        return values

    def _open(self, number: int) -> "_Shard":
        name = self._shard_name(number)
        problem = self.check(name)
        if problem:
            raise DamagedRow(problem)
        try:
            return _Shard(self.folder, name, self.rows_per_shard)
        except OSError as error:
            raise DamagedRow(f"{self.folder}/{name}: {error.strerror or error}") from None


class _Shard:
    """An open shard and its index; the file is closed when nobody reads it any more."""

    def __init__(self, folder: str, name: str, rows_per_shard: int):
        self.name = f"{folder}/{name}"
        # No link is followed, and a pipe does not make us wait.
        self.descriptor = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        found = os.fstat(self.descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedRow(f"{self.name}: not a file")
        size = 16 * rows_per_shard + CRC_BYTES
        content = os.pread(self.descriptor, size, max(0, found.st_size - size))
        if len(content) != size:
            raise DamagedRow(f"{self.name}: cut off ({found.st_size} bytes, its index has {size})")
        entries, crc = content[:-CRC_BYTES], content[-CRC_BYTES:]
        if google_crc32c.value(entries) != int.from_bytes(crc, "little"):
            raise DamagedRow(f"{self.name}: corrupt (its index does not match its crc32c)")
        # (offset, size) of each row, as Python's integers.
        self.index = np.frombuffer(entries, "<u8").reshape(-1, 2).tolist()

    def __del__(self):
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)
