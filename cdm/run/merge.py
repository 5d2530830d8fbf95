"""The final archive: chunk k's shard files become its shards, by hard link (no torch)."""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cdm.archive.attributes import DESCRIPTION, without_folders
from cdm.archive.checks import checksum_files, lost_files, verify_file
from cdm.archive.layout import (
    ARCHIVE_VERSION,
    AXES,
    COLUMN_ROWS,
    COLUMNS,
    INT_COLUMNS,
    TEXT_COLUMNS,
    shard_name,
)
from cdm.archive.records import (
    ArchiveRecord,
    ChunkRecord,
    read_record,
    rebuild,
    records_beside,
    store_path,
)
from cdm.archive.store import create_arrays, create_column, describe_store, verify_chunk
from cdm.datasets.joints import joint_names
from cdm.errors import ArchiveError, listed
from cdm.files import CANNOT_LINK, remove, replacing_all, seal
from cdm.jobs.machine import device_text, read_device
from cdm.run.plan import Chunk, Plan, describe_dropped
from cdm.run.version import version_text, workflow_version

LARGE_CHUNK = 4_000_000  # bytes; for smaller ones, threads cost more than they gain
LISTED = 10  # damaged chunks that a message names
PROTECTED_HARDLINKS = Path("/proc/sys/fs/protected_hardlinks")


def merge(plan: Plan, log: Callable[[str], None], threads: int = 1) -> ArchiveRecord:
    """Verify every chunk and join them into `contact_maps.zarr`; its record comes last.

    No map is copied where the file system has hard links. Memory does not grow with the archive:
    chunks are taken one at a time.

    Args:
        plan: names the chunks, in order.
        log: gets one line of text at a time.
        threads: files hashed at the same time.
    Returns:
        The record: counts, skipped samples, chunks, checksums.
    Raises:
        ArchiveError: names every chunk that is missing, corrupt or of another fingerprint, and
            how to rebuild it. An archive that stood there before is left as it was.
    """
    archive = Path(plan.archive)
    paths = [Path(path) for path in plan.chunk_records()]

    def before_renaming() -> None:
        lost = lost_files(temporary, record.files)
        if lost:
            raise ArchiveError(
                f"{archive}: its files changed while it was merged: {listed(lost, 3, ', ')}. "
                "Nothing was replaced; run the same snakemake command again"
            )
        _drop_records(archive)  # from here on the old archive, if any, is being replaced

    with replacing_all(archive, Path(plan.archive_record), check=before_renaming) as (
        temporary,
        temporary_record,
    ):
        target = _join(plan, paths, temporary, threads)
        record = target.finish(archive.name, plan)
        temporary_record.write_bytes(seal(asdict(record)))

    # What came of it.
    for line in target.lines():
        log(line)
    size = sum(size for size, _ in record.files.values())
    log(
        f"{record.num_samples} samples ({record.num_skipped} skipped) from {len(paths)} chunks, "
        f"{size / 1e6:.1f} MB"
    )
    if plan.dropped:
        log(describe_dropped(plan).rstrip())
    return record


def _join(plan: Plan, paths: list[Path], folder: Path, threads: int) -> "_Target":
    """Verify all chunks and join them in a new folder; an error names all that cannot be."""
    # The first chunk decides what all others have to agree with.
    verified = _verify_all(paths, threads)
    first, target = next(verified), None
    problems = [_problem(paths[0], plan.chunks[0], first, first)]
    if problems == [None] and isinstance(first, ChunkRecord):
        target = _Target(folder, plan.num_samples, first)
        target.add(plan.chunks[0].number, paths[0], first)

    # The others are joined to it. After a first problem they are only looked at.
    for chunk, path, found in zip(plan.chunks[1:], paths[1:], verified, strict=True):
        problems.append(_problem(path, chunk, found, first if target else found))
        if target and not any(problems) and isinstance(found, ChunkRecord):
            target.add(chunk.number, path, found)
    told = list(filter(None, problems))
    if told or target is None:
        raise ArchiveError(
            f"{len(told)} of {len(paths)} chunks cannot be merged:\n  {listed(told, LISTED)}"
        )
    return target


def _problem(
    path: Path, chunk: Chunk, found: ChunkRecord | ArchiveError, first: ChunkRecord | ArchiveError
) -> str | None:
    """Why a chunk cannot be merged with the first one, or None."""
    if isinstance(found, ArchiveError):
        return str(found)
    assert isinstance(first, ChunkRecord), "one that is wrong is only compared with itself"
    expected = replace(first.layout, num_samples=chunk.stop - chunk.start)
    if found.base != chunk.base or found.layout != expected:
        return f"{path}: a chunk of another plan; {rebuild(path)}"
    try:
        agreed, own = _agreement(first), _agreement(found)
    except (KeyError, TypeError) as error:
        return f"{path}: its provenance has no statistics and precision ({error}); {rebuild(path)}"
    if own[0] != agreed[0]:
        return (
            f"{path}: made with other normalisation statistics than {first.name}; {rebuild(path)}"
        )
    if own[1] != agreed[1]:
        return (
            f"{path}: sampled in {own[1]}, {first.name} in {agreed[1]} (precision auto: bf16 on "
            f"GPUs, fp32 on CPUs); set sampling.precision, or {rebuild(path)}"
        )
    return None


