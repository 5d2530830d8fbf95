"""What stage 2 reads: the names of its files, and whether they are there as it needs them.

afford-motion's second stage finds a map by the name of its file. When it trains, an item without a
file is trained on ground truth instead, without a message. When it tests, it stops there. Here the
same files are looked for in the same way, so that this is known before. No torch.
"""

import copy
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cdm.datasets import Dataset, Sample
from cdm.datasets.reference_draws import H3D_HORIZON, REFERENCE
from cdm.errors import listed
from cdm.files.npy import read_header

PRED_CONTACT = "pred_contact"  # name of the folder that stage 2 reads, one in each set's
H3D = "H3D"
LISTED = 10  # names of a kind that are told before "and N more"
THREADS = 8  # a network file system answers many requests at once
HEADER_BYTES = 1024  # of an .npy, more than any header of a map


def map_name(set: str, index: str, caption_idx: int, several: bool = False) -> str:
    """Name of the file that stage 2 reads for a sample.

    Args:
        set: "H3D", or a set whose indices are row numbers.
        index: row number ("12"), or the clip's name (H3D).
        several: the set has several captions of an item. Stage 2 reads such names for H3D only.
    """
    if set == H3D:
        return f"{index}-{caption_idx}.npy"
    return f"{int(index):05}-{caption_idx}.npy" if several else f"{int(index):05}.npy"


