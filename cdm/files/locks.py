"""Lock files: held by one process, and freed by the system however that process ends."""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

from cdm.errors import ArchiveError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that has none


def lock_path(path: Path) -> Path:
    """The lock file that a writer of `path` holds."""
    return path.with_name(f".{path.name}.lock")


def try_lock(path: Path) -> int | None:
    """Hold the lock file at `path`, unless another process does.

    Returns:
        What `unlock` takes, or None while another process holds the lock.
    Raises:
        OSError: the folder is not writable, or its file system has no locks.
        ArchiveError: something else than a file stands there. It is neither followed nor opened.
    """
    # Not O_CREAT alone: in a shared /tmp that is refused for files of other users.
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_EXCL):
        try:
            descriptor = _open(path, flags)
            break
        except FileNotFoundError:
            continue
        except FileExistsError:
            return None  # another process was faster
    else:
        return None  # the lock file was removed at this moment
    if flags & os.O_CREAT:
        with contextlib.suppress(OSError):  # a file system without modes
            os.fchmod(descriptor, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or removed by the process that held it
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def unlock(path: Path, descriptor: int) -> None:
    """Give a lock back and remove its file."""
    with contextlib.suppress(OSError):  # not this user's to remove, or gone
        path.unlink()
    os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file at `path`; looking creates no file.

    False also where the file system has no locks, or what stands there is no lock file.
    """
    try:
        descriptor = _open(path, os.O_RDONLY)
    except (OSError, ArchiveError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _open(path: Path, flags: int) -> int:
    """Open a lock file. A symbolic link is not followed, and a pipe does not make us wait."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        descriptor = None
    if descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    if descriptor is not None:
        os.close(descriptor)
    raise ArchiveError(
        f"{path}: a link, folder or pipe stands here, expected a lock file that this program "
        f"makes. Look at what it is, remove it, and run the same command again"
    )