def _agreement(record: ChunkRecord) -> tuple[tuple, str]:
    """What all chunks of an archive have in common: mean and std, and the precision."""
    statistics = record.provenance["statistics"]
    return (statistics["mean"], statistics["std"]), record.provenance["precision"]


def _verify_all(paths: list[Path], threads: int) -> Iterator[ChunkRecord | ArchiveError]:
    """Each chunk's record, or what is wrong with it; files of large ones are hashed in threads."""

    def verify(path: Path, hashed: Callable = map) -> ChunkRecord | ArchiveError:
        try:
            return verify_chunk(path, hashed)
        except ArchiveError as error:
            return error

    if _size(paths[0]) < LARGE_CHUNK:
        yield from map(verify, paths)
        return
    # Chunks wait for their files in threads of their own, so that all the others hash.
    with ThreadPoolExecutor(threads) as hashing, ThreadPoolExecutor(threads) as waiting:
        in_threads = partial(verify, hashed=hashing.map)
        for start in range(0, len(paths), 256):  # bounded: records do not pile up in memory
            yield from waiting.map(in_threads, paths[start : start + 256])


def _size(path: Path) -> int:
    """Bytes of a chunk's files by its record; 0 where that cannot be read."""
    try:
        return sum(size for size, _ in read_record(path).files.values())
    except ArchiveError:
        return 0


class _Target:
    """The archive that is being written, and what its record will say.

    Args:
        folder: does not exist yet.
        num_samples: rows of all chunks.
        first: record of the first chunk, which tells the shape of the maps.
    """

    def __init__(self, folder: Path, num_samples: int, first: ChunkRecord):
        self.folder = folder
        self.layout = replace(first.layout, num_samples=num_samples)
        self.provenance = {key: value for key, value in first.provenance.items() if key != "device"}
        folder.mkdir()
        create_arrays(folder, self.layout)
        self.columns = _Columns(folder, num_samples)
        self.devices: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, Counter[str]] = {}
        self.makers: Counter[str] = Counter()
        self.shards: dict[str, list] = {}
        self.skipped: list[dict[str, Any]] = []
        self.copied: Counter[str] = Counter()

    def add(self, number: int, path: Path, record: ChunkRecord) -> None:
        """Join a verified chunk; its shard files become shards `number`."""
        store = store_path(path)
        for source, shard in _shards(record, number).items():
            reason = _link(f"{store}/{source}", f"{self.folder}/{shard}", record.files[source])
            if reason:
                self.copied[reason] += 1
            self.shards[shard] = record.files[source]
        self.columns.append(record.samples)
        device = record.provenance["device"]
        self.devices[device_text(device)] = read_device(device)
        for library, version in record.provenance.get("versions", {}).items():
            self.versions.setdefault(library, Counter())[version] += 1
        if record.provenance.get("workflow"):  # chunks of earlier versions do not tell
            self.makers[version_text(record.provenance["workflow"])] += 1
        keys = ("set", "index", "caption_idx", "reason")
        self.skipped += [{key: row[key] for key in keys} for row in record.skipped]

    def finish(self, archive: str, plan: Plan) -> ArchiveRecord:
        """Write the columns and attributes that are left; returns the archive's record."""
        self.columns.write()
        dataset, num_joints = plan.config.dataset, self.layout.contact_dim
        names = joint_names(dataset.data_repr, dataset.data_repr_joints, num_joints)
        for axis, values in zip(AXES, (names, list("xyz")), strict=True):
            column = create_column(self.folder, axis, str, len(values), axis)
            column[:] = np.array(values, object)
        describe_store(self.folder, self._attributes(plan))
        return ArchiveRecord(
            archive=archive,
            plan=plan.fingerprint,
            layout=self.layout,
            num_samples=self.layout.num_samples,
            num_skipped=len(self.skipped),
            skipped=self.skipped,
            chunks=[chunk.name for chunk in plan.chunks],
            files=self.shards | checksum_files(self.folder, leaving_out=self.shards),
            versions={library: dict(counts) for library, counts in self.versions.items()},
            dropped=plan.dropped,
        )

    def _attributes(self, plan: Plan) -> dict[str, Any]:
        """What the archive says of itself."""
        made_here = workflow_version()
        provenance = self.provenance | {
            # Chunks may be older than what the plan says of max_items, batch_size and the like.
            "config": plan.config.as_dict(),
            "devices": [self.devices[name] for name in sorted(self.devices)],
            "versions": {
                library: ", ".join(sorted(counts)) for library, counts in self.versions.items()
            },
            "workflow": made_here | {"made_chunks": sorted(self.makers)},
        }
        if not plan.config.workflow.absolute_paths:
            provenance = without_folders(provenance)
        return {
            "title": f"Contact maps of {plan.config.exp_name}",
            "description": DESCRIPTION,
            "source": f"{made_here['name']} {version_text(made_here)}",
            "archive_version": ARCHIVE_VERSION,
            "plan": plan.fingerprint,
            # By this convention (CF), xarray takes these columns for labels and not for data.
            "coordinates": " ".join(COLUMNS),
            **provenance,
        }

    def lines(self) -> Iterator[str]:
        """What is out of the ordinary, for the log."""
        for reason, count in self.copied.items():
            yield f"{count} shard files were copied, not linked: {reason}"
        yield from describe_versions(self.versions)


