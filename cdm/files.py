"""Files that appear whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdm.errors import ArchiveError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or folder under a temporary sibling; it takes its name when the block ends.

    Everything written is fsynced before the rename, and the rename after it, so that a crash at
    any instant leaves the old content or the new, never a part. Leftovers of killed attempts at
    the same path are removed first. A folder that stands at `path` is replaced.

    Raises:
        ArchiveError: the disk is full, over quota or not writable; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            yield temporary
            sync(temporary)
            if path.is_dir():
                old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
                os.rename(path, old)
                os.rename(temporary, path)
                remove(old)
            else:
                os.replace(temporary, path)
            _fsync(path.parent)
        finally:
            remove(temporary)
    except OSError as error:
        raise ArchiveError(explain_os_error(error, path)) from error


def explain_os_error(error: OSError, path: Path) -> str:
    """What the system refused at `path`, and what to do about it."""
    known = {
        errno.ENOSPC: "free some space on that disk",
        errno.EDQUOT: "your quota is used up: remove files or ask for more",
        errno.EROFS: "that file system is read-only: run from a folder you can write to",
        errno.EACCES: "you may not write there: check the folder's owner and mode",
        errno.EPERM: "you may not write there: check the folder's owner and mode",
    }
    advice = known.get(error.errno, "look at that path")
    return (
        f"cannot write {path}: {error.strerror or error}. Finished chunks are kept; {advice}, "
        "then run the same snakemake command again"
    )


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(path: Path) -> None:
    """Remove what killed attempts at writing `path` left beside it."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        remove(leftover)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to disk."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _fsync(Path(folder, name))
            _fsync(Path(folder))
    else:
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
