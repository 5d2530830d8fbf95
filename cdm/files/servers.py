"""What reads from servers: one client for web servers, one for what fsspec lists (S3 and others).

fsspec, aiohttp and s3fs are imported here only, and only once a URL is configured.
"""

import datetime
import errno
import inspect
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from cdm.errors import ConfigError
from cdm.files.urls import HTTP, redacted

CONNECT_S, SILENCE_S = 10.0, 30.0  # until a connection stands; without a byte
REFUSED = (401, 403)  # HTTP: who are you, and not for you
NOT_THERE = (404, 410)
NO_HEAD = (405, 501)  # the server does not know the method
PATH = "/%!$&'()*+,;=:@~"  # characters that a path of a URL holds as they are
# Where the libraries behind fsspec keep what tells an edit.
ETAGS = ("ETag", "etag", "md5Hash", "blob_id", "checksum")
TIMES = ("LastModified", "last_modified", "updated", "modified", "mtime", "created")


class RemoteState(NamedTuple):
    """What a server tells about a file without sending it.

    Attributes:
        url: of the file; the same words from another server mean nothing.
        size: bytes; None where the server does not tell.
        etag: changes whenever the content does; "" where the server has none.
        modified: time of the last change as the server writes it, or "".
    """

    url: str
    size: int | None
    etag: str
    modified: str

    @property
    def tells_edits(self) -> bool:
        """Whether an edit shows in it. Otherwise only the bytes themselves tell."""
        return bool(self.etag or self.modified)

    def agrees_with(self, recorded: Mapping[str, Any]) -> bool:
        """Whether a record's values are these, and would be others after an edit."""
        return self.tells_edits and all(
            key in recorded and recorded[key] == now for key, now in self._asdict().items()
        )


class Client(Protocol):
    """Reads files of one server. Each method raises what the library raises; see `RemoteFolder`."""

    lists: bool  # whether one request tells the state of all files of a folder

    def read(self, url: str, most: int) -> tuple[bytes, RemoteState]:
        """All bytes and the state that belongs to them; OSError (EFBIG) beyond `most` bytes."""

    def state(self, url: str) -> RemoteState:
        """The state of a file; FileNotFoundError if there is none."""

    def listing(self, url: str) -> dict[str, RemoteState]:
        """Name -> state of the files in a folder; FileNotFoundError if there is none."""


def open_client(url: str) -> Client:
    """The client for a folder's URL.

    Raises:
        ConfigError: what reads it is not installed, or nothing reads it.
    """
    scheme = url.split("://")[0]
    try:
        return WebServer(scheme) if scheme in HTTP else ObjectStorage(scheme)
    except ImportError as error:
        raise ConfigError(
            f"{url}: cannot be read ({redacted(error)}). To read data over http and from S3, "
            "type\n  pip install 'contact-map-diffusion[remote]'\nor, in a checkout, pip install "
            "-c constraints.txt -e '.[remote]'; for another storage, what the message names"
        ) from None
    except ValueError as error:  # fsspec knows no such protocol, or not by the URL alone
        raise ConfigError(
            f"{url}: '{scheme}' cannot be read ({redacted(error)}); expected a folder, https://, "
            "s3://, or another protocol of fsspec"
        ) from None


class Refused(Exception):
    """The server wants other credentials; asking again would not help."""


class WebServer:
    """http and https. One request reads a file; there is no listing, so a state is one request."""

    lists = False

    def __init__(self, scheme: str):
        import aiohttp
        import fsspec

        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=SILENCE_S)
        theirs = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
        client = {"trust_env": True, "timeout": timeout, **theirs}  # proxies and ~/.netrc
        self.fs = fsspec.filesystem(scheme, client_kwargs=client, encoded=True)

    def read(self, url: str, most: int) -> tuple[bytes, RemoteState]:
        return self._sync(self._get, url, most)

    def state(self, url: str) -> RemoteState:
        return self._sync(self._head, url)

    def listing(self, url: str) -> dict[str, RemoteState]:
        raise NotImplementedError("a web server has no listing")

    def _sync(self, request, *args):
        from fsspec.asyn import sync

        return sync(self.fs.loop, request, *args)

    async def _request(self, method: str, url: str):
        session, options = await self.fs.set_session(), dict(self.fs.kwargs)
        # Compressed on the way, a file has another size, and often another ETag.
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
        options.setdefault("allow_redirects", True)
        return session.request(method, quoted(url), headers=headers, **options)

    async def _get(self, url: str, most: int) -> tuple[bytes, RemoteState]:
        data, state, tells_end = await self._get_once(url, most)
        if not tells_end:
            again, _, _ = await self._get_once(url, most)
            if again != data:
                raise OSError(
                    errno.EIO,
                    f"sent {len(data)} bytes, then {len(again)} or other ones, and tells no length",
                    url,
                )
        return data, state

    async def _get_once(self, url: str, most: int) -> tuple[bytes, RemoteState, bool]:
        """The bytes, the state, and whether an answer that is cut off would be noticed.

        It would not where the server tells neither a length nor chunks: then a connection that
        breaks looks like the end of the file.
        """
        async with await self._request("GET", url) as response:
            state = _answered(url, response)
            if (state.size or 0) > most:
                raise OSError(errno.EFBIG, f"has {state.size} bytes, expected at most {most}", url)
            told = response.headers
            chunked = "chunked" in told.get("Transfer-Encoding", "").lower()
            return await response.read(), state, chunked or "Content-Length" in told

    async def _head(self, url: str) -> RemoteState:
        async with await self._request("HEAD", url) as response:
            if response.status not in NO_HEAD:
                return _answered(url, response)
        async with await self._request("GET", url) as response:  # closed before the body comes
            return _answered(url, response)