def describe_versions(versions: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """A line for each library of which the chunks were made with different versions."""
    for library, counts in versions.items():
        if len(counts) > 1:
            each = ", ".join(f"{version} ({count})" for version, count in sorted(counts.items()))
            yield (
                f"chunks were made with different versions of {library}: {each}; their maps may "
                "differ from those of one version by rounding"
            )


def _shards(record: ChunkRecord, number: int) -> dict[str, str]:
    """Paths of a chunk's shards, in its store -> in the archive.

    A chunk's only shard of `sample` is sample/c.0.0.0.0; in the archive it is sample/c.7.0.0.0
    for chunk 7. A chunk of skipped samples only has no shards.
    """
    ranks = {name: len(row) + 1 for name, (row, _, _) in record.layout.arrays().items()}
    pairs = {shard_name(name, 0, n): shard_name(name, number, n) for name, n in ranks.items()}
    return {source: shard for source, shard in pairs.items() if source in record.files}


def _link(source: str, target: str, known: list) -> str | None:
    """Give a verified shard file its name in the archive.

    Args:
        known: its size and sha256; a copy is held against them.
    Returns:
        None, or why it had to be copied.
    """
    try:
        os.link(source, target, follow_symlinks=False)
        return None
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        reason = _why_not_linked(error, source)
    shutil.copyfile(source, target, follow_symlinks=False)
    os.chmod(target, 0o444)
    problem = verify_file(target, known)
    if problem:
        raise ArchiveError(
            f"{problem}, right after it was copied from {source}; the disk may be failing. Run "
            "the same snakemake command again, on another disk if it returns"
        )
    return reason


def _why_not_linked(error: OSError, source: str) -> str:
    """Why the system made no hard link, in words."""
    if error.errno == errno.EXDEV:
        return "the chunks lie on another file system"
    if error.errno == errno.EMLINK:
        return "the files have as many hard links as the file system allows"
    try:
        protected = PROTECTED_HARDLINKS.read_text().strip() == "1"
        if protected and os.lstat(source).st_uid != os.geteuid():
            return "the chunks belong to another user, and fs.protected_hardlinks is 1 here"
    except OSError:
        pass  # not Linux
    return f"this file system makes no hard links ({error.strerror})"


class _Columns:
    """The text and integer columns of an archive, written a block of rows at a time."""

    def __init__(self, folder: Path, num_samples: int):
        self.arrays = {name: create_column(folder, name, str, num_samples) for name in TEXT_COLUMNS}
        for name in INT_COLUMNS:
            self.arrays[name] = create_column(folder, name, "int32", num_samples)
        self.values: dict[str, list] = {name: [] for name in self.arrays}
        self.num_rows = self.written = 0

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Take the next rows."""
        numbers = range(self.num_rows, self.num_rows + len(rows))
        # The item's index repeats from set to set; the label of a row must not.
        special = {
            "index": map(str, numbers),
            "item": [row["index"] for row in rows],
            "key": [f"{row['set']}/{row['index']}/{row['caption_idx']}" for row in rows],
        }
        for name, values in self.values.items():
            values += special.get(name) or [row[name] for row in rows]
        self.num_rows += len(rows)
        while len(self.values["status"]) >= COLUMN_ROWS:
            self.write()

    def write(self) -> None:
        """Write the next block, or what there is of it."""
        start, stop = self.written, self.written
        for name, values in self.values.items():
            block = values[:COLUMN_ROWS]
            del values[:COLUMN_ROWS]
            stop = start + len(block)
            dtype = object if name in TEXT_COLUMNS else np.int32
            if block:
                self.arrays[name][start:stop] = np.array(block, dtype)
        self.written = stop


def _drop_records(archive: Path) -> None:
    """Remove the records of earlier archives of this name: they do not describe the new one."""
    for record in records_beside(archive):
        remove(record)