@dataclass
class SetMaps:
    """What stage 2 would find for the items of one set.

    Attributes:
        set: its name.
        folder: that stage 2 reads.
        num_items: items of the split.
        num_read: those with a map that stage 2 reads.
        missing: those without one.
        unreadable: file -> why stage 2 cannot use it.
        unasked: files that no item asks for.
        num_maps: maps of an item -> number of files with so many.
        shape: (num_points, joints) that was expected; joints None where no map could be read.
        files: that items ask for and that are there, readable or not.
    """

    set: str
    folder: str
    num_items: int
    num_read: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unasked: list[str] = field(default_factory=list)
    num_maps: dict[int, int] = field(default_factory=dict)
    shape: tuple[int | None, int | None] = (None, None)
    files: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every item has its map, and every map its item."""
        return not (self.missing or self.unreadable or self.unasked)

    def as_dict(self) -> dict[str, Any]:
        """JSON types, without the list of all files."""
        num_maps = {str(k): count for k, count in self.num_maps.items()}
        found = {**asdict(self), "num_maps": num_maps, "shape": list(self.shape), "ok": self.ok}
        del found["files"]
        return found

    def lines(self, tests: bool) -> list[str]:
        """The findings in words."""
        found = [f"{self.num_read} of {self.num_items} items have a map that stage 2 reads"]
        if set(self.num_maps) - {1}:
            each = ", ".join(f"{k} ({n} files)" for k, n in sorted(self.num_maps.items()))
            found[0] += f"; maps of an item: {each}"
        if self.missing:
            instead = "stage 2 would stop there" if tests else "stage 2 would take ground truth"
            found.append(self._told(len(self.missing), f"without one, {instead}", self.missing))
        if self.unreadable:
            lines = [f"{name}: {why}" for name, why in self.unreadable.items()]
            found.append(self._told(len(self.unreadable), "file(s) that it cannot read", lines))
        if self.unasked:
            found.append(
                self._told(len(self.unasked), "file(s) that no item asks for", self.unasked)
            )
        if tests and self.missing and self.unasked:
            found.append(
                "these maps are of other items or captions than the test's, which are sampled with "
                "--config dataset='{phase: test, captions: reference}'"
            )
        return [f"{self.folder}: {found[0]}", *(f"  {line}" for line in found[1:])]

    @staticmethod
    def _told(count: int, what: str, names: Sequence[str]) -> str:
        return f"{count} {what}: {listed(names, LISTED, ', ')}"


def asked_items(dataset: Dataset, tests: bool) -> dict[str, list[Sample]]:
    """The items that stage 2 takes of the dataset's split, by set: one sample each.

    It trains on all of them, whatever `max_items` says. Of a test that is cut to its first items,
    those are the first in afford-motion's order. Of H3D, it takes all clips below 200 frames, and
    leaves out those that it cannot read.

    Raises:
        DataError: an index file is missing or damaged.
    """
    config, asking = dataset.config, copy.copy(dataset)
    captions = "first" if config.captions == "all" else config.captions
    asking.config = replace(
        config,
        captions=REFERENCE if tests and config.max_items is not None else captions,
        max_items=config.max_items if tests else None,
        max_horizon=H3D_HORIZON,
        on_bad_item="skip",
    )
    items: dict[str, list[Sample]] = {}
    for sample in asking.samples():
        items.setdefault(sample.set, []).append(sample)
    return items


def check_maps(
    parent: Path,
    items: dict[str, list[Sample]],
    tests: bool,
    num_points: Mapping[str, int | None],
    joints: int | None = None,
    deep: bool = False,
) -> list[SetMaps]:
    """Look for the maps of items as stage 2 does. Nothing is changed by looking.

    Args:
        parent: folder that holds {set}/pred_contact.
        items: as `asked_items` gives them.
        tests: stage 2 tests, so a file may hold several maps; else it trains.
        num_points: set -> points that every map must have; None where that is not known.
        joints: that every map must have; None for those that most maps have.
        deep: read the values too, which must be finite.
    """
    reports = []
    for set, samples in items.items():
        folder = parent / set / PRED_CONTACT
        report = SetMaps(set, str(folder), len(samples))
        files = _files_by_item(report, folder, samples, tests)
        _check_files(report, folder, files, tests, (num_points[set], joints), deep)
        reports.append(report)
    return reports


def _files_by_item(
    report: SetMaps, folder: Path, samples: Iterable[Sample], tests: bool
) -> list[list[str]]:
    """The files that are there for each item; notes what has none, and what belongs to no item.

    When stage 2 trains on H3D, it takes any file of the clip, whatever the caption.
    """
    try:
        there = {name for name in os.listdir(folder) if name.endswith(".npy") and name[0] != "."}
    except FileNotFoundError:
        there = set()
    of_clip: dict[str, list[str]] = {}
    any_caption = report.set == H3D and not tests
    if any_caption:
        for name in sorted(there):
            clip, dash, _ = name.rpartition("-")
            if dash:
                of_clip.setdefault(clip, []).append(name)

    asked: set[str] = set()
    files = []
    for sample in samples:
        if any_caption:
            found = of_clip.get(sample.index, [])
        else:
            name = map_name(sample.set, sample.index, sample.caption_idx)
            found = [name] if name in there else []
        if not found:
            caption = f" caption {sample.caption_idx}" if report.set == H3D else ""
            report.missing.append(f"{sample.set}/{sample.index}{caption}")
        asked.update(found)
        files.append(found)
    report.unasked = sorted(there - asked)
    return files


def _check_files(
    report: SetMaps,
    folder: Path,
    files: list[list[str]],
    tests: bool,
    shape: tuple[int | None, int | None],
    deep: bool,
) -> None:
    """Note which files stage 2 cannot use, and how many items have only files that it can."""
    names = report.files = sorted({name for found in files for name in found})

    def look(name: str) -> tuple[tuple[int, ...], str]:
        try:
            return read_map_header(f"{folder}/{name}", deep), ""
        except (OSError, ValueError) as error:
            return (), getattr(error, "strerror", None) or str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    points, joints = shape
    if joints is None:
        usual = Counter(each[-1] for each, _ in found.values() if len(each) == 3).most_common(1)
        joints = usual[0][0] if usual else None
    report.shape = (points, joints)
    num_maps: Counter[int] = Counter()
    for name, (each, why) in found.items():
        why = why or _wrong_shape(each, tests, points, joints)
        if why:
            report.unreadable[name] = why
        else:
            num_maps[each[0]] += 1
    report.num_maps = dict(sorted(num_maps.items()))
    report.num_read = sum(
        bool(each) and not any(name in report.unreadable for name in each) for each in files
    )


def _wrong_shape(shape: tuple, tests: bool, points: int | None, joints: int | None) -> str:
    """Why stage 2 cannot use an array of this shape; empty if it can."""
    wanted = ("k" if tests else 1, points or "points", joints or "joints")
    fits = len(shape) == 3 and all(
        size > 0 and (isinstance(want, str) or size == want)
        for size, want in zip(shape, wanted, strict=True)
    )
    return "" if fits else f"is {shape}, expected ({', '.join(map(str, wanted))})"


def read_map_header(path: str, deep: bool = False) -> tuple[int, ...]:
    """Shape of the array in an .npy, of which only the first bytes are read.

    Args:
        deep: read the values too.
    Raises:
        ValueError: not an array of floating-point numbers, cut off, or (deep) not finite.
        OSError: not there, or unreadable.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe does not make us wait
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a file")
        head = os.read(descriptor, HEADER_BYTES)
    finally:
        os.close(descriptor)
    if not head.startswith(np.lib.format.MAGIC_PREFIX):
        raise ValueError("not an array in numpy's format")
    length = int.from_bytes(head[8:10], "little") + 10 if head[6] == 1 else HEADER_BYTES
    shape, dtype, offset = _parse_header(head[:length])
    if dtype.kind != "f":
        raise ValueError(f"holds {dtype}, expected floating-point numbers")
    count = int(np.prod(shape, dtype=np.int64))
    wanted = offset + dtype.itemsize * count
    if found.st_size < wanted:
        raise ValueError(f"cut off ({found.st_size} bytes, expected {wanted})")
    if deep and not np.isfinite(np.fromfile(path, dtype, count, offset=offset)).all():
        raise ValueError("holds NaN or infinity")
    return shape


@lru_cache(256)  # the maps of a set have one header
def _parse_header(head: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type, and where the numbers begin."""
    file = io.BytesIO(head)
    try:
        shape, _, dtype = read_header(file)
    except Exception as error:  # damaged bytes raise anything
        raise ValueError(f"not an array in numpy's format ({error})") from None
    return shape, dtype, file.tell()
