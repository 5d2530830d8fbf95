"""Files that appear whole or not at all."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import orjson

from cdm.errors import ArchiveError, CDMError, ConfigError, DataError

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
def replacing_all(*paths: Path) -> Iterator[list[Path]]:
    """`replacing` for siblings that belong together, such as a store and its record.

    They take their names in this order, after old ones of all but the first are removed: where
    the last one stands, all are of one attempt. Other writers of the first are kept away.
    """
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        with _sole_writer(paths[0]) as alone:
            if alone:
                for path in paths:
                    remove_leftovers(path)
            temporaries = [_temporary(path) for path in paths]
            try:
                yield temporaries
                for temporary in temporaries:
                    sync(temporary)
                for path in paths[1:]:
                    remove(path)
                for temporary, path in zip(temporaries, paths, strict=True):
                    _rename(temporary, path)
            finally:
                for temporary in temporaries:
                    remove(temporary)
    except OSError as error:
        raise ArchiveError(explain_os_error(error, paths[0])) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _rename(temporary: Path, path: Path) -> None:
    """Give a finished temporary its name, for good."""
    if path.is_dir():
        old = _temporary(path)
        os.rename(path, old)
        os.rename(temporary, path)
        remove(old)
    else:
        os.replace(temporary, path)
    _fsync(path.parent)


@contextlib.contextmanager
def _sole_writer(path: Path) -> Iterator[bool]:
    """Keep other writers of `path` waiting; False where the file system has no locks."""
    lock = path.with_name(f".{path.name}.lock")
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
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        remove(lock)
        yield False
        return
    try:
        yield True
    finally:
        unlock(lock, held)


def try_lock(path: Path) -> int | None:
    """Hold the lock file at `path`, unless another process does.

    The system frees the lock when the process ends, however it ends.

    Returns:
        What `unlock` takes, or None while another process holds the lock.
    Raises:
        OSError: the folder is not writable, or its file system has no locks.
    """
    try:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            # Not O_CREAT alone: in a shared /tmp that is refused for files of other users.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            with contextlib.suppress(OSError):  # a file system without modes
                os.fchmod(descriptor, 0o666)
    except FileExistsError:
        return None  # another process was faster
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or removed by the one that held it
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def unlock(path: Path, descriptor: int) -> None:
    """Give a lock back and remove its file."""
    with contextlib.suppress(OSError):  # not ours to remove, or gone
        path.unlink()
    os.close(descriptor)


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


def not_from_the_future(paths: Iterable[str | Path]) -> None:
    """Date files of ours that claim to come from the future as of now.

    Clocks go back, and those of two machines differ: what is made from such a file now would
    look older than it, and be refused or made again.
    """
    now = time.time()
    for path in paths:
        with contextlib.suppress(OSError):  # only the date: whoever reads the file will tell
            if os.stat(path).st_mtime > now:
                os.utime(path)


def expand_path(path: str, key: str) -> str:
    """A path with `~` and `$VARIABLES` replaced, as a shell does; one that exists is kept.

    Args:
        key: what the path is given for, named in the message.
    Raises:
        ConfigError: an unknown user, a variable that is not set, or a control character.
    """
    if _has_control(path):
        raise ConfigError(
            f"{key}: found {path!r}, expected a path without line ends and control characters"
        )
    if os.path.lexists(path):
        return path
    expanded = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$(\w+|\{\w+\})", expanded)
    if unset or (expanded == path and path.startswith("~")):
        what = f"the variable {unset[0]} is not set" if unset else "there is no such user"
        raise ConfigError(f"{key}: found {path!r}, but {what}; set it, or write the path in full")
    return expanded


def safe_name(name: str, place: str, error: type[CDMError] = DataError) -> str:
    """The name, if it can only ever be one file or folder inside the folder it is joined to.

    Names in splits, tables, records and archives come from elsewhere. An absolute one, or one
    with `..`, would be read or written outside the data folder or the run.

    Args:
        place: where the name stands, for the message.
        error: class of the error.
    Raises:
        CDMError: the name is empty, `.` or `..`, or has a slash or a control character.
    """
    if name in ("", ".", "..") or "/" in name or _has_control(name):
        raise error(
            f"{place}: found the name {name!r}, expected the name of one file: without slashes, "
            "control characters or '..'; correct it there"
        )
    return name


def _has_control(text: str) -> bool:
    """Whether a NUL, a line end or another control character is in the text."""
    return re.search(r"[\x00-\x1f\x7f-\x9f]", text) is not None


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

    def agrees_with(self, recorded: Mapping[str, Any]) -> bool:
        """Whether a record's values are these; older records hold size and mtime only."""
        return all(recorded.get(key, now) == now for key, now in self._asdict().items())


