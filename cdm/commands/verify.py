"""Whether an archive is what its run promised (no torch). Nothing is changed by looking.

Every file is compared with the sha256 that the merge recorded. Structure and counts are compared
with the layout and the plan, and the set of shards with the layout and the statuses. A deep look
also reads every map: its crc32c, numbers where and only where a sample is ok, and distances that
are those of the model's output.
"""

import csv
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cdm.archive.checks import list_files, lost_files, verify_file
from cdm.archive.layout import AXES, COLUMN_ROWS, COLUMNS, OK, SKIPPED, Layout
from cdm.archive.map_checks import read_every_map
from cdm.archive.records import (
    ArchiveRecord,
    archive_record_path,
    merge_again,
    read_archive_record,
    record_path,
    records_beside,
)
from cdm.archive.store import verify_chunk
from cdm.errors import ArchiveError
from cdm.run.merge import describe_versions
from cdm.run.plan import ARCHIVE, plan_folder
from cdm.run.plan_files import read_plan

LISTED = 10  # problems of a kind before "and N more"
THREADS, LARGE_FILE = 8, 1_000_000  # bytes
# Column of the archive -> column of samples.tsv.
PLANNED = {"set": "set", "item": "index", "caption_idx": "caption_idx", "text": "text"}
PLANNED |= {"scene_id": "scene_id"}

Log = Callable[[str], None]


@dataclass
class Report:
    """What was looked at, and what is wrong with it.

    Attributes:
        archive: its path, or that of the single chunk.
        problems: empty if all is well.
        notes: what could not be looked at.
        num_samples, num_skipped: rows, and rows without a map.
        num_files, num_bytes: held against their sha256.
        num_maps_read: maps that were read and looked at.
        resampled: `cdm.commands.resample.Resampled`, if samples were generated again.
    """

    archive: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_samples: int = 0
    num_skipped: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_maps_read: int = 0
    resampled: Any = None

    def as_dict(self) -> dict[str, Any]:
        """JSON types, for `--json`."""
        resampled = vars(self.resampled) if self.resampled else None
        ok = not self.problems
        return {**vars(self), "archive": str(self.archive), "resampled": resampled, "ok": ok}

    def add(self, problems: Sequence[str]) -> None:
        """Note problems of one kind, the first few in full."""
        self.problems += problems[:LISTED]
        if len(problems) > LISTED:
            self.problems.append(f"... and {len(problems) - LISTED} more of this kind")


def verify(path: str | Path, deep: bool = False, log: Log = lambda line: None) -> Report:
    """Check a merged archive, or one chunk.

    Args:
        path: `contact_maps.zarr`, the folder of its run, or a chunk's store.
        deep: read every map as well.
        log: told how far the reading is.
    Raises:
        ArchiveError: there is nothing to check.
    """
    # What is to be checked.
    path = Path(path)
    if not (path / "zarr.json").exists() and (path / ARCHIVE).exists():
        path = path / ARCHIVE
    if path.is_symlink():
        path = path.resolve()  # its record lies beside the archive, not beside the link
    report = Report(path)
    if path.suffix == ".zarr" and record_path(path).exists():
        _verify_one_chunk(path, report)
        return report
    try:
        # The arrays' own metadata, not the copy in the group's.
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        expected = archive_record_path(path, str(group.attrs.get("plan")))
    except Exception as error:  # zarr and its codecs raise many kinds
        raise _no_archive(path, f"{type(error).__name__}: {error}") from None

    # Files, by their checksums.
    record = _find_record(expected, report)
    if record:
        _verify_files(path, record.files, report)
        report.notes += describe_versions(record.versions)

    # Structure, columns, and the shards they imply.
    layout = _verify_structure(path, group, record, report)
    if layout is not None:
        statuses = _verify_columns(path, group, layout, record, report)
        if statuses is not None:
            _verify_shards(path, layout, statuses, report)
            if deep or record is None:
                found = read_every_map(path, group, layout, statuses, log)
                report.num_maps_read, problems = found
                report.add(problems)
    if report.problems:
        there = next(iter(records_beside(path)), expected)
        report.notes.append(
            f"{merge_again(there)}; the merge names every damaged chunk and how to rebuild it"
        )
    if layout is not None:
        _verify_plan(path, group, record, report)
    return report


