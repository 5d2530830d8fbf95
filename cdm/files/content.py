"""What files hold: their bytes, checksums, and what tells that they changed."""

import contextlib
import errno
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cdm.files.remote import Place, RemotePath
from cdm.files.servers import RemoteState

HASH_BLOCK = 1 << 18  # bytes; fits a core's cache


class FileState(NamedTuple):
    """What the file system knows about a file without reading it.

    Size and mtime alone do not tell an edit: copies and archives restore an old mtime, and a file
    that is renamed over another may have the same of both. The system sets ctime itself, and the
    new file has another inode.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "FileState":
        """The part of a stat that counts."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)

    @property
    def tells_edits(self) -> bool:
        """Whether an edit shows in it, which it may not in a server's answer (`RemoteState`)."""
        return True

    def agrees_with(self, recorded: Mapping[str, Any]) -> bool:
        """Whether a record's values are these; older records hold size and mtime only.

        What a server told is never the same: it holds no `mtime_ns`.
        """
        return "mtime_ns" in recorded and all(
            recorded.get(key, now) == now for key, now in self._asdict().items()
        )


class FileContent(NamedTuple):
    """What was read from a file: the file's state then, and the sha256 of its bytes.

    A chunk's record keeps it as {size, mtime_ns, ctime_ns, inode, sha256}; for a file on a server
    as {url, size, etag, modified, sha256}.
    """

    state: FileState | RemoteState
    sha256: str

    @classmethod
    def read(cls, path: str | Place) -> "FileContent":
        """The content of a file as it is now.

        Raises:
            OSError: it cannot be read, or it changes meanwhile.
        """
        if isinstance(path, RemotePath):
            data, state = path.read()
            return cls(state, hashlib.sha256(data).hexdigest())
        content = cls(FileState.of(os.stat(path)), hash_file(path))
        if content.state != FileState.of(os.stat(path)):
            raise OSError(errno.EBUSY, "changed while it was read", str(path))
        return content

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return self.state._asdict() | {"sha256": self.sha256}


def state_of(path: str | Place) -> FileState | RemoteState:
    """The state of a file, on disk or on a server.

    Raises:
        OSError: there is no such file.
    """
    return path.state() if isinstance(path, RemotePath) else FileState.of(os.stat(path))


def hash_file(path: str | Place) -> str:
    """sha256 of a file's bytes, in hex."""
    return FileContent.read(path).sha256 if isinstance(path, RemotePath) else checksum(path)[1]


def may_be(recorded: Mapping[str, Any], state: FileState | RemoteState) -> bool:
    """Whether a file of this size can hold the bytes of a record; servers may not tell a size."""
    return recorded.get("size") in (None, state.size) or state.size is None


def checksum(path: str | Path) -> list:
    """Size in bytes and sha256 of a file.

    Plain reads into one buffer: what `hashlib.file_digest` sets up costs more than a small file's
    bytes. Python's lock is free while a block is hashed, so threads hash side by side.

    Raises:
        OSError: not there, unreadable, or no file.
    """
    digest, size = hashlib.sha256(), 0
    with _opened(path) as (descriptor, expected):
        buffer = bytearray(min(HASH_BLOCK, max(1, expected)))
        block = memoryview(buffer)
        while length := os.readv(descriptor, [buffer]):
            digest.update(block[:length])
            size += length
    return [size, digest.hexdigest()]


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: not there, unreadable, or no file.
    """
    return read_with_state(path)[0]


def read_with_state(
    path: str | Place, most: int = sys.maxsize
) -> tuple[bytes, FileState | RemoteState]:
    """All bytes of a file, and its state after they were read.

    Args:
        most: bytes that a file on disk may have.
    Raises:
        OSError: not there, unreadable, no file, or (EFBIG) of more bytes than that.
    """
    if isinstance(path, RemotePath):
        return path.read()
    with _opened(path) as (descriptor, size):
        if size > most:
            problem = f"has {size} bytes, expected at most {most}"
            raise OSError(errno.EFBIG, problem, str(path))
        # One read has all of a file that stays as it is; of others, more is read until none comes.
        blocks = [os.read(descriptor, size + 1)]
        state = FileState.of(os.fstat(descriptor))
        while blocks[-1] and len(blocks[0]) != state.size:
            blocks.append(os.read(descriptor, HASH_BLOCK))
        return b"".join(blocks), state


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[int, int]]:
    """A descriptor to read from, and the file's size.

    A pipe or a device in place of a file does not make us wait.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        yield descriptor, found.st_size
    finally:
        os.close(descriptor)


def list_names(folder: str | Place) -> set[str]:
    """Names of what lies in a folder, none if it is not there: one request for all of them.

    Of a folder on a server, the files; none if the server has no listing.
    """
    if isinstance(folder, RemotePath):
        return folder.names()
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def clamp_future_mtimes(paths: Iterable[str | Path]) -> None:
    """Set modification times that lie in the future to now.

    A clock may go back, and the clocks of two machines differ. A file made now from one that is
    dated in the future would look older than its source, and Snakemake would make it again.
    """
    now = time.time()
    for path in paths:
        with contextlib.suppress(OSError):  # only the date: whoever reads the file will tell
            if os.stat(path).st_mtime > now:
                os.utime(path)
