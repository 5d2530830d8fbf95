"""The archive: Zarr v3 stores that a crash cannot leave half written (no torch).

A chunk is a store `chunks/{name}.zarr` and, written last, its record `chunks/{name}.json`. One
sample is one inner chunk with a crc32c, one index chunk is one shard, and the fill value is NaN,
so that what was never written cannot read as data. The final archive has the same arrays: its
shard k *is* the shard file of chunk k (see `cdm.run.merge`).
"""

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from cdm.errors import ArchiveError
from cdm.files import checksum, replacing_all, seal, unseal

OK, SKIPPED = "ok", "skipped"
COLUMN_ROWS = 65536  # rows per chunk of a text or integer column


@dataclass(frozen=True)
class Layout:
    """Shape of an archive.

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


@dataclass(frozen=True)
class ChunkRecord:
    """What is known of a finished chunk; its JSON file is what makes it finished.

    Attributes:
        name: `{number:05}-{fingerprint}`.
        base: fingerprint of settings and sample rows, without the items' content.
        layout: shape of the chunk's arrays.
        samples: one mapping per row: set, index, caption_idx, text, scene_id, status, and the
            reason where it was skipped.
        contents: group -> file -> {size, mtime_ns, sha256} of what was read.
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
    def skipped(self) -> list[dict[str, Any]]:
        """Rows without a map."""
        return [row for row in self.samples if row["status"] != OK]


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
        )
        for name, (row, dtype, axes) in layout.arrays().items()
    }


def shard_name(array: str, number: int, ndim: int) -> str:
    """Path of a shard in its store: `sample/c.7.0.0.0` holds chunk 7 of all maps."""
    return f"{array}/c.{number}" + ".0" * (ndim - 1)


def create_column(folder: Path, name: str, dtype: Any, num_samples: int) -> zarr.Array:
    """Declare one text or integer per row."""
    return zarr.create_array(
        folder / name,
        shape=(num_samples,),
        chunks=(min(COLUMN_ROWS, num_samples),),
        dtype=dtype,
        compressors=[ZstdCodec(), Crc32cCodec()],
        dimension_names=("index",),
    )


def write_chunk(store: Path, arrays: Mapping[str, np.ndarray], record: ChunkRecord) -> ChunkRecord:
    """Write a chunk: store and record under temporary names, read back, renamed, record last.

    Args:
        store: `chunks/{name}.zarr`; the record becomes `chunks/{name}.json`.
        arrays: as `Layout.empty` shapes them; NaN rows are skipped samples.
        record: everything but the files' checksums.
    Returns:
        The record with checksums, as it was written.
    Raises:
        ArchiveError: the disk refused, or what was read back differs from what was written.
    """
    with replacing_all(store, record_path(store)) as (temporary, temporary_record):
        zarr.create_group(temporary, zarr_format=3, attributes=record.provenance)
        stored = create_arrays(temporary, record.layout)
        for name, values in arrays.items():
            stored[name][:] = values
            if not np.array_equal(stored[name][:], values, equal_nan=True):
                raise ArchiveError(
                    f"{store}: '{name}' reads back differently from what was written; the disk "
                    "may be failing. Nothing was kept; run again, on another disk if it returns"
                )
        record = ChunkRecord(**{**vars(record), "files": checksum_files(temporary)})
        for relative in record.files:  # merged archives share these files by hard link
            (temporary / relative).chmod(0o444)
        temporary_record.write_bytes(seal(asdict(record)))
    return record


def record_path(store: Path) -> Path:
    """The JSON record beside a chunk's store."""
    return store.with_suffix(".json")


def store_path(record: Path) -> Path:
    """The store beside a chunk's JSON record."""
    return record.with_suffix(".zarr")


def read_record(path: Path) -> ChunkRecord:
    """Read a chunk's record.

    Raises:
        ArchiveError: missing, truncated or not a record.
    """
    try:
        content = unseal(path.read_bytes())
        return ChunkRecord(**{**content, "layout": Layout(**content["layout"])})
    except FileNotFoundError:
        found = "no such file"
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"not a chunk's record ({type(error).__name__}: {error})"
    raise ArchiveError(f"{path}: {found}; {rebuild(path)}")


def rebuild(record: Path) -> str:
    """How to have one chunk generated anew."""
    return (
        f"to rebuild this chunk: rm -rf {record} {store_path(record)}, then run the same "
        "snakemake command again"
    )


def checksum_files(store: Path, leaving_out: Collection[str] = ()) -> dict[str, list]:
    """Size and sha256 of every file in a store, by relative path, but those left out."""
    start = len(f"{store}/")
    names = (f"{folder}/{name}"[start:] for folder, _, found in os.walk(store) for name in found)
    wanted = sorted(name for name in names if name not in leaving_out)
    return {name: checksum(f"{store}/{name}") for name in wanted}


