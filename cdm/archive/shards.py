"""Shard files as zarr writes them, but without what zarr costs for each row (no torch).

The bytes are those of the Zarr v3 specification, sharding codec with its index at the end: the rows
one after the other, each with its crc32c behind it; then offset and length of every row, and the
crc32c of these. Numbers are little-endian. A row that is all NaN has the fill value: it is not
written, and the index says so. A test holds the bytes against zarr's.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import zarr

from cdm.files import checksum

NOT_WRITTEN = 2**64 - 1  # offset and length of such a row


def naive_write_shard(array: zarr.Array, values: np.ndarray) -> None:
    """Have zarr write the only shard of a chunk's array; it takes 0.4 ms for each row."""
    array[:] = values


def write_shard(path: Path, values: np.ndarray, num_rows: int) -> list | None:
    """Write the same file, and read it back.

    Args:
        path: of the shard, in a folder that exists.
        values: (rows, ...) of the array's dtype.
        num_rows: rows that a shard has room for; those behind `values` are not written.
    Returns:
        [size in bytes, sha256] of the file, or None where every row is NaN: then there is no file.
    Raises:
        OSError: the disk refused.
        ValueError: what was read back differs from what was written.
    """
    if all(np.isnan(row.flat[0]) and np.isnan(row).all() for row in values):
        return None
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for block in _blocks(values, num_rows):
            file.write(block)
            digest.update(block)
            size += len(block)
    written = [size, digest.hexdigest()]
    if checksum(path) != written:
        raise ValueError(f"{path.name} reads back differently from what was written")
    return written


def _blocks(values: np.ndarray, num_rows: int) -> Iterator[bytes]:
    """The bytes of a shard, from its beginning to its end."""
    index = np.full((num_rows, 2), NOT_WRITTEN, "<u8")
    offset = 0
    for number, row in enumerate(values):
        if np.isnan(row.flat[0]) and np.isnan(row).all():
            continue
        data = row.astype(row.dtype.newbyteorder("<"), copy=False).tobytes()
        index[number] = offset, len(data) + 4
        offset += len(data) + 4
        yield data
        yield _crc32c(data)
    yield index.tobytes()
    yield _crc32c(index.tobytes())


def _crc32c(data: bytes) -> bytes:
    return google_crc32c.value(data).to_bytes(4, "little")
