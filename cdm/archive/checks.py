"""Whether the files of a store are those that were written (no torch).

Symbolic links are never followed: what they point to can change without a trace in the store.
"""

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from cdm.files import checksum


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
        One sentence for each missing, foreign, linked or resized file; empty if all are there.
    """
    if store.is_symlink():
        return [f"{store}: is a symbolic link, expected a folder"]
    try:
        found = list_files(store)
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


def list_files(store: Path) -> dict[str, int | None]:
    """Size of every file below a folder by its relative path; None for a link, pipe or device.

    Links to folders are not followed, and hidden files are left out.

    Raises:
        OSError: the folder is missing or unreadable.
    """
    sizes: dict[str, int | None] = {}
    folders = [""]
    while folders:
        prefix = folders.pop()
        with os.scandir(f"{store}/{prefix}") as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    sizes[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    sizes[name] = None
    return sizes
