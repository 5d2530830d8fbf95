"""The final archive: chunk k's shard files become its shards, by hard link (no torch)."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cdm.archive.store import (
    COLUMN_ROWS,
    ChunkRecord,
    checksum_files,
    create_arrays,
    create_column,
    rebuild,
    store_path,
    verify_chunk,
)
from cdm.errors import ArchiveError
from cdm.files import replacing_all, seal
from cdm.jobs.machine import device_text, read_device
from cdm.run.plan import Chunk, Plan

LARGE_CHUNK = 4_000_000  # bytes; for smaller ones, threads cost more than they gain
TEXT_COLUMNS = ("set", "index", "text", "scene_id", "status")


def merge(plan: Plan, log: Callable[[str], None], threads: int = 1) -> dict[str, Any]:
    """Verify every chunk and join them into `contact_maps.zarr`; its record comes last.

    No map is copied where the file system has hard links, and memory does not grow with the
    archive: chunks are taken one at a time.

    Args:
        plan: names the chunks, in order.
        log: gets one line of text at a time.
        threads: chunks verified at the same time.
    Returns:
        The record: counts, skipped samples, chunks.
    Raises:
        ArchiveError: names every chunk that is missing, corrupt or of another fingerprint, and
            how to rebuild it. An archive that stood there before is left as it was.
    """
    archive = Path(plan.archive)
    paths = [Path(path) for path in plan.chunk_records()]
    problems: list[str] = []
    first: ChunkRecord | None = None
    devices: dict[str, dict] = {}
    files: dict[str, list] = {}
    skipped: list[dict[str, Any]] = []
    copied = 0
    with replacing_all(archive, Path(plan.archive_record)) as (temporary, temporary_record):
        for chunk, path, found in zip(plan.chunks, paths, _verify_all(paths, threads), strict=True):
            problem = _problem(path, chunk, found, first)
            if problem:
                problems.append(problem)
            if problems:
                continue  # look on, to name them all
            if first is None:
                first, layout = found, replace(found.layout, num_samples=plan.num_samples)
                group = _create_group(temporary, first)
                create_arrays(temporary, layout)
                columns = _Columns(temporary, layout.num_samples)
            device = found.provenance["device"]
            devices[device_text(device)] = read_device(device)
            shards = _shards(found, chunk.number)
            files |= {target: found.files[source] for source, target in shards.items()}
            copied += _link_shards(shards, store_path(path), temporary)
            columns.append(found.samples)
            skipped += [
                {key: row[key] for key in ("set", "index", "caption_idx", "reason")}
                for row in found.skipped
            ]
        if problems:
            raise ArchiveError(_listed(problems, len(paths)))
        columns.write()
        group.attrs["devices"] = [devices[name] for name in sorted(devices)]
        group.attrs["plan"] = plan.fingerprint
        summary = {
            "archive": archive.name,
            "plan": plan.fingerprint,
            "layout": asdict(layout),
            "num_samples": layout.num_samples,
            "num_skipped": len(skipped),
            "skipped": skipped,
            "chunks": [path.stem for path in paths],
            "files": files | checksum_files(temporary, leaving_out=files),
        }
        temporary_record.write_bytes(seal(summary))
        _drop_records(archive)  # from here on the old archive, if any, is being replaced
    if copied:
        log(f"no hard links here: {copied} shard files were copied")
    size = sum(size for size, _ in summary["files"].values())
    log(
        f"{layout.num_samples} samples ({len(skipped)} skipped) from {len(paths)} chunks, "
        f"{size / 1e6:.1f} MB"
    )
    return summary


def _problem(
    path: Path, chunk: Chunk, found: ChunkRecord | ArchiveError, first: ChunkRecord | None
) -> str | None:
    """Why a chunk cannot be merged with the first one, or None."""
    if isinstance(found, ArchiveError):
        return str(found)
    first = first or found
    expected = replace(first.layout, num_samples=chunk.stop - chunk.start)
    if found.base != chunk.base or found.layout != expected:
        return f"{path}: a chunk of another plan; {rebuild(path)}"
    if _numbers(found) != _numbers(first):
        return (
            f"{path}: made with other normalisation statistics than {first.name}; {rebuild(path)}"
        )
    precisions = [record.provenance["precision"] for record in (found, first)]
    if precisions[0] != precisions[1]:
        return (
            f"{path}: sampled in {precisions[0]}, {first.name} in {precisions[1]} (precision auto: "
            f"bf16 on GPUs, fp32 on CPUs); set sampling.precision, or {rebuild(path)}"
        )
    return None


def _listed(problems: list[str], num_chunks: int) -> str:
    listed = "\n  ".join(problems[:10])
    more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
    return f"{len(problems)} of {num_chunks} chunks cannot be merged:\n  {listed}{more}"


def _verify_all(paths: list[Path], threads: int) -> Iterator[ChunkRecord | ArchiveError]:
    """Each chunk's record, or what is wrong with it; large ones are hashed in threads."""

    def verify(path: Path) -> ChunkRecord | ArchiveError:
        try:
            return verify_chunk(path)
        except ArchiveError as error:
            return error

    first = verify(paths[0])
    yield first
    if isinstance(first, ChunkRecord) and sum(n for n, _ in first.files.values()) < LARGE_CHUNK:
        yield from map(verify, paths[1:])
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(1, len(paths), 256):  # bounded: records do not pile up in memory
            yield from pool.map(verify, paths[start : start + 256])


def _numbers(record: ChunkRecord) -> tuple:
    statistics = record.provenance["statistics"]
    return statistics["mean"], statistics["std"]


def _shards(record: ChunkRecord, number: int) -> dict[str, str]:
    """Paths of a chunk's shards, in its store -> in the archive.

    A chunk's only shard of `sample` is sample/c.0.0.0.0; in the archive it is sample/c.7.0.0.0
    for chunk 7. Arrays of skipped samples only have no shard.
    """
    return {
        relative: relative.replace("/c.0.", f"/c.{number}.")
        for relative in record.files
        if "/c.0." in relative  # the others are metadata
    }


def _link_shards(shards: dict[str, str], store: Path, archive: Path) -> int:
    """Make a chunk's shards the archive's; how many had to be copied."""
    copied = 0
    for source, target in shards.items():
        try:
            os.link(f"{store}/{source}", f"{archive}/{target}")
        except OSError:
            shutil.copyfile(f"{store}/{source}", f"{archive}/{target}")
            copied += 1
    return copied


def _create_group(folder: Path, first: ChunkRecord) -> zarr.Group:
    attributes = {key: value for key, value in first.provenance.items() if key != "device"}
    return zarr.create_group(folder, zarr_format=3, attributes=attributes)


class _Columns:
    """The text and integer columns of an archive, written a block of rows at a time."""

    def __init__(self, folder: Path, num_samples: int):
        self.arrays = {name: create_column(folder, name, str, num_samples) for name in TEXT_COLUMNS}
        self.arrays["caption_idx"] = create_column(folder, "caption_idx", "int32", num_samples)
        self.values: dict[str, list] = {name: [] for name in self.arrays}
        self.written = 0

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Take the next rows."""
        for name, values in self.values.items():
            values += [row[name] for row in rows]
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
    """Remove the records of earlier plans: what they say is in the archive no longer is."""
    for path in archive.parent.glob(f"{archive.stem}-*.json"):
        path.unlink()
