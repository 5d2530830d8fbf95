"""The finished archive, read by sample (no torch).

Zarr reads what is not there as NaN. So every read here looks at the file that holds the row, and
at the numbers that came out of it: a map that is damaged in any way is an error, never data.
"""

import os
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cdm.archive.checks import file_problem, verify_file
from cdm.archive.layout import COLUMN_ROWS, OK, SKIPPED, shard_name
from cdm.archive.records import archive_record_path, merge_again, read_archive_record
from cdm.contact import denormalise
from cdm.errors import ArchiveError

OPEN_TRIES, OPEN_WAIT_S = 20, 0.1  # an archive that is being replaced is there again within 2 s
NEVER_EMPTY = ("set", "index", "status")  # columns of earlier versions that always have files


class ContactMaps:
    """Read a merged archive; samples are found by (set, index, caption_idx).

    A row whose status is `ok` is finite, or reading it raises. A row whose status is `skipped`
    reads as NaN. Once a merge has replaced the archive, every read raises: rows of two archives
    never mix. Objects may be used by several threads.

    Attributes:
        path: of the archive.
        attributes: configuration, checkpoint, statistics, versions, devices, plan.
        group: the Zarr group. Reading its arrays directly has none of these checks.

    Args:
        path: `contact_maps.zarr`, a folder of this machine.
        checksums: hold each shard against the sha256 in the archive's record before its first row
            is read. For readers of the whole archive; a single map would wait for its shard.
    Raises:
        ArchiveError: there is no archive, no such sample in it, or the file that holds the sample
            is missing or damaged.
    """

    def __init__(self, path: str | Path, checksums: bool = False):
        if "://" in str(path):
            raise ArchiveError(
                f"{path}: an address, expected a folder such as outputs/demo/contact_maps.zarr; "
                "copy the archive to this machine, or read the address with zarr.open"
            )
        self.path = Path(path)
        self.checksums = checksums
        self._verified: set[str] = set()
        for attempt in range(OPEN_TRIES):
            try:
                self._open()
                return
            except ArchiveError:
                # Only where a merge is at work can the next attempt end otherwise.
                lock = self.path.with_name(f".{self.path.name}.lock")
                if attempt == OPEN_TRIES - 1 or not lock.exists():
                    raise
            time.sleep(OPEN_WAIT_S)

    def _open(self) -> None:
        try:
            self._identity = self._identify()
            self.group = zarr.open_group(self.path, mode="r")
            self.attributes: dict[str, Any] = dict(self.group.attrs)
            self._arrays = dict(self.group.arrays())
            missing = [
                key for key in ("plan", "config", "statistics") if key not in self.attributes
            ]
            if missing:
                raise ValueError(f"its attributes lack {', '.join(missing)}")
            self._record = archive_record_path(self.path.resolve(), self.attributes["plan"])
            self._rows_per_shard = self._arrays["sample"].shards[0]
        except Exception as error:  # zarr and its codecs raise many kinds
            raise ArchiveError(
                f"{self.path}: no archive here ({type(error).__name__}: {error}); expected "
                "outputs/EXP_NAME/contact_maps.zarr, which "
                "`snakemake --cores 1 --resources gpu=1` makes"
            ) from None
        self._raise_if_replaced()

    def _identify(self) -> tuple[int, ...]:
        """Tells this archive from one that is merged later under the same name."""
        found = os.stat(self.path / "zarr.json")
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _raise_if_replaced(self) -> None:
        try:
            found = self._identify()
        except OSError:
            found = None
        if found != self._identity:
            raise ArchiveError(
                f"{self.path}: was replaced or removed while it was open; open it again to read "
                "the archive that is there now"
            )

    def __len__(self) -> int:
        return self._arrays["sample"].shape[0]

    @cached_property
    def keys(self) -> list[tuple[str, str, int]]:
        """(set, index, caption_idx) of every row."""
        index = "item" if "item" in self._arrays else "index"  # its name in earlier versions
        columns = (self.column(name).tolist() for name in ("set", index, "caption_idx"))
        return list(zip(*columns, strict=True))

    @cached_property
    def statuses(self) -> np.ndarray:
        """`ok` or `skipped` for every row."""
        found = self.column("status")
        strange = sorted({str(status) for status in found} - {OK, SKIPPED})
        if strange:
            raise ArchiveError(
                f"{self.path}/status: holds {strange[:3]}, expected {OK} or {SKIPPED}; "
                f"{self._advice()}"
            )
        return found

    def rows_with_maps(self) -> list[int]:
        """The rows whose status is `ok`."""
        return np.flatnonzero(self.statuses == OK).tolist()

    @cached_property
    def _rows(self) -> dict[tuple[str, str, int], int]:
        return {key: row for row, key in enumerate(self.keys)}

    def row(self, set: str, index: int | str, caption_idx: int = 0) -> int:
        """Row of a sample; a set's index may be given as a number."""
        key = (set, str(index), caption_idx)
        if key not in self._rows:
            raise ArchiveError(f"{self.path}: no sample {key}; it has {len(self)} others")
        return self._rows[key]

    def column(self, name: str) -> np.ndarray:
        """A text or integer of every row: set, item, caption_idx, text, scene_id or status.

        Raises:
            ArchiveError: a file of the column is missing or damaged.
        """
        blocks = range(-(-len(self) // COLUMN_ROWS))
        files = [f"{name}/c/{block}" for block in blocks]
        if "item" not in self._arrays:  # earlier versions wrote no file for empty values
            written = self._files or {
                f"{each}/c/{block}" for each in NEVER_EMPTY for block in blocks
            }
            files = [file for file in files if file in written]
        found = self._checked(name, slice(None), files)
        if len(found) != len(self):
            raise ArchiveError(
                f"{self.path}/{name}: {len(found)} rows, expected {len(self)}; {self._advice()}"
            )
        return found

    def read(self, name: str, row: int) -> np.ndarray:
        """One row of `sample`, `distance`, `points`, `scene_trans` or `aug_trans`.

        Returns:
            The row in the dtype of the archive: finite, or all NaN where the status is `skipped`.
        Raises:
            ArchiveError: names the file that is missing, damaged, or not this archive's; or the
                archive was replaced while it was open.
        """
        if not 0 <= row < len(self):
            raise ArchiveError(f"{self.path}: no row {row}; it has rows 0 to {len(self) - 1}")
        if self.statuses[row] != OK:
            self._raise_if_replaced()
            return np.full(self._arrays[name].shape[1:], np.nan, self._arrays[name].dtype)
        shard = shard_name(name, row // self._rows_per_shard, self._arrays[name].ndim)
        values = self._checked(name, row, [shard])
        if not np.isfinite(values).all():
            raise ArchiveError(
                f"{self.path}/{shard}: row {row} holds NaN or infinity, its status is {OK}; "
                f"{self._advice()}"
            )
        return values

    def _checked(self, name: str, rows: int | slice, files: list[str]) -> np.ndarray:
        """Read rows of an array whose values lie in these files."""
        problem = values = None
        for file in (f"{name}/zarr.json", *files):
            problem = problem or self._problem(file)
        if problem is None:
            try:
                values = np.asarray(self._arrays[name][rows])
            except Exception as error:  # a damaged file raises whatever its codec raises
                where = f"{self.path}/{', '.join(files) or name}"
                problem = f"{where}: cannot be read ({type(error).__name__}: {error})"
        # A file that a merge has just taken away is not a damaged one.
        self._raise_if_replaced()
        if problem:
            raise ArchiveError(f"{problem}; {self._advice()}")
        return values

    def _problem(self, file: str) -> str | None:
        """What is wrong with a file of the archive, or None."""
        path, known = self.path / file, self._files.get(file)
        if self._files and known is None:
            return f"{path}: the merge did not write this file"
        hashed = self.checksums or path.name == "zarr.json"
        if known and hashed and file not in self._verified:
            problem = verify_file(path, known)
            if problem is None:
                self._verified.add(file)
            return problem
        return file_problem(path, known and known[0])

    @cached_property
    def _files(self) -> Mapping[str, list]:
        """File -> [size in bytes, sha256], by the archive's record; empty where it has none."""
        try:
            return read_archive_record(self._record).files
        except ArchiveError:
            # A merge removes the record before it replaces the archive.
            if not os.path.lexists(self._record):
                return {}
            self._raise_if_replaced()
            raise

    def _advice(self) -> str:
        return merge_again(self._record)

    def sample(self, set: str, index: int | str, caption_idx: int = 0) -> np.ndarray:
        """The normalised model output, (k, num_points, contact_dim)."""
        return self.read("sample", self.row(set, index, caption_idx))

    def distance(self, set: str, index: int | str, caption_idx: int = 0) -> np.ndarray:
        """Distances to each joint in metres, (k, num_points, contact_dim)."""
        return self.read("distance", self.row(set, index, caption_idx))

    def points(self, set: str, index: int | str, caption_idx: int = 0) -> np.ndarray:
        """The points as the model saw them, (num_points, 3) in metres."""
        return self.read("points", self.row(set, index, caption_idx))

    def contact(self, set: str, index: int | str, caption_idx: int = 0) -> np.ndarray:
        """Contact values, (k, num_points, contact_dim): 1 on the surface, 0 far away."""
        sample = self.sample(set, index, caption_idx).astype(np.float32)
        problem = self._problem("zarr.json")
        if problem:
            raise ArchiveError(f"{problem}; {self._advice()}")
        try:
            statistics = self.attributes["statistics"]
            mean, std = (np.asarray(statistics[key], np.float32) for key in ("mean", "std"))
            use_raw_dist = self.attributes["config"]["dataset"]["use_raw_dist"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveError(
                f"{self.path}/zarr.json: does not tell the statistics of the maps "
                f"({type(error).__name__}: {error}); {self._advice()}"
            ) from None
        return denormalise(sample, mean, std, use_raw_dist=use_raw_dist)
