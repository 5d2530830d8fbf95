"""Whether two archives are equal to the last bit, whatever their chunks are.

    python benchmarks/archive_digest.py a/contact_maps.zarr b/contact_maps.zarr

Each array is hashed in blocks of rows of a size of their own, so that archives of other chunk
sizes have the same digests. The figures of benchmarks/whole_job.py (JSON) hold the digests of
their archives and may stand for them.
"""

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zarr

ROWS = 64
THREADS = 8


def digest_archive(archive: Path) -> dict[str, str]:
    """Name of each array -> sha256 of its shape, dtype and values."""
    group = zarr.open_group(str(archive), mode="r")
    return {name: _digest(group[name]) for name in sorted(group.array_keys())}


def digest_shards(archive: Path) -> dict[str, str]:
    """Name of each file with values -> sha256, as the archive's record has them: nothing is read.

    Equal where two archives and their chunk sizes are equal.
    """
    record = max(
        archive.parent.glob(f"{archive.stem}-*.json"), key=lambda path: path.stat().st_mtime
    )
    files = json.loads(record.read_text())["files"]
    return {name: sha256 for name, (_, sha256) in files.items() if not name.endswith(".json")}


def _digest(array) -> str:
    def block(start: int) -> bytes:
        values = array[start : start + ROWS]
        if values.dtype.kind in "OT":  # texts of variable length
            values = json.dumps(values.tolist()).encode()
            return hashlib.sha256(values).digest()
        return hashlib.sha256(np.ascontiguousarray(values).view(np.uint8)).digest()

    whole = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(block, range(0, array.shape[0], ROWS) if array.shape else ()):
            whole.update(part)
    return whole.hexdigest()


def differences(a: dict[str, str], b: dict[str, str]) -> list[str]:
    """Names of the arrays that differ, or that one archive lacks."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def read_digests(path: Path) -> dict[str, str]:
    """The digests of an archive, or those that a file of figures holds."""
    if path.suffix == ".json":
        return json.loads(path.read_text())["digests"]
    return digest_archive(path)


def compare(a: Path, b: Path) -> int:
    """Print whether two archives are equal; exit status 1 if not."""
    found, expected = read_digests(a), read_digests(b)
    different = differences(found, expected)
    if different:
        print(f"{a} and {b} differ in {', '.join(different)}")
    else:
        print(f"{a} and {b} are equal to the last bit: {', '.join(found)}")
    return bool(different)


if __name__ == "__main__":
    sys.exit(compare(*map(Path, sys.argv[1:3])))