def file_problem(path: str | Path, size: int | None) -> str | None:
    """What is wrong with a file by its kind and size alone, or None.

    Symbolic links are not followed: what they point to can change without a trace here.

    Args:
        path: the file.
        size: bytes it should have; None where that is not known.
    """
    try:
        found = os.lstat(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    if stat.S_ISLNK(found.st_mode):
        return f"{path}: a symbolic link, expected a file"
    if not stat.S_ISREG(found.st_mode):
        return f"{path}: not a file"
    if size is not None and found.st_size != size:
        return f"{path}: corrupt ({found.st_size} bytes, expected {size})"
    return None


def verify_file(path: str | Path, expected: list) -> str | None:
    """What is wrong with a file whose [size in bytes, sha256] should be `expected`, or None."""
    problem = file_problem(path, expected[0])
    if problem:
        return problem
    try:
        found = checksum(path)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    if found != expected:
        return f"{path}: corrupt (contents changed since it was written)"
    return None


def verify_chunk(path: Path) -> ChunkRecord:
    """Read a chunk's record and hold every byte of its store against it.

    Args:
        path: `chunks/{name}.json`.
    Raises:
        ArchiveError: names the chunk, the file, what was found, and how to rebuild it.
    """
    record = read_record(path)
    store = store_path(path)
    if record.name != path.stem:
        raise ArchiveError(f"{path}: this is the record of chunk {record.name}; {rebuild(path)}")
    _verify_files(store, record.files, rebuild(path))
    return record


def verify_archive(path: Path) -> dict[str, Any]:
    """Read a merged archive's record and hold every byte of the archive beside it against it.

    Args:
        path: `contact_maps-{plan}.json`, beside `contact_maps.zarr`.
    Returns:
        The record.
    Raises:
        ArchiveError: names the file, what was found, and how to merge anew.
    """
    record = read_archive_record(path)
    _verify_files(path.with_name(record["archive"]), record["files"], merge_again(path))
    return record


def read_archive_record(path: Path) -> dict[str, Any]:
    """Read the record of a merged archive.

    Raises:
        ArchiveError: missing, truncated, changed, or not a record.
    """
    try:
        record = unseal(path.read_bytes())
        return record | {"archive": record["archive"], "files": dict(record["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(
            f"{path}: not an archive's record ({error}); {merge_again(path)}"
        ) from None


def archive_record_path(archive: Path, plan: str | None) -> Path:
    """The record beside a merged archive; `plan` is the fingerprint in the archive's attributes."""
    return archive.with_name(f"{archive.stem}-{plan}.json")


def merge_again(record: Path) -> str:
    """How to have an archive merged anew."""
    return f"to merge again from the chunks: rm {record}, then run the same snakemake command again"


def _verify_files(store: Path, files: Mapping[str, list], advice: str) -> None:
    """Hold the files of a store against their sizes and sha256."""
    for relative, expected in files.items():
        problem = verify_file(f"{store}/{relative}", expected)
        if problem:
            raise ArchiveError(f"{problem}; {advice}")


def lost_files(store: Path, files: Mapping[str, list]) -> list[str]:
    """What is wrong with a store by the names and sizes of its files; no file is opened.

    Cheap enough to be asked for every chunk when a plan is made: one listing per folder and one
    stat per file. A symbolic link counts as lost, because what it points to is not under our
    checksums. So does a file that the record does not know: zarr would read it as data. Hidden
    files are left out, because zarr never reads them (network file systems make such files).

    Args:
        store: folder of a chunk or of the merged archive.
        files: relative path -> [size in bytes, sha256], as its record has them.
    Returns:
        one sentence for each missing, foreign, linked or resized file; empty if all are there.
    """
    found: dict[str, int | None] = {}
    if store.is_symlink():
        return [f"{store}: is a symbolic link, expected a folder"]
    try:
        _list_sizes(str(store), "", found)
    except OSError as error:
        return [f"{store}: {error.strerror or error}"]
    problems = []
    for name in sorted({*files, *found}):
        if name not in found:
            problems.append(f"{store}/{name}: is missing")
        elif name not in files:
            problems.append(f"{store}/{name}: is not one of the files that were written")
        elif found[name] is None:
            problems.append(f"{store}/{name}: is a symbolic link or no file, expected a file")
        elif found[name] != files[name][0]:
            problems.append(f"{store}/{name}: has {found[name]} bytes, expected {files[name][0]}")
    return problems


def _list_sizes(folder: str, prefix: str, sizes: dict[str, int | None]) -> None:
    """Add size by relative path of every file below a folder; None for what is no plain file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                _list_sizes(entry.path, f"{prefix}{entry.name}/", sizes)
            elif entry.is_file(follow_symlinks=False):
                sizes[prefix + entry.name] = entry.stat(follow_symlinks=False).st_size
            else:
                sizes[prefix + entry.name] = None
