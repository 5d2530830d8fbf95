"""Shard files as zarr writes them, but without what zarr costs for each row (no torch).

The bytes are those of the Zarr v3 specification, sharding codec with its index at the end: the rows
one after the other, each with its crc32c behind it; then offset and length of every row, and the
crc32c of these. Numbers are little-endian. A row that is all NaN has the fill value: it is not
written, and the index says so. A test holds the bytes against zarr's.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from cdm.files import checksum

if TYPE_CHECKING:
    import zarr  # takes half a second to import, and a job that samples does not need it yet

NOT_WRITTEN = 2**64 - 1  # offset and length of such a row


def naive_write_shard(array: "zarr.Array", values: np.ndarray) -> None:
    """Have zarr write the only shard of a chunk's array; it takes 0.4 ms for each row."""
    array[:] = values


class ShardSums:
    """The checksums of a shard, for which rows are told one after the other, as they are made.

    While a GPU computes further rows, those that are there are summed up. What is left for the end
    is to write the file and to read it back.

    Attributes:
        crcs: crc32c of each row that was told; None for a row that is not written.
        finite: whether all numbers of each row are finite; False for a row that is not written.
    """

    def __init__(self) -> None:
        self.crcs: list[bytes | None] = []
        self.finite: list[bool] = []
        self._index: list[tuple[int, int]] = []  # offset and length of each row
        self._digest, self._size = hashlib.sha256(), 0

    @classmethod
    def of(cls, values: np.ndarray) -> "ShardSums":
        """Those of all rows; a row that is all NaN is not written."""
        sums = cls()
        for row in values:
            sums.add(None if np.isnan(row.flat[0]) and np.isnan(row).all() else row)
        return sums

    def add(self, row: np.ndarray | None) -> None:
        """Tell the next row, which must not change any more; None for one that is not written."""
        self.finite.append(row is not None and bool(np.isfinite(row).all()))
        if row is None:
            self.crcs.append(None)
            self._index.append((NOT_WRITTEN, NOT_WRITTEN))
            return
        data = _bytes(row)
        crc = _crc32c(data)
        self.crcs.append(crc)
        self._digest.update(data)
        self._digest.update(crc)
        self._index.append((self._size, len(data) + len(crc)))
        self._size += len(data) + len(crc)

    def end(self, num_rows: int) -> tuple[bytes, list]:
        """The index with its checksum, which ends the file, and [size, sha256] of the whole file.

        Args:
            num_rows: rows that the shard has room for.
        """
        index = np.full((num_rows, 2), NOT_WRITTEN, "<u8")
        index[: len(self._index)] = self._index
        end = index.tobytes() + _crc32c(index.tobytes())
        digest = self._digest.copy()
        digest.update(end)
        return end, [self._size + len(end), digest.hexdigest()]


def write_shard(
    path: Path, values: np.ndarray, num_rows: int, sums: ShardSums | None = None
) -> list | None:
    """Write the same file, and read it back.

    Args:
        path: of the shard, in a folder that exists.
        values: (rows, ...) of the array's dtype.
        num_rows: rows that a shard has room for; those behind `values` are not written.
        sums: of all rows, where they are known.
    Returns:
        [size in bytes, sha256] of the file, or None where no row is written: then there is no file.
    Raises:
        OSError: the disk refused.
        ValueError: what was read back differs from what was written.
    """
    sums = sums or ShardSums.of(values)
    if not any(sums.crcs):
        return None
    end, written = sums.end(num_rows)
    with open(path, "wb") as file:
        for row, crc in zip(values, sums.crcs, strict=True):
            if crc is not None:
                file.write(_bytes(row))
                file.write(crc)
        file.write(end)
    if checksum(path) != written:
        raise ValueError(f"{path.name} reads back differently from what was written")
    return written


def _bytes(row: np.ndarray) -> bytes:
    return row.astype(row.dtype.newbyteorder("<"), copy=False).tobytes()


def _crc32c(data: bytes) -> bytes:
    return google_crc32c.value(data).to_bytes(4, "little")
