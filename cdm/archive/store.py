"""A chunk's store and its record, written so that a crash cannot leave half of one (no torch).

A chunk is a store `chunks/{name}.zarr` and, written last, its record `chunks/{name}.json`. The
merged archive has the same arrays: its shard k *is* the shard file of chunk k (`cdm.run.merge`).
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from cdm.archive.attributes import ARRAY_ATTRIBUTES
from cdm.archive.checks import checksum_files, lost_files, verify_file
from cdm.archive.layout import COLUMN_ROWS, OK, Layout, shard_name
from cdm.archive.records import ChunkRecord, read_record, rebuild, record_path, store_path
from cdm.archive.shards import ShardSums, write_shard
from cdm.errors import ArchiveError, listed
from cdm.files import replacing_all, seal


def create_arrays(folder: Path, layout: Layout) -> dict[str, zarr.Array]:
    """Declare the sharded arrays of an archive in its folder.

    Each is created as a store of its own: through its group, zarr would make it with a hard
    link, which not every file system has. Shards lie side by side, `sample/c.7.0.0.0`: a folder
    for each would make ten thousand shards slow to sync and to remove.
    """
    return {
        name: zarr.create_array(
            folder / name,
            shape=(layout.num_samples, *row),
            shards=(layout.chunk_size, *row),
            chunks=(1, *row),
            dtype=dtype,
            fill_value=float("nan"),
            compressors=[Crc32cCodec()],
            dimension_names=("index", *axes),
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=ARRAY_ATTRIBUTES[name],
        )
        for name, (row, dtype, axes) in layout.arrays().items()
    }


def create_column(
    folder: Path, name: str, dtype: Any, num_samples: int, axis: str = "index"
) -> zarr.Array:
    """Declare one text or integer per row. Its files exist even where all values are empty.

    Args:
        axis: along which the values lie; "index" is that of the rows.
    """
    return zarr.create_array(
        folder / name,
        shape=(num_samples,),
        chunks=(min(COLUMN_ROWS, num_samples),),
        dtype=dtype,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=(axis,),
        attributes=ARRAY_ATTRIBUTES[name],
        config={"write_empty_chunks": True},
    )


def describe_store(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write the metadata of an archive whose arrays are all declared; nothing changes after it.

    The group's zarr.json repeats the metadata of the arrays (consolidated metadata). So one request
    tells a reader all of it, also where a server lists no files, and xarray opens the archive
    without a warning. Zarr's warning, that other programs may not read this, does not concern them:
    the specification has them leave it out.
    """
    zarr.create_group(folder, zarr_format=3, attributes=dict(attributes))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(folder, zarr_format=3)


def write_chunk(
    store: Path,
    arrays: Mapping[str, np.ndarray],
    record: ChunkRecord,
    sums: Mapping[str, ShardSums] | None = None,
) -> ChunkRecord:
    """Write a chunk: store and record under temporary names, read back, renamed, record last.

    Args:
        store: `chunks/{name}.zarr`; the record becomes `chunks/{name}.json`.
        arrays: as `Layout.empty` shapes them; rows of skipped samples are NaN.
        record: everything but the files' checksums. To its seconds of the phase `write` come those
            of writing and checking the arrays.
        sums: of each array's rows, where they were summed up while they were made.
    Returns:
        The record with checksums, as it was written.
    Raises:
        ArchiveError: the disk refused, or what was read back differs from what was written, or
            files were removed while the chunk was written. Nothing is kept then.
    """
    started = time.perf_counter()
    sums = sums or _sum_up(arrays)
    _check_values(store, sums, record)
    written = record

    def check() -> None:
        # A process that was stopped for long may find that its files were removed meanwhile.
        missing = record.layout.chunk_files(record.statuses) ^ set(written.files)
        lost = [f"{store}/{name}: is missing" for name in sorted(missing)]
        lost += lost_files(temporary, written.files)
        if lost:
            raise ArchiveError(
                f"{store}: its files changed while it was written: {listed(lost, 3, ', ')}. "
                "Nothing was kept; run the same snakemake command again"
            )

    with replacing_all(store, record_path(store), check=check) as (temporary, temporary_record):
        # Arrays, each read back.
        zarr.create_group(temporary, zarr_format=3, attributes=record.provenance)
        stored = create_arrays(temporary, record.layout)
        shards = _write_shards(store, temporary, stored, arrays, record, sums)

        # The record, with the checksums of all files.
        files = shards | checksum_files(temporary, leaving_out=shards)
        write_s = record.seconds.get("write", 0.0) + time.perf_counter() - started
        seconds = record.seconds | {"write": round(write_s, 3)}
        written = replace(record, files=files, seconds=seconds)
        for relative in written.files:  # the merged archive shares these files by hard link
            with contextlib.suppress(FileNotFoundError):  # `check` names what is lost
                (temporary / relative).chmod(0o444)
        temporary_record.write_bytes(seal(asdict(written)))
    return written


