"""Which arrays and files an archive has (no torch).

One row is one inner chunk with a crc32c, and the rows of one chunk are one shard. The fill value
is NaN, so that a row that was never written cannot pass for numbers. A shard exists if and only if
its chunk has at least one map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OK, SKIPPED = "ok", "skipped"
COLUMN_ROWS = 65536  # rows per file of a text or integer column
# Columns of the merged archive. `index` is the row's number as text: xarray aligns rows by the
# column that is named like the axis, so its values must be unique. `key` names the sample, and is
# the same in every archive: set/item/caption_idx.
TEXT_COLUMNS = ("index", "key", "set", "item", "text", "scene_id", "status")
INT_COLUMNS = ("caption_idx",)
COLUMNS = (*TEXT_COLUMNS, *INT_COLUMNS)
SHARDED = ("sample", "distance", "points", "scene_trans", "aug_trans")  # as `Layout.arrays` has
AXES = ("joint", "xyz")  # other axes whose places have names
# Version of the archive's form. Those of version 1 have no attribute `archive_version`, no `key`
# and no `AXES`. In the first of them, there is no `item` either: `index` is what `item` is now.
ARCHIVE_VERSION = 2


@dataclass(frozen=True)
class Layout:
    """Shape of a chunk's store or of a merged archive.

    Attributes:
        num_samples: rows, n.
        chunk_size: rows per shard.
        k_samples: maps per sample, k.
        num_points: points per map.
        contact_dim: joints per point.
        dtype: "float32" or "float16", of maps and points.
    """

    num_samples: int
    chunk_size: int
    k_samples: int
    num_points: int
    contact_dim: int
    dtype: str

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str, tuple[str, ...]]]:
        """Shape of one row, dtype and dimension names of each sharded array."""
        maps = (self.k_samples, self.num_points, self.contact_dim)
        map_axes = ("k_sample", "point", "joint")
        return {
            "sample": (maps, self.dtype, map_axes),
            "distance": (maps, self.dtype, map_axes),
            "points": ((self.num_points, 3), self.dtype, ("point", "xyz")),
            "scene_trans": ((4, 4), "float32", ("row", "column")),
            "aug_trans": ((4, 4), "float32", ("row", "column")),
        }

    def empty(self) -> dict[str, np.ndarray]:
        """Arrays of this layout in memory, all NaN."""
        return {
            name: np.full((self.num_samples, *row), np.nan, dtype)
            for name, (row, dtype, _) in self.arrays().items()
        }

    def problem(self) -> str | None:
        """Why no archive has this layout, or None."""
        numbers = {key: value for key, value in vars(self).items() if key != "dtype"}
        for key, value in numbers.items():
            if not 0 < value < 2**40:
                return f"{key} is {value}, expected a positive number"
        if self.dtype not in ("float32", "float16"):
            return f"dtype is {self.dtype!r}, expected float32 or float16"
        return None

    def shards(self, statuses: Sequence[str]) -> set[str]:
        """Paths of all shards in the store: one for each array and each chunk that has a map.

        Args:
            statuses: `ok` or `skipped` of every row.
        """
        size = self.chunk_size
        numbers = [
            number
            for number, start in enumerate(range(0, len(statuses), size))
            if any(status == OK for status in statuses[start : start + size])
        ]
        return {
            shard_name(name, number, len(row) + 1)
            for name, (row, _, _) in self.arrays().items()
            for number in numbers
        }

    def chunk_files(self, statuses: Sequence[str]) -> set[str]:
        """Paths of all files in the store of a chunk with these rows."""
        return (
            {"zarr.json"} | {f"{name}/zarr.json" for name in self.arrays()} | self.shards(statuses)
        )


def shard_name(array: str, number: int, ndim: int) -> str:
    """Path of a shard in its store: `sample/c.7.0.0.0` holds chunk 7 of all maps."""
    return f"{array}/c.{number}" + ".0" * (ndim - 1)