def hash_file(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex."""
    return checksum(path)[1]


def checksum(path: str | Path) -> list:
    """Size in bytes and sha256 of a file.

    Plain reads of 64 kB: larger buffers, and those that `hashlib.file_digest` sets up, cost more
    than a small file's bytes.
    """
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while block := os.read(descriptor, 1 << 16):
            digest.update(block)
            size += len(block)
    finally:
        os.close(descriptor)
    return [size, digest.hexdigest()]


def list_names(folder: str | Path) -> set[str]:
    """Names of what lies in a folder, none if it is not there: one request for all of them."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


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
    """Flush a file, or a folder with all that is in it, to disk.

    Further hard links of a file are left to their folder's sync: the file itself was flushed when
    it got its first name.
    """
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                file = os.path.join(folder, name)
                if os.lstat(file).st_nlink == 1:
                    _fsync(file)
            _fsync(folder)
    else:
        _fsync(path)


def _fsync(path: str | Path) -> None:
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
    write_bytes(path, encode_json(content))


def encode_json(content: Any) -> bytes:
    """The bytes of a JSON file."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    NaN, infinity, nesting too deep to follow and bytes that are not UTF-8 are refused, as the JSON
    standard has it.

    Raises:
        ValueError: not JSON.
        OSError: not there, or unreadable.
    """
    return orjson.loads(Path(path).read_bytes())


T = TypeVar("T")


def typed(cls: type[T], content: Any) -> T:
    """A dataclass from a JSON object whose keys and types are those of its fields.

    A file of ours can be valid JSON and yet of another shape: from another version, edited, or not
    ours at all. Such a value is refused here and not met as a TypeError somewhere else.

    Args:
        cls: a dataclass with fields of the types bool, int, float, str, list, dict, None, unions
            of them, or of another such dataclass. An int may stand for a float.
        content: as `read_json` or `unseal` return it.
    Raises:
        ValueError: names the key, what was found and what was expected.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {_shown(content)}")
    known, hints = dataclasses.fields(cls), get_type_hints(cls)
    needed = {
        field.name
        for field in known
        if field.default is field.default_factory is dataclasses.MISSING
    }
    wrong = (needed - content.keys()) | (content.keys() - hints.keys())
    if wrong:
        kind = "missing" if needed - content.keys() else "unknown"
        raise ValueError(f"{kind} key {sorted(map(str, wrong))[0]!r}")
    values = {name: _typed_value(hints[name], name, value) for name, value in content.items()}
    return cls(**values)


def _typed_value(expected: Any, name: str, value: Any) -> Any:
    options = get_args(expected) if isinstance(expected, UnionType) else (expected,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            try:
                return typed(option, value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        kind = get_origin(option) or option
        if kind is Any or type(value) is kind:  # a bool is no int
            return value
        if kind is float and type(value) is int:
            return float(value)
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise ValueError(f"{name} is {_shown(value)}, expected {names}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SEAL = b',\n  "sha256": "'


def seal(content: dict[str, Any]) -> bytes:
    """The bytes of a JSON object whose last key, `sha256`, vouches for all before it."""
    return _sealed(encode_json(content).removesuffix(b"\n}\n"))


def is_sealed(data: bytes) -> bool:
    """Whether the bytes are those that `seal` gave; faster than reading the object."""
    return data == _sealed(data.rpartition(_SEAL)[0])


def unseal(data: bytes) -> dict[str, Any]:
    """The object that was sealed.

    Raises:
        ValueError: the bytes are not those that were written.
    """
    if not is_sealed(data):
        raise ValueError("truncated, or changed since it was written")
    return orjson.loads(data.rpartition(_SEAL)[0] + b"\n}")


def _sealed(body: bytes) -> bytes:
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def digest(content: Any) -> str:
    """Short sha256 of a JSON value."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