def _no_archive(path: Path, problem: str) -> ArchiveError:
    """The error where no archive can be opened; a record beside the path says there was one."""
    run = path.parent if path.name == ARCHIVE else path
    is_run = (plan_folder(run) / "plan.json").exists()
    path = run / ARCHIVE if is_run else path
    records = records_beside(path)
    if records:
        advice = merge_again(records[0])
    elif is_run:
        advice = f"cdm why {run} tells what to type to go on"
    else:
        advice = f"expected outputs/EXP_NAME/{ARCHIVE}, or the folder it lies in"
    if is_run and not records:
        problem = "it was not merged yet"
    elif not os.path.lexists(path):
        problem = "no such file or folder"
    return ArchiveError(f"{path}: no archive here ({problem}); {advice}")


def _verify_one_chunk(store: Path, report: Report) -> None:
    try:
        record = verify_chunk(record_path(store))
    except ArchiveError as error:
        report.problems.append(str(error))
        return
    report.num_samples, report.num_skipped = record.layout.num_samples, len(record.skipped)
    report.num_files = len(record.files)
    report.num_bytes = sum(size for size, _ in record.files.values())


def _find_record(path: Path, report: Report) -> ArchiveRecord | None:
    """The record of this very archive."""
    others = records_beside(report.archive)
    if not path.exists() and others:
        report.problems.append(
            f"{others[0]}: is the record of another archive than the one beside it, which would "
            f"have {path.name}"
        )
        return None
    if not path.exists():
        report.notes.append(
            f"{path}: no such file, so there are no checksums of whole files: every map is read"
        )
        return None
    try:
        return read_archive_record(path)
    except ArchiveError as error:
        report.problems.append(str(error))
        return None


def _verify_files(path: Path, files: dict[str, list], report: Report) -> None:
    """Names, size and sha256 of every file, and none that does not belong there."""

    def look(entry: tuple[str, list]) -> str | None:
        return verify_file(f"{path}/{entry[0]}", entry[1])

    report.num_files = len(files)
    report.num_bytes = sum(size for size, _ in files.values())
    lost = lost_files(path, files)
    named = {problem.split(": ")[0] for problem in lost}
    with ThreadPoolExecutor(THREADS) as pool:
        # For small files, threads cost more than they gain.
        each = pool.map if report.num_bytes > LARGE_FILE * len(files) else map
        there = [entry for entry in files.items() if f"{path}/{entry[0]}" not in named]
        report.add([*lost, *filter(None, each(look, there))])


def _verify_shards(path: Path, layout: Layout, statuses: np.ndarray, report: Report) -> None:
    """A shard for each array and chunk with a map, and no other one."""
    found = {name for name in list_files(path) if name.split("/")[0] in layout.arrays()}
    found -= {f"{name}/zarr.json" for name in layout.arrays()}
    expected = layout.shards(statuses.tolist())
    known = "\n".join(report.problems)  # by its checksum, where there is a record
    problems = [f"{path}/{name}: is missing, its rows are ok" for name in expected - found]
    problems += [f"{path}/{name}: no chunk has this shard" for name in found - expected]
    report.add([each for each in sorted(problems) if f"{each.split(': ')[0]}: " not in known])


def _verify_structure(path: Path, group: zarr.Group, record, report: Report) -> Layout | None:
    """Arrays, shapes, dtypes and shards; the layout they agree on."""
    try:
        shape, shards = group["sample"].shape, group["sample"].shards
        sizes: list[Any] = [shape[0], shards[0], *shape[1:], str(group["sample"].dtype)]
        found = Layout(*sizes)
    except Exception as error:
        report.problems.append(
            f"{path}/sample: cannot be opened as a sharded array ({type(error).__name__}: {error})"
        )
        return None
    layout = record.layout if record else found
    if layout.problem():
        report.problems.append(f"{path}/sample: {layout.problem()}")
        return None
    report.num_samples = layout.num_samples
    problems = []
    for name, (row, dtype, _) in layout.arrays().items():
        expected = (layout.num_samples, *row), (1, *row), (layout.chunk_size, *row), dtype
        problems += _compare(path, group, name, expected)
    for name in _columns(path, group):
        problems += _compare(path, group, name, ((layout.num_samples,), None, None, None))
    if _version(group) > 1:
        for name, size in zip(AXES, (layout.contact_dim, 3), strict=True):
            problems += _compare(path, group, name, ((size,), None, None, None))
    report.problems += problems
    return None if problems else layout


def _version(group: zarr.Group) -> int:
    """Version of the archive's form; anything else than a number counts as the oldest."""
    found = group.attrs.get("archive_version", 1)
    return found if type(found) is int else 1


def _columns(path: Path, group: zarr.Group) -> tuple[str, ...]:
    """Names of the columns. In archives of version 1, `index` may be what `item` is now."""
    new = () if _version(group) > 1 else ("item", "key")
    return tuple(name for name in COLUMNS if name not in new or (path / name).exists())


