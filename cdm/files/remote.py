"""Folders on a server, used like folders on disk: `place_of("s3://bucket/data") / "PROX/all.txt"`.

A `RemotePath` has those methods of `pathlib.Path` that reading data needs, so that one reader
serves both. A request that fails is repeated a few times, then told with what to type. It never
looks like a missing file, because an item that is skipped for it would be missing in the archive.
"""

import errno
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from cdm.errors import Unreachable, printable
from cdm.files.kinds import HEAD, is_web_page
from cdm.files.servers import Client, Refused, RemoteState, open_client
from cdm.files.urls import is_url, redacted

ATTEMPTS, FIRST_WAIT_S = 5, 0.5  # a wait is twice the one before: 7.5 s in all
AT_ONCE = 32  # requests
FEW = 64  # files of a folder whose states are asked for one by one
LARGEST = 2**33  # bytes of a file

T = TypeVar("T")


class RemoteFolder:
    """A folder on a server.

    Args:
        url: of the folder, as `checked_url` gives it.
    """

    def __init__(self, url: str):
        self.url = url
        self._clients: dict[int, Client] = {}
        self._known: dict[str, RemoteState | None] = {}
        self._waiting: deque[str] = deque()
        self._coming: dict[str, Future] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def __reduce__(self):
        return RemoteFolder, (self.url,)

    @property
    def client(self) -> Client:
        """What reads the folder. Connections do not survive a fork, so a worker opens its own."""
        process = os.getpid()
        if process not in self._clients:
            self._clients[process] = open_client(self.url)
        return self._clients[process]

    def url_of(self, relpath: str) -> str:
        """The URL of a file below the folder, or of the folder itself for ""."""
        if not relpath:
            return self.url
        return f"{self.url}/{relpath if self.client.lists else quote(relpath)}"

    def read(self, relpath: str) -> tuple[bytes, RemoteState]:
        """The bytes of a file, and the state that belongs to them.

        Raises:
            OSError: there is no such file, or it is too large.
            Unreachable: the server does not answer as it should.
        """
        with self._lock:
            coming = self._coming.pop(relpath, None)
            self._read_ahead()
        return coming.result() if coming else self._read(relpath)

    def read_ahead(self, relpaths: Iterable[str]) -> None:
        """Begin to read small files, in this order, a few before they are asked for."""
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(AT_ONCE, "read ahead")
            self._waiting.extend(dict.fromkeys(relpaths))
            self._read_ahead()

    def _read_ahead(self) -> None:
        while self._pool and self._waiting and len(self._coming) < AT_ONCE:
            relpath = self._waiting.popleft()
            if relpath not in self._coming:
                self._coming[relpath] = self._pool.submit(self._read, relpath)

    def _read(self, relpath: str) -> tuple[bytes, RemoteState]:
        url = self.url_of(relpath)

        def read() -> tuple[bytes, RemoteState]:
            data, state = self.client.read(url, LARGEST)
            if is_web_page(data[:HEAD]):  # of the server, not of the item: never a reason to skip
                raise OSError(
                    errno.EIO, "a web page came in its place, such as a login or an error", url
                )
            return data, state

        return asked(read, url)

    def state(self, relpath: str) -> RemoteState:
        """The state of a file; the one that `states` has found, if it has.

        Raises:
            OSError: there is no such file.
            Unreachable: the server does not answer as it should.
        """
        found = self._known[relpath] if relpath in self._known else self._state(relpath)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.url_of(relpath))
        return found

    def states(self, relpaths: Iterable[str]) -> Mapping[str, RemoteState | None]:
        """The state of many files, None for a missing one. They are remembered.

        One request for each folder where the server has listings; otherwise one for each file,
        many at once.
        """
        wanted = list(dict.fromkeys(relpaths))
        new = sorted((p for p in wanted if p not in self._known), key=_parent)
        single: list[str] = []
        for parent, group in groupby(new, _parent):
            names = list(group)
            if self.client.lists and len(names) > FEW:
                found = self.listing(parent)
                self._known |= {path: found.get(path.rpartition("/")[2]) for path in names}
            else:
                single += names
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self._known |= dict(zip(single, pool.map(self._state, single), strict=True))
        return {path: self._known[path] for path in wanted}

    def listing(self, relpath: str) -> dict[str, RemoteState]:
        """Name -> state of the files in a folder; empty if it is not there, or cannot be listed."""
        if not self.client.lists:
            return {}
        url = self.url_of(relpath)
        try:
            return asked(lambda: self.client.listing(url), url)
        except FileNotFoundError:
            return {}

    def _state(self, relpath: str) -> RemoteState | None:
        url = self.url_of(relpath)
        try:
            return asked(lambda: self.client.state(url), url)
        except FileNotFoundError:
            return None