def _write_shards(
    store: Path,
    temporary: Path,
    stored: Mapping[str, zarr.Array],
    arrays: Mapping[str, np.ndarray],
    record: ChunkRecord,
    sums: Mapping[str, ShardSums],
) -> dict[str, list]:
    """Write the shard of each array, several at a time; their [size, sha256] by path in the store.

    Every byte is read back. Of each array, one row is read by zarr, too.
    """
    paths = {name: shard_name(name, 0, values.ndim) for name, values in arrays.items()}
    row = record.statuses.index(OK) if OK in record.statuses else None

    def write(name: str) -> list | None:
        values = arrays[name]
        known = write_shard(temporary / paths[name], values, record.layout.chunk_size, sums[name])
        if row is not None and not np.array_equal(stored[name][row], values[row]):
            raise ValueError(f"row {row} reads back differently from what was written")
        return known

    with ThreadPoolExecutor(len(arrays)) as pool:
        jobs = {name: pool.submit(write, name) for name in arrays}
    files = {}
    for name, job in jobs.items():
        try:
            known = job.result()
        except ValueError as error:
            raise ArchiveError(
                f"{store}: '{name}': {error}; the disk may be failing. Nothing was kept; run "
                "again, on another disk if it returns"
            ) from None
        if known is not None:
            files[paths[name]] = known
    return files


def _sum_up(arrays: Mapping[str, np.ndarray]) -> dict[str, ShardSums]:
    """The checksums of all arrays, several at a time."""
    with ThreadPoolExecutor(len(arrays)) as pool:
        return dict(zip(arrays, pool.map(ShardSums.of, arrays.values()), strict=True))


def _check_values(store: Path, sums: Mapping[str, ShardSums], record: ChunkRecord) -> None:
    """Numbers where and only where a sample is ok: nothing else may enter an archive."""
    for name, of_rows in sums.items():
        rows = zip(record.statuses, of_rows.finite, of_rows.crcs, strict=True)
        for row, (status, finite, crc) in enumerate(rows):
            ok = status == OK
            if not (finite if ok else crc is None):
                raise ArchiveError(
                    f"{store}: row {row} of '{name}' is {'not finite' if ok else 'not empty'}, "
                    f"its status is {status}; nothing was written. This is a defect of "
                    "the program: please report it with the log of this chunk"
                )


def verify_chunk(path: Path, hashed: Callable[..., Iterable] = map) -> ChunkRecord:
    """Read a chunk's record and hold the names and every byte of its store against it.

    Args:
        path: `chunks/{name}.json`.
        hashed: calls a function with each file of a list, as `map` does; that of a pool of threads
            hashes several at a time.
    Raises:
        ArchiveError: names the chunk, the file, what was found, and how to rebuild it.
    """
    record = read_record(path)
    store = store_path(path)
    if record.name != path.stem:
        raise ArchiveError(f"{path}: this is the record of chunk {record.name}; {rebuild(path)}")
    other = sorted(record.layout.chunk_files(record.statuses) ^ set(record.files))
    if other:
        what = "has" if other[0] in record.files else "lacks"
        raise ArchiveError(
            f"{path}: {what} the file {other[0]}, other than its layout and statuses say; "
            f"{rebuild(path)}"
        )
    problems = lost_files(store, record.files)
    # The largest first, so that no thread is left alone with one.
    files = sorted(record.files.items(), key=lambda file: -file[1][0])
    problems += filter(None, hashed(lambda file: verify_file(f"{store}/{file[0]}", file[1]), files))
    if problems:
        raise ArchiveError(f"{problems[0]}; {rebuild(path)}")
    return record
