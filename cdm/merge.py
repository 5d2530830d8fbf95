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

from cdm.archive import (
    COLUMN_ROWS,
    ChunkRecord,
    checksum_files,
    create_arrays,
    create_column,
    read_record,
    rebuild,
    store_path,
    verify_chunk,
)
from cdm.errors import ArchiveError
from cdm.files import replacing_all, seal
from cdm.plan import Plan

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
    records = [Path(path) for path in plan.chunk_records()]
    first, skipped, rows = _check(plan, records, threads)
    layout = replace(first.layout, num_samples=rows)
    devices: set[str] = set()

    with replacing_all(archive, Path(plan.archive_record)) as (temporary, temporary_record):
        attributes = {key: value for key, value in first.provenance.items() if key != "device"}
        group = zarr.create_group(temporary, zarr_format=3, attributes=attributes)
        create_arrays(temporary, layout)
        columns = {name: create_column(temporary, name, str, rows) for name in TEXT_COLUMNS}
        columns["caption_idx"] = create_column(temporary, "caption_idx", "int32", rows)
        copied = 0
        files: dict[str, list] = {}
        block: list[dict[str, Any]] = []
        written = 0
        for number, path in enumerate(records):
            record = read_record(path)
            devices.add(record.provenance["device"])
            shards = _shards(record, number)
            files |= {target: record.files[source] for source, target in shards.items()}
            copied += _link_shards(shards, store_path(path), temporary)
            block += record.samples
            while len(block) >= COLUMN_ROWS:
                _write_rows(columns, block[:COLUMN_ROWS], written)
                block, written = block[COLUMN_ROWS:], written + COLUMN_ROWS
        _write_rows(columns, block, written)
        group.attrs["devices"] = sorted(devices)
        group.attrs["plan"] = plan.fingerprint
        summary = {
            "archive": archive.name,
            "plan": plan.fingerprint,
            "layout": asdict(layout),
            "num_samples": rows,
            "num_skipped": len(skipped),
            "skipped": skipped,
            "chunks": [path.stem for path in records],
            "files": files | checksum_files(temporary, leaving_out=files),
        }
        temporary_record.write_bytes(seal(summary))
        _drop_records(archive)  # from here on the old archive, if any, is being replaced
    if copied:
        log(f"no hard links here: {copied} shard files were copied")
    size = sum(size for size, _ in summary["files"].values())
    log(f"{rows} samples ({len(skipped)} skipped) from {len(records)} chunks, {size / 1e6:.1f} MB")
    return summary


def _check(plan: Plan, paths: list[Path], threads: int) -> tuple[ChunkRecord, list, int]:
    """Verify all chunks; the first one's record, the skipped samples, and the number of rows."""
    problems, skipped, rows = [], [], 0
    first: ChunkRecord | None = None
    statistics = None
    for chunk, path, found in zip(plan.chunks, paths, _verify_all(paths, threads), strict=True):
        if isinstance(found, ArchiveError):
            problems.append(str(found))
            continue
        first = first or found
        statistics = statistics or _numbers(found)
        expected = replace(first.layout, num_samples=chunk.stop - chunk.start)
        if found.base != chunk.base or found.layout != expected:
            problems.append(f"{path}: a chunk of another plan; {rebuild(path)}")
        elif _numbers(found) != statistics:
            problems.append(
                f"{path}: made with other normalisation statistics than {paths[0].name}; "
                f"{rebuild(path)}"
            )
        rows += found.layout.num_samples
        skipped += [
            {key: row[key] for key in ("set", "index", "caption_idx", "reason")}
            for row in found.skipped
        ]
    if problems:
        listed = "\n  ".join(problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ArchiveError(
            f"{len(problems)} of {len(paths)} chunks cannot be merged:\n  {listed}{more}"
        )
    return first, skipped, rows


def _verify_all(paths: list[Path], threads: int) -> Iterator[ChunkRecord | ArchiveError]:
    """Each chunk's record, or what is wrong with it; hashing runs in threads."""

    def verify(path: Path) -> ChunkRecord | ArchiveError:
        try:
            return verify_chunk(path)
        except ArchiveError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), 256):  # bounded: records do not pile up in memory
            yield from pool.map(verify, paths[start : start + 256])


def _numbers(record: ChunkRecord) -> tuple:
    statistics = record.provenance["statistics"]
    return statistics["mean"], statistics["std"]


def _shards(record: ChunkRecord, number: int) -> dict[str, str]:
    """Paths of a chunk's shards, in its store -> in the archive.

    A chunk's only shard of `sample` is sample/c/0/0/0/0; in the archive it is sample/c/7/0/0/0
    for chunk 7. Arrays of skipped samples only have no shard.
    """
    paths = (relative.split("/") for relative in record.files)
    return {
        "/".join([array, *key]): "/".join([array, "c", str(number), *key[2:]])
        for array, *key in paths
        if key and key[0] == "c"  # the others are metadata
    }


def _link_shards(shards: dict[str, str], store: Path, archive: Path) -> int:
    """Make a chunk's shards the archive's; how many had to be copied."""
    copied = 0
    for source, target in shards.items():
        path = archive / target
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(store / source, path)
        except OSError:
            shutil.copyfile(store / source, path)
            copied += 1
    return copied


def _write_rows(columns: dict[str, zarr.Array], rows: list[dict[str, Any]], start: int) -> None:
    """Write one block of the text and integer columns."""
    if not rows:
        return
    stop = start + len(rows)
    for name in TEXT_COLUMNS:
        columns[name][start:stop] = np.array([row[name] for row in rows], dtype=object)
    columns["caption_idx"][start:stop] = np.array([row["caption_idx"] for row in rows], np.int32)


def _drop_records(archive: Path) -> None:
    """Remove the records of earlier plans: what they say is in the archive no longer is."""
    for path in archive.parent.glob(f"{archive.stem}-*.json"):
        path.unlink()