def _parent(relpath: str) -> str:
    return relpath.rpartition("/")[0]


def asked(request: Callable[[], T], url: str) -> T:
    """The answer to a request, repeated a few times if it fails.

    Raises:
        OSError: the server says that there is no such file, or it is too large.
        Unreachable: it refuses the request, or the last attempt failed too.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except FileNotFoundError:
            raise
        except Exception as error:  # each library behind fsspec raises its own
            if isinstance(error, OSError) and error.errno == errno.EFBIG:
                raise
            said = _said(error)
            if isinstance(error, Refused) or "Credential" in type(error).__name__:
                raise Unreachable(
                    f"{url}: the server refuses to send it ({said}); check the URL, and give the "
                    "credentials as docs/data.md says (~/.netrc for http, ~/.aws/credentials or "
                    "AWS_PROFILE for S3, FSSPEC_S3_ANON=true for a public bucket)"
                ) from None
            if attempt == ATTEMPTS:
                raise Unreachable(
                    f"{url}: cannot be read after {ATTEMPTS} attempts ({said}); check the network "
                    "and the server, then run the same command again: finished chunks are kept"
                ) from None
            wait_s = FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            line = f"{url}: {said}; trying again in {wait_s:.1f} s ({attempt} of {ATTEMPTS - 1})"
            print(printable(line, sys.stderr.encoding), file=sys.stderr, flush=True)
            time.sleep(wait_s)
    raise AssertionError("every attempt returns or raises")


def _said(error: Exception) -> str:
    """What went wrong, in one line and without secrets."""
    words = getattr(error, "strerror", None) or str(error)
    lines = redacted(words).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class RemotePath:
    """A file or folder below a `RemoteFolder`: what `pathlib.Path` is for one on disk."""

    def __init__(self, folder: RemoteFolder, relpath: str = ""):
        self.folder, self.relpath = folder, relpath

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.folder, f"{self.relpath}/{name}" if self.relpath else str(name))

    def __str__(self) -> str:
        return f"{self.folder.url}/{self.relpath}" if self.relpath else self.folder.url

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    @property
    def name(self) -> str:
        """The last part."""
        return str(self).rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        """The folder it lies in."""
        if not self.relpath:
            return RemotePath(RemoteFolder(self.folder.url.rpartition("/")[0]))
        return RemotePath(self.folder, _parent(self.relpath))

    def exists(self) -> bool:
        """Whether there is a file of this name."""
        try:
            self.state()
        except FileNotFoundError:
            return False
        return True

    def state(self) -> RemoteState:
        """As `RemoteFolder.state`."""
        return self.folder.state(self.relpath)

    def read(self) -> tuple[bytes, RemoteState]:
        """As `RemoteFolder.read`."""
        return self.folder.read(self.relpath)

    def names(self) -> set[str]:
        """Names of the files in this folder; none where the server has no listing."""
        return set(self.folder.listing(self.relpath))


Place = Path | RemotePath


def place_of(path: "str | os.PathLike | Place") -> Place:
    """The path on disk, or the folder on a server if it is a URL."""
    if isinstance(path, RemotePath):
        return path
    return RemotePath(RemoteFolder(str(path))) if is_url(path) else Path(path)