def _compare(path: Path, group: zarr.Group, name: str, expected: tuple) -> list[str]:
    try:
        array = group[name]
        found = (array.shape, array.chunks, array.shards, str(array.dtype))
    except Exception as error:
        return [f"{path / name}: cannot be opened as an array ({type(error).__name__}: {error})"]
    words = ("shape", "chunks", "shards", "dtype")
    return [
        f"{path / name}: {word} {have}, expected {want}"
        for word, have, want in zip(words, found, expected, strict=True)
        if want is not None and have != want
    ]


def _verify_columns(path: Path, group: zarr.Group, layout: Layout, record, report: Report):
    """Read every column; the statuses, held against the record, or None if they are damaged."""
    damaged = set()
    for name in (*_columns(path, group), *(AXES if _version(group) > 1 else ())):
        try:
            for start in range(0, group[name].shape[0], COLUMN_ROWS):
                group[name][start : start + COLUMN_ROWS]
        except Exception as error:  # a damaged column raises whatever its codec raises
            report.problems.append(f"{path / name}: cannot be read ({error})")
            damaged.add(name)
    if "status" in damaged:
        return None
    statuses = group["status"][:]
    report.num_skipped = int(np.count_nonzero(statuses != OK))
    strange = sorted({str(status) for status in statuses} - {OK, SKIPPED})
    if strange:
        report.problems.append(f"{path}/status: holds {strange}, expected {OK} or {SKIPPED}")
    if record and (record.num_samples, record.num_skipped) != (
        layout.num_samples,
        report.num_skipped,
    ):
        report.problems.append(
            f"{path}: {layout.num_samples} samples, {report.num_skipped} skipped; its record has "
            f"{record.num_samples} and {record.num_skipped}"
        )
    return statuses


def _verify_plan(path: Path, group: zarr.Group, record, report: Report) -> None:
    """The archive's rows against those of the run's plan."""
    folder = plan_folder(path.parent)
    if not (folder / "plan.json").exists():
        report.notes.append(f"no plan in {folder}: rows were not held against it")
        return
    try:
        plan = read_plan(path.parent)
    except ArchiveError as error:
        report.problems.append(str(error))
        return
    if plan.fingerprint != group.attrs.get("plan"):
        report.problems.append(
            f"{path}: of plan {group.attrs.get('plan')}, but the last plan made here is "
            f"{plan.fingerprint} ({plan.num_samples} samples); finish that run, or see "
            "`cdm why`"
        )
        return
    if record and record.chunks != [chunk.name for chunk in plan.chunks]:
        report.problems.append(f"{path}: its record lists other chunks than {folder}/plan.json")
    try:
        wrong = list(itertools.islice(_other_rows(group, folder / "samples.tsv"), LISTED))
    except Exception as error:  # a damaged column raises whatever its codec raises
        wrong = [f"rows cannot be held against samples.tsv ({type(error).__name__}: {error})"]
    report.problems += [f"{path}: {problem}" for problem in wrong]


def _other_rows(group: zarr.Group, table: Path) -> Iterator[str]:
    """Rows of the archive that are not those of samples.tsv, block by block."""
    num_samples = group["sample"].shape[0]
    with open(table, encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        header = next(rows)
        places = [header.index(name) for name in PLANNED.values()]
        names = [name if name in group else PLANNED[name] for name in PLANNED]
        for start in range(0, num_samples, COLUMN_ROWS):
            block = slice(start, start + COLUMN_ROWS)
            columns = [list(map(str, group[name][block].tolist())) for name in names]
            for number, found in enumerate(zip(*columns, strict=True), start):
                row = next(rows, None)
                planned = row and tuple(row[place] for place in places)
                if found != planned:
                    yield f"row {number} is {found}, the plan has {planned}"
        if next(rows, None):
            yield f"{num_samples} rows, the plan has more"


def describe_report(report: Report) -> str:
    """The report as text."""
    lines = [f"problem: {problem}" for problem in report.problems]
    lines += [f"note: {note}" for note in report.notes]
    counts = f"{report.num_samples} samples, {report.num_skipped} skipped"
    if report.num_files:
        counts += f"; {report.num_files} files, {report.num_bytes / 1e6:.1f} MB by sha256"
    if report.num_maps_read:
        counts += f"; {report.num_maps_read} maps read"
    if report.resampled:
        lines += report.resampled.lines()
    verdict = f"{len(report.problems)} problem(s)" if report.problems else "all is well"
    return "\n".join([*lines, f"{report.archive}: {verdict} ({counts})"]) + "\n"
