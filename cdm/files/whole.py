"""Files that appear whole or not at all."""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from cdm.errors import ArchiveError
from cdm.files.content import list_names
from cdm.files.locks import NO_LOCKS, lock_path, try_lock, unlock

# What a file system answers that cannot link two paths; the bytes are copied then.
CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
LOCK_WAIT_S = 60.0  # how long a second writer of the same path waits for the first


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or folder under a temporary sibling; it takes its name when the block ends.

    Everything written is fsynced before the rename, and the rename after it, so that a crash at
    any instant leaves the old content or the new, never a part. Leftovers of killed attempts at
    the same path are removed first; a second writer waits for the first one to end. A folder
    that stands at `path` is replaced.

    Raises:
        ArchiveError: the disk is full, over quota or not writable, or another process does not
            end its writing; nothing is left behind.
    """
    with replacing_all(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def replacing_all(*paths: Path, check: Callable[[], None] = lambda: None) -> Iterator[list[Path]]:
    """`replacing` for siblings that belong together, such as a store and its record.

    Renamed in this order. Old versions of all but the first are removed before, so if the last
    path exists, all of them come from the same attempt. Other writers of the first path wait.

    Args:
        paths: siblings.
        check: called when everything is on disk, right before the renames. It raises if what is
            there is no longer what was written.
    """
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        with sole_writer(paths[0]) as alone:
            if alone:
                for path in paths:
                    remove_leftovers(path)
            temporaries = [temporary_name(path) for path in paths]
            try:
                yield temporaries
                for temporary in temporaries:
                    sync(temporary)
                check()
                for path in paths[1:]:
                    remove(path)
                for temporary, path in zip(temporaries, paths, strict=True):
                    _rename(temporary, path)
            finally:
                for temporary in temporaries:
                    remove(temporary)
    except OSError as error:
        raise ArchiveError(explain_os_error(error, paths[0])) from error


def temporary_name(path: Path) -> Path:
    """A name beside `path` for what will be renamed to it; `target_of` tells `path` again."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


def target_of(temporary: Path) -> Path | None:
    """The path that a temporary was going to be; None if `replacing` gives no such names."""
    found = _TEMPORARY.fullmatch(temporary.name)
    return temporary.with_name(found["name"]) if found else None


def _rename(temporary: Path, path: Path) -> None:
    """Give a finished temporary its name, for good. What stood there before is removed."""
    if is_folder(temporary) or is_folder(path):
        if not (os.path.lexists(path) and _exchange(temporary, path)):
            if os.path.lexists(path):  # without an exchange, the path is missing for a moment
                old = temporary_name(path)
                os.rename(path, old)
                os.rename(temporary, path)
                remove(old)
            else:
                os.rename(temporary, path)
    else:
        os.replace(temporary, path)
    _fsync(path.parent, os.O_DIRECTORY)  # a run's folder may well be a link to another disk


RENAME_EXCHANGE, AT_FDCWD = 2, -100  # of linux/fs.h and fcntl.h


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step (renameat2), so that both exist at every moment.

    Returns:
        False where system or file system cannot do it; nothing was changed then.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    ends = os.fsencode(one), os.fsencode(other)
    if renameat2(AT_FDCWD, ends[0], AT_FDCWD, ends[1], RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


@contextlib.contextmanager
def sole_writer(path: Path) -> Iterator[bool]:
    """Keep other writers of `path` waiting; False where the file system has no locks.

    Raises:
        ArchiveError: another process does not end its writing.
        OSError: no lock file can be made in the folder of `path`.
    """
    lock = lock_path(path)
    deadline = time.monotonic() + LOCK_WAIT_S
    try:
        while (held := try_lock(lock)) is None:
            if time.monotonic() > deadline:
                raise ArchiveError(
                    f"another process is writing {path}, since more than {LOCK_WAIT_S:.0f} s. Wait "
                    "for it or end it, then run the same snakemake command again"
                )
            time.sleep(0.05)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        remove(lock)
        yield False
        return
    try:
        yield True
    finally:
        unlock(lock, held)


def remove_if_unused(path: Path, written_as: Path) -> bool:
    """Remove a path unless a process is writing `written_as`; nobody begins to write meanwhile.

    Returns:
        False if it is being written; it was left as it was then.
    """
    lock, held = lock_path(written_as), None
    try:
        held = try_lock(lock)
        if held is None:
            return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise ArchiveError(explain_os_error(error, path)) from None
        remove(lock)
    try:
        remove(path)
    finally:
        if held is not None:
            unlock(lock, held)
    return True


def explain_os_error(error: OSError, path: Path) -> str:
    """What the system refused at `path`, and what to do about it."""
    known = {
        errno.ENOSPC: "free some space on that disk",
        errno.EDQUOT: "your quota is used up: remove files or ask for more",
        errno.EROFS: "that file system is read-only: run from a folder you can write to",
        errno.EACCES: "you may not write there: check the folder's owner and mode",
        errno.EPERM: "you may not write there: check the folder's owner and mode",
    }
    advice = known.get(error.errno or 0, "look at that path")
    return (
        f"cannot write {path}: {error.strerror or error}. Finished chunks are kept; {advice}, "
        "then run the same command again"
    )


def remove_leftovers(path: Path) -> None:
    """Remove what killed attempts at writing `path` left beside it."""
    for name in list_names(path.parent):
        leftover = path.with_name(name)
        if target_of(leftover) == path:
            remove(leftover)


def is_folder(path: str | Path) -> bool:
    """Whether a folder stands at a path; a symbolic link to one is none."""
    return os.path.isdir(path) and not os.path.islink(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there. Of a symbolic link, only the link goes."""
    if is_folder(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to disk.

    Files with several hard links are left out: they were flushed when they got their first name,
    and here only the folder changes. Links are not followed.
    """
    if is_folder(path):
        for folder, _, names in os.walk(path):
            for name in names:
                file = os.path.join(folder, name)
                if os.lstat(file).st_nlink == 1:
                    _fsync(file)
            _fsync(folder)
    else:
        _fsync(path)


def _fsync(path: str | Path, flags: int = os.O_NOFOLLOW | os.O_NONBLOCK) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)
