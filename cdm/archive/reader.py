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

from cdm.archive.layout import (
    ARCHIVE_VERSION,
    COLUMN_ROWS,
    COLUMNS,
    OK,
    SHARDED,
    SKIPPED,
)
from cdm.archive.places import Address, Folder, open_place
from cdm.archive.rows import (
    DamagedRow,
    ShardRows,
    is_finite,
    plain_form_problem,
    read_row_naive,
    shard_key,
)
from cdm.contact import denormalise
from cdm.errors import ArchiveError

OPEN_TRIES, OPEN_WAIT_S = 20, 0.1  # an archive that is being replaced is there again within 2 s
NEVER_EMPTY = ("set", "index", "status")  # columns of earlier versions that always have files


class ContactMaps:
    """Read a merged archive; samples are found by (set, index, caption_idx).

    A row whose status is `ok` is finite, or reading it raises. A row whose status is `skipped`
    reads as NaN. Once a merge has replaced the archive, every read raises: rows of two archives
    never mix. Objects may be used by several threads, carried over a fork, and pickled: the other
    process opens the same archive, or is told that it was replaced.

    Attributes:
        path: of the archive; the address, where it lies at one.
        attributes: configuration, checkpoint, statistics, versions, devices, plan.
        group: the Zarr group. Reading its arrays directly has none of these checks.

    Args:
        path: `contact_maps.zarr`, a folder of this machine, or an address: `https://...`,
            `s3://...`, and whatever else fsspec reads.
        checksums: hold each shard against the sha256 in the archive's record before its first row
            is read. For readers of the whole archive; a single map would wait for its shard.
        storage_options: of fsspec's file system, for addresses only, such as {"anon": True}.
    Raises:
        ArchiveError: there is no archive, no such sample in it, or the file that holds the sample
            is missing or damaged; a library that reads the address is missing.
    """

    def __init__(
        self,
        path: str | Path,
        checksums: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ):
        self.checksums, self.storage_options = checksums, storage_options
        self.place = open_place(path, storage_options)
        self.path = self.place.path
        self._absolute = str(Path.cwd() / self.path) if isinstance(self.place, Folder) else None
        self._pid = os.getpid()
        self._verified: set[str] = set()
        self._fast: dict[str, ShardRows | None] = {}
        for attempt in range(OPEN_TRIES):
            try:
                self._open()
                return
            except ArchiveError:
                # Only where a merge is at work can the next attempt end otherwise.
                if attempt == OPEN_TRIES - 1 or not self.place.is_being_merged():
                    raise
            time.sleep(OPEN_WAIT_S)

    def _open(self) -> None:
        try:
            self._identity = self.place.identity()
            self.group = self.place.open_group()
            self.attributes: dict[str, Any] = dict(self.group.attrs)
            self._check_version()
            self._arrays = {
                name: self.group[name] for name in (*SHARDED, *COLUMNS) if name in self.group
            }
            self._num_rows = self._arrays["sample"].shape[0]
            missing = [
                key for key in ("plan", "config", "statistics") if key not in self.attributes
            ]
            if missing:
                raise ValueError(f"its attributes lack {', '.join(missing)}")
        except ArchiveError:
            raise
        except Exception as error:  # zarr and its codecs raise many kinds
            raise ArchiveError(
                f"{self.path}: no archive here ({type(error).__name__}: {error}); expected "
                "outputs/EXP_NAME/contact_maps.zarr, which "
                "`snakemake --cores 1 --resources gpu=1` makes"
            ) from None
        self._raise_if_replaced()

    def _check_version(self) -> None:
        found = self.attributes.get("archive_version", 1)
        if type(found) is not int or found > ARCHIVE_VERSION:
            raise ArchiveError(
                f"{self.path}: an archive of version {found}, and this program reads up to version "
                f"{ARCHIVE_VERSION}; it was written by a newer one, so update contact-map-diffusion"
            )

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to open the same archive."""
        path = self._absolute or self.path
        return {
            "arguments": (path, self.checksums, self.storage_options),
            "identity": self._identity,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, *state["arguments"])
        if self._identity != state["identity"]:
            raise self._replaced()

    def _raise_if_replaced(self) -> None:
        try:
            found = self.place.identity()
        except OSError:
            found = None
        if found != self._identity:
            raise self._replaced()

    def _replaced(self) -> ArchiveError:
        return ArchiveError(
            f"{self.path}: was replaced or removed while it was open; open it again to read the "
            "archive that is there now"
        )

    def __len__(self) -> int:
        return self._num_rows

    @property
    def num_maps(self) -> int:
        """Maps of each sample, k."""
        return self._arrays["sample"].shape[1]

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

    @cached_property
    def _has_map(self) -> list[bool]:
        return (self.statuses == OK).tolist()

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
        if not 0 <= row < self._num_rows:
            raise ArchiveError(f"{self.path}: no row {row}; it has rows 0 to {len(self) - 1}")
        if self._pid != os.getpid() and isinstance(self.place, Address):
            self.__setstate__(self.__getstate__())  # no connection survives a fork
        if not self._has_map[row]:
            self._raise_if_replaced()
            return np.full(self._arrays[name].shape[1:], np.nan, self._arrays[name].dtype)
        fast = self._fast[name] if name in self._fast else self._prepare(name)
        if fast is None:
            values = self._read_naive(name, row)
        else:
            values = self._read_fast(fast, row)
        if is_finite(values):
            return values
        shard = self._shard(name, row)
        raise ArchiveError(
            f"{self._problem(shard) or f'{self.path}/{shard}: row {row} holds NaN or infinity'}, "
            f"its status is {OK}; {self._advice()}"
        )

    def _shard(self, name: str, row: int) -> str:
        array = self._arrays[name]
        return f"{name}/{shard_key(array, row // (array.shards or array.chunks)[0])}"

    def _read_naive(self, name: str, row: int) -> np.ndarray:
        """One row through zarr."""
        return self._checked(name, row, [self._shard(name, row)])

    def _read_fast(self, rows: ShardRows, row: int) -> np.ndarray:
        """The same row at once from its place in its shard."""
        problem = values = None
        try:
            values = rows.read(row)
        except DamagedRow as error:
            problem = str(error)
        # A file that a merge has just taken away is not a damaged one.
        self._raise_if_replaced()
        if values is None:
            raise ArchiveError(f"{problem}; {self._advice()}")
        return values

    def _prepare(self, name: str) -> ShardRows | None:
        """What reads rows of an array fast; None where zarr has to read them."""
        array, fast = self._arrays[name], None
        if isinstance(self.place, Folder) and plain_form_problem(array) is None:
            self._raise_on(f"{name}/zarr.json")
            fast = ShardRows(str(self.path), name, array, self._problem)
        self._fast[name] = fast
        return fast

    def _raise_on(self, file: str) -> None:
        problem = self._problem(file)
        if problem:
            self._raise_if_replaced()
            raise ArchiveError(f"{problem}; {self._advice()}")

    def _checked(self, name: str, rows: int | slice, files: list[str]) -> np.ndarray:
        """Read rows of an array whose values lie in these files."""
        problem: str | None = None
        values = np.empty(0)
        for file in (f"{name}/zarr.json", *files):
            problem = problem or self._problem(file)
        if problem is None:
            try:
                values = read_row_naive(self._arrays[name], rows)
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
        known = self._files.get(file)
        if self._files and known is None:
            return f"{self.path}/{file}: the merge did not write this file"
        hashed = self.checksums or file.endswith("zarr.json")
        hashed = bool(known) and hashed and file not in self._verified
        problem = self.place.problem(file, known, hashed)
        if hashed and problem is None:
            self._verified.add(file)
        return problem

    @cached_property
    def _files(self) -> Mapping[str, list]:
        """File -> [size in bytes, sha256], by the archive's record; empty where it has none."""
        try:
            record = self.place.record(self.attributes["plan"])
        except ArchiveError:
            self._raise_if_replaced()
            raise
        return record.files if record else {}

    def _advice(self) -> str:
        return self.place.advice(self.attributes["plan"])

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
        self._raise_on("zarr.json")
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
