"""Where an archive lies: a folder of this machine, or an address that fsspec reads (no torch).

`ContactMaps` asks a place for the same few things: which archive is there now, what is wrong with a
file, the Zarr group, and the archive's record.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cdm.archive.checks import file_problem, verify_file
from cdm.archive.records import (
    ArchiveRecord,
    archive_record_path,
    merge_again,
    parse_archive_record,
    read_archive_record,
    records_beside,
)
from cdm.errors import ArchiveError, ConfigError
from cdm.files.urls import checked_url, is_url, redacted

if TYPE_CHECKING:
    import zarr  # slow to import, and asked for where an archive is opened

EXTRA = "pip install 'contact-map-diffusion[remote]'"  # what reads addresses
LOOK_AGAIN_S = 5.0  # how often an address is asked whether the archive was replaced

T = TypeVar("T")


class Folder:
    """An archive in a folder of this machine.

    Attributes:
        path: of the archive.
    """

    def __init__(self, path: Path):
        self.path = path
        self._metadata = os.fspath(path / "zarr.json")

    def identity(self) -> Any:
        """Tells this archive from one that is merged later under the same name.

        Raises:
            OSError: there is none.
        """
        found = os.stat(self._metadata)
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def is_being_merged(self) -> bool:
        """Whether a merge is at work here."""
        return self.path.with_name(f".{self.path.name}.lock").exists()

    def open_group(self) -> "zarr.Group":
        """The Zarr group."""
        import zarr

        return zarr.open_group(self.path, mode="r")

    def problem(self, file: str, known: list | None, hashed: bool) -> str | None:
        """What is wrong with a file of the archive, or None.

        Args:
            file: its path in the archive.
            known: its [size in bytes, sha256], where the archive has a record.
            hashed: read it and compare its sha256 too.
        """
        path = f"{self.path}/{file}"
        if known and hashed:
            return verify_file(path, known)
        return file_problem(path, known[0] if known else None)

    def record(self, plan: str) -> ArchiveRecord | None:
        """The archive's record, or None where it has none.

        Raises:
            ArchiveError: the record is damaged, or that of another archive.
        """
        archive = self.path.resolve()
        path = archive_record_path(archive, plan)
        try:
            return read_archive_record(path)
        except ArchiveError:
            if os.path.lexists(path):
                raise
        # A merge removes all records before it replaces the archive.
        others = records_beside(archive)
        if others:
            raise ArchiveError(
                f"{others[0]}: is the record of another archive than {self.path}, which was put "
                f"there later and would have {path.name}. Put the right archive back; or, "
                f"{merge_again(others[0])}"
            )
        return None

    def advice(self, plan: str) -> str:
        """What to do about a damaged file."""
        return merge_again(self._record_path(plan))

    def _record_path(self, plan: str) -> Path:
        return archive_record_path(self.path.resolve(), plan)


class Address:
    """An archive at an address (https, s3, ...), read in parts by fsspec.

    What is there can only be asked for: whether the archive was replaced is looked at every
    `LOOK_AGAIN_S` seconds, and once for each file whether it is there. A request that fails is an
    error; it is not repeated.

    Args:
        url: of the archive's folder.
        options: of fsspec's file system, such as {"anon": True} for a public bucket.
    Raises:
        ArchiveError: a library that reads such addresses is missing, or nothing does.
    """

    def __init__(self, url: str, options: Mapping[str, Any]):
        try:
            self.path = checked_url(url, "address of an archive")
        except ConfigError as error:
            raise ArchiveError(str(error)) from None
        try:
            import fsspec

            self.fs, self.root = fsspec.core.url_to_fs(self.path, **options)
        except ImportError as error:
            raise ArchiveError(
                f"{url}: reading an archive from an address needs more libraries ({error}); {EXTRA}"
            ) from None
        except ValueError as error:  # fsspec's words for a protocol that it does not know
            raise ArchiveError(f"{url}: {error}; expected https://... or s3://...") from None
        self.options = dict(options)
        self._there: set[str] = set()  # files that were there
        self._identity: tuple[float, str] | None = None

    def identity(self) -> str:
        """The sha256 of the archive's metadata, asked for every few seconds.

        Raises:
            OSError: the file is not there, or the server gives none.
        """
        if self._identity is None or time.monotonic() - self._identity[0] > LOOK_AGAIN_S:
            found = hashlib.sha256(self._get("zarr.json")).hexdigest()
            self._identity = time.monotonic(), found
        return self._identity[1]

    def is_being_merged(self) -> bool:
        """Never: nobody merges to an address."""
        return False

    def open_group(self) -> "zarr.Group":
        """The Zarr group; its server must answer requests for parts of files."""
        import zarr
        from zarr.storage import FsspecStore

        part = self._asked(lambda: self.fs.cat_file(f"{self.root}/zarr.json", start=0, end=2))
        if len(part) != 2:
            raise OSError(
                "its server gives whole files only (`python -m http.server` is such a one), and a "
                "map is a part of a file; use a server that answers range requests, or copy the "
                "archive to this machine"
            )
        store = FsspecStore.from_url(self.path, storage_options=self.options, read_only=True)
        return zarr.open_group(store, mode="r")

    def problem(self, file: str, known: list | None, hashed: bool) -> str | None:
        """What is wrong with a file of the archive, or None; as `Folder.problem`."""
        try:
            if known and hashed:
                content = self._get(file)
                found = [len(content), hashlib.sha256(content).hexdigest()]
                if found != known:
                    return f"{self.path}/{file}: corrupt (contents changed since it was written)"
                self._there.add(file)
            # What is there is not read as a whole: its crc32c are looked at when it is read.
            if file not in self._there:
                self._asked(lambda: self.fs.cat_file(f"{self.root}/{file}", start=0, end=1))
                self._there.add(file)
        except OSError as error:
            return f"{self.path}/{file}: {error}"
        return None

    def record(self, plan: str) -> ArchiveRecord | None:
        """The record beside the archive, or None where it was not copied there."""
        url = self._record_url(plan)
        try:
            content = self._asked(lambda: self.fs.cat_file(url))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArchiveError(f"{url}: {error}") from None
        try:
            return parse_archive_record(content)
        except ValueError as error:
            raise ArchiveError(
                f"{url}: not an archive's record ({error}); {self.advice(plan)}"
            ) from None

    def advice(self, plan: str) -> str:
        """What to do about a damaged file."""
        return (
            "check the archive where it was made (`cdm verify`), and copy it to this address again"
        )

    def _record_url(self, plan: str) -> str:
        return str(self.root).removesuffix(".zarr") + f"-{plan}.json"

    def _get(self, file: str) -> bytes:
        return self._asked(lambda: self.fs.cat_file(f"{self.root}/{file}"))

    @staticmethod
    def _asked(request: Callable[[], T]) -> T:
        """What a request gives; whatever goes wrong is an OSError."""
        try:
            return request()
        except FileNotFoundError:
            raise FileNotFoundError("no such file") from None
        except Exception as error:  # each file system has its own kinds
            raise OSError(f"cannot be read ({type(error).__name__}: {redacted(error)})") from None


def open_place(path: str | Path, options: Mapping[str, Any] | None = None) -> Folder | Address:
    """The place that a path or an address names.

    Args:
        options: of fsspec's file system; addresses only.
    """
    text = os.fspath(path)
    if text.startswith("file://"):
        text = checked_url(text, "address of an archive")
    if is_url(text):
        return Address(text, options or {})
    return Folder(Path(text))
