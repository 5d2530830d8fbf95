"""Records: the JSON file beside a store says that the store is finished, and what it holds.

A record is sealed: its last key is a checksum of all before it. What is read from one is checked
to have the right shape, so that nothing else has to be.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TypeVar

from cdm.archive.checks import file_problem
from cdm.archive.layout import OK, SKIPPED, Layout
from cdm.errors import ArchiveError
from cdm.files import list_names, read_bytes, typed, unseal

ROW_TYPES = {"set": str, "index": str, "text": str, "scene_id": str, "caption_idx": int}


@dataclass(frozen=True)
class ChunkRecord:
    """What is known of a finished chunk; its JSON file is what makes it finished.

    Attributes:
        name: `{number:05}-{fingerprint}`.
        base: fingerprint of settings and sample rows, without the items' content.
        layout: shape of the chunk's arrays.
        samples: one mapping per row: set, index, caption_idx, text, scene_id, status, the reason
            where it was skipped, and caption_cut (true) where the text model does not read the
            caption to its end.
        contents: group -> file -> state and sha256 of the file when it was read; None where it
            was missing.
        files: file in the store -> [size in bytes, sha256].
        provenance: configuration, checkpoint, statistics, versions, device.
        seconds: duration of each phase.
        gpu_busy: share, 0 to 1, of the sampling phase in which the GPU was at work; None on a CPU.
    """

    name: str
    base: str
    layout: Layout
    samples: list[dict[str, Any]]
    contents: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    seconds: dict[str, float]
    gpu_busy: float | None = None
    files: dict[str, list] = field(default_factory=dict)

    @property
    def statuses(self) -> list[str]:
        """`ok` or `skipped` of every row."""
        return [row["status"] for row in self.samples]

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """Rows without a map."""
        return [row for row in self.samples if row["status"] != OK]

    @property
    def cut(self) -> list[dict[str, Any]]:
        """Rows whose caption the text model does not read to its end."""
        return [row for row in self.samples if row.get("caption_cut")]


@dataclass(frozen=True)
class ArchiveRecord:
    """What is known of a merged archive.

    Attributes:
        archive: name of its folder, beside the record.
        plan: fingerprint of the plan it holds.
        layout: shape of its arrays.
        num_samples: rows.
        num_skipped: rows without a map.
        skipped: set, index, caption_idx and reason of each of these.
        chunks: names of the chunks, in order.
        files: file in the archive -> [size in bytes, sha256].
        versions: library -> version -> number of chunks that were made with it.
        dropped: clip of the split that gave no row -> why.
    """

    archive: str
    plan: str
    layout: Layout
    num_samples: int
    num_skipped: int
    skipped: list[dict[str, Any]]
    chunks: list[str]
    files: dict[str, list]
    versions: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def record_path(store: Path) -> Path:
    """The JSON record beside a chunk's store."""
    return store.with_suffix(".json")


def store_path(record: Path) -> Path:
    """The store beside a chunk's JSON record."""
    return record.with_suffix(".zarr")


def archive_record_path(archive: Path, plan: str) -> Path:
    """The record beside a merged archive; `plan` is the fingerprint in the archive's attributes."""
    return archive.with_name(f"{archive.stem}-{plan}.json")


def records_beside(archive: Path) -> list[Path]:
    """Records of merged archives of this name, whatever their plans."""
    pattern = rf"{re.escape(archive.stem)}-[0-9a-f]{{16}}\.json"
    names = sorted(list_names(archive.parent))
    return [archive.with_name(name) for name in names if re.fullmatch(pattern, name)]


def read_record(path: Path) -> ChunkRecord:
    """Read a chunk's record.

    Raises:
        ArchiveError: missing, truncated, changed, or not a record.
    """
    try:
        record = _parse(ChunkRecord, _read_file(path))
        _check_rows(record)
        for group, files in record.contents.items():
            _check(type(files) is dict, f"contents: {group}", files)
            for name, state in files.items():
                _check(state is None or type(state) is dict, f"contents: {name}", state)
        for phase, seconds in record.seconds.items():
            _check(type(seconds) in (int, float), f"seconds: {phase}", seconds)
        return record
    except (OSError, ValueError) as error:
        problem = _told(error)
    raise ArchiveError(f"{path}: not a chunk's record ({problem}); {rebuild(path)}")


def read_archive_record(path: Path) -> ArchiveRecord:
    """Read the record of a merged archive.

    Raises:
        ArchiveError: missing, truncated, changed, or not a record.
    """
    try:
        return parse_archive_record(_read_file(path))
    except (OSError, ValueError) as error:
        problem = _told(error)
    raise ArchiveError(f"{path}: not an archive's record ({problem}); {merge_again(path)}")


def parse_archive_record(content: bytes) -> ArchiveRecord:
    """The record of a merged archive in these bytes.

    Raises:
        ValueError: truncated, changed, or not a record.
    """
    record = _parse(ArchiveRecord, content)
    _check(len(PurePosixPath(record.archive).parts) == 1, "archive", record.archive)
    for name in record.chunks:
        _check(type(name) is str, "chunks", name)
    for row in record.skipped:
        _check(type(row) is dict, "skipped", row)
    for library, counts in record.versions.items():
        _check(type(counts) is dict, f"versions: {library}", counts)
    return record


T = TypeVar("T", ChunkRecord, ArchiveRecord)


def _read_file(path: Path) -> bytes:
    problem = file_problem(path, None)
    if problem:
        raise ValueError(problem.removeprefix(f"{path}: "))
    return read_bytes(path)


def _parse(kind: type[T], content: bytes) -> T:
    """A sealed record with the right keys, a possible layout, and files inside its store."""
    record = typed(kind, unseal(content))
    problem = record.layout.problem()
    if problem:
        raise ValueError(f"layout: {problem}")
    _check_files(record.files)
    return record


def _check_files(files: Mapping[str, Any]) -> None:
    for name, known in files.items():
        path = PurePosixPath(name)
        _check(not path.is_absolute() and ".." not in path.parts and name != "", "files", name)
        right = type(known) is list and [type(value) for value in known] == [int, str]
        _check(right, f"files: {name}", known)


def _check_rows(record: ChunkRecord) -> None:
    found, expected = len(record.samples), record.layout.num_samples
    if found != expected:
        raise ValueError(f"samples has {found} rows, expected {expected}")
    for row in record.samples:
        _check(type(row) is dict, "samples", row)
        for key, kind in ROW_TYPES.items():
            if type(row.get(key)) is not kind:
                raise ValueError(
                    f"samples: {key} is {row.get(key)!r:.60}, expected {kind.__name__}"
                )
        _check(row.get("status") in (OK, SKIPPED), "samples: status", row.get("status"))
        _check(row["status"] == OK or type(row.get("reason")) is str, "samples: reason", row)
        _check(0 <= row["caption_idx"] < 2**31, "samples: caption_idx", row["caption_idx"])


def _check(right: bool, key: str, value: Any) -> None:
    if not right:
        _refuse(key, value)


def _refuse(key: str, value: Any) -> NoReturn:
    raise ValueError(f"{key} is {value!r:.60}, which no record has")


def _told(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def rebuild(record: Path) -> str:
    """How to have one chunk generated anew."""
    paths = shlex.join([str(record), str(store_path(record))])
    return f"to rebuild this chunk: rm -rf {paths}, then run the same snakemake command again"


def merge_again(record: Path) -> str:
    """How to have an archive merged anew."""
    return (
        f"to merge again from the chunks: rm {shlex.quote(str(record))}, then run the same "
        "snakemake command again"
    )