def _answered(url: str, response) -> RemoteState:
    """The state that a response's headers tell."""
    if response.status in NOT_THERE:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    if response.status in REFUSED:
        raise Refused(f"{response.status} {response.reason}")
    if response.status != 200:
        raise OSError(errno.EIO, f"{response.status} {response.reason}", url)
    headers = response.headers
    told = headers.get("Content-Length", "")
    plain = headers.get("Content-Encoding", "identity") == "identity"
    size = int(told) if told.isdigit() and plain else None
    return RemoteState(url, size, headers.get("ETag", ""), headers.get("Last-Modified", ""))


def quoted(url: str) -> str:
    """A URL as it is sent: blanks and letters beyond ASCII are escaped, what is escaped stays."""
    scheme, rest = url.split("://", 1)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{quote(path, safe=PATH)}"


class ObjectStorage:
    """S3, and whatever else fsspec lists: one request tells the state of a whole folder."""

    lists = True

    def __init__(self, scheme: str):
        import fsspec

        options: dict[str, Any] = {}
        if scheme == "s3":
            theirs = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            waits = {"connect_timeout": CONNECT_S, "read_timeout": SILENCE_S}
            options = {
                "use_listings_cache": False,
                "config_kwargs": {**waits, "retries": {"max_attempts": 0}, **theirs},
            }
        made_by = fsspec.get_filesystem_class(scheme).__init__
        _, *parameters = inspect.signature(made_by).parameters.values()  # without self
        plain = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        if needed := [one.name for one in plain if one.default is one.empty]:  # ftp: a host
            raise ValueError(f"it needs {', '.join(needed)} beside the URL")
        self.fs = fsspec.filesystem(scheme, **options)
        if scheme == "s3":
            self.fs.retries = 1  # `RemoteFolder` tries again, and says so

    def read(self, url: str, most: int) -> tuple[bytes, RemoteState]:
        before = self.state(url)
        if (before.size or 0) > most:
            raise OSError(errno.EFBIG, f"has {before.size} bytes, expected at most {most}", url)
        data, after = self.fs.cat_file(url), self.state(url)
        if before != after:
            raise OSError(errno.EBUSY, "changed while it was read", url)
        return data, after

    def state(self, url: str) -> RemoteState:
        entry = self._asked(self.fs.info, url)
        if entry["type"] == "directory":
            raise FileNotFoundError(errno.ENOENT, "is a folder", url)
        return _listed(url, entry)

    def listing(self, url: str) -> dict[str, RemoteState]:
        found = {}
        for entry in self._asked(self.fs.ls, url, detail=True):
            name = entry["name"].rstrip("/").rpartition("/")[2]
            if entry["type"] != "directory":
                found[name] = _listed(f"{url}/{name}", entry)
        return found

    @staticmethod
    def _asked(ask, url: str, **options):
        try:
            return ask(url, **options)
        except PermissionError as error:
            raise Refused(str(error)) from error


def _listed(url: str, entry: dict[str, Any]) -> RemoteState:
    """The state that an entry of fsspec tells."""
    etag = next((str(entry[key]) for key in ETAGS if entry.get(key)), "")
    changed = next((entry[key] for key in TIMES if entry.get(key)), "")
    if isinstance(changed, int | float):  # some libraries use both forms
        changed = datetime.datetime.fromtimestamp(changed, datetime.UTC)
    if isinstance(changed, datetime.datetime):
        # A listing may know parts of a second that are not told of a single file.
        changed = (changed.replace(microsecond=0) if etag else changed).isoformat()
    return RemoteState(url, entry.get("size"), etag, str(changed))
