"""Exported maps put into a user's data folder, where nothing that is not ours is ever replaced.

This is the only place where this program writes into a data folder, and it does so only when
`export.to` asks for it. A file there is ours if the record beside it, {set}/pred_contact.json,
lists its content. The record is written before the first file and again after the last one, so
that what a killed export left is known as ours too.
"""

import contextlib
import errno
import os
import shlex
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdm.archive.stage2 import PRED_CONTACT
from cdm.errors import ArchiveError, listed
from cdm.files import (
    CANNOT_LINK,
    checksum,
    explain_os_error,
    is_folder,
    list_names,
    read_bytes,
    remove,
    seal,
    sole_writer,
    target_of,
    temporary_name,
    unseal,
    write_bytes,
)

RECORD = f"{PRED_CONTACT}.json"
# What reading something else as a record raises.
NOT_OURS = (OSError, ValueError, TypeError, KeyError, AttributeError)
LISTED = 100  # files that a message names
Log = Callable[[str], None]
Checksums = Mapping[str, list]  # name of a file -> [size in bytes, sha256]


@dataclass
class _Record:
    """Which files of a set's pred_contact folder are ours.

    Attributes:
        splits: split -> `archive`, `plan` and `files` (Checksums) of its last export.
        unfinished: `split` and `files` of exports that have not ended.
    """

    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    unfinished: list[dict[str, Any]] = field(default_factory=list)

    def contents(self) -> dict[str, list[list]]:
        """Name of a file -> every content of it that we wrote, or were about to write."""
        found: dict[str, list[list]] = {}
        for export in (*self.splits.values(), *self.unfinished):
            for name, known in export["files"].items():
                found.setdefault(name, []).append(known)
        return found

    def names(self, split: str) -> set[str]:
        """Files of a split's exports, but those that are another split's too."""
        own = [self.splits.get(split, {"files": {}})]
        own += [export for export in self.unfinished if export["split"] == split]
        others = [export for name, export in self.splits.items() if name != split]
        kept = {name for export in others for name in export["files"]}
        return {name for export in own for name in export["files"]} - kept


class SetFolder:
    """One set's pred_contact folder in a data folder, while this process alone writes to it.

    Attributes:
        path: {data folder}/{set}/pred_contact.
        record: {data folder}/{set}/pred_contact.json.
        done: what was done -> number of files.
    """

    def __init__(self, path: Path, overwrite: bool):
        self.path, self.overwrite = path, overwrite
        self.record = path.with_name(RECORD)
        self.known = self._read_record()
        self.done: Counter[str] = Counter()

    def _read_record(self) -> _Record:
        if not os.path.lexists(self.record):
            return _Record()
        try:
            return _read_record(self.record)
        except NOT_OURS as error:
            if self.overwrite and not is_folder(self.record):
                return _Record()
            raise ArchiveError(
                f"{self.record}: not the record of an export ({error}), so no file of "
                f"{self.path} is known to be ours; move it away, or set export.overwrite to true"
            ) from None

    # --- what would be done -----------------------------------------------------------------------

    def foreign(self, files: Checksums) -> list[str]:
        """Files in the way that no export of ours wrote, with what stands there."""
        if self.path.is_symlink():  # with export.overwrite: the link itself goes
            return []
        contents = self.known.contents()
        found = []
        for name, new in files.items():
            path = self.path / name
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(mode):
                raise ArchiveError(f"{path}: a folder, expected a file or nothing; move it away")
            if not (stat.S_ISREG(mode) and _holds(path, [new, *contents.get(name, [])])):
                found.append(name)
        return found

    def obsolete(self, split: str, files: Checksums) -> tuple[list[str], list[str]]:
        """Files of this split's earlier export that this one lacks: ours, and changed since."""
        contents = self.known.contents()
        ours: list[str] = []
        changed: list[str] = []
        for name in sorted(self.known.names(split) - files.keys()):
            path = self.path / name
            if os.path.lexists(path) and not self.path.is_symlink():
                same = not path.is_symlink() and path.is_file() and _holds(path, contents[name])
                (ours if same else changed).append(name)
        return ours, changed

    # --- doing it ---------------------------------------------------------------------------------

    def put(self, source: Path, split: str, files: Checksums, origin: dict[str, str]) -> None:
        """Link or copy the files of `source` here, and remove what an earlier export left.

        Args:
            source: folder of ours that holds all of them.
            origin: `archive` and `plan`, for the record.
        """
        obsolete, changed = self.obsolete(split, files)
        if self.path.is_symlink():
            self.path.unlink()
        # What follows may be cut off anywhere: until it ends, old and new contents are both ours.
        begun = {"split": split, "files": dict(files)}
        self._write_record(_Record(self.known.splits, [*self.known.unfinished, begun]))
        self.path.mkdir(exist_ok=True)
        expected = self.known.contents().keys() | files.keys()
        for name in list_names(self.path):
            target = target_of(self.path / name)
            if target is not None and target.name in expected:
                remove(self.path / name)  # of a killed export
        for name in files:
            self.done[_put_file(source / name, self.path / name, files[name])] += 1
        for name in obsolete:
            remove(self.path / name)
        self.done["removed"] = len(obsolete)
        self.done["changed since they were exported, and kept"] = len(changed)
        _sync_folder(self.path)
        splits = {
            name: export | {"files": {n: c for n, c in export["files"].items() if n not in files}}
            for name, export in self.known.splits.items()
            if name != split
        }
        unfinished = [
            export | {"files": {n: c for n, c in export["files"].items() if n not in files}}
            for export in self.known.unfinished
            if export["split"] != split
        ]
        self._write_record(_Record(splits | {split: origin | {"files": dict(files)}}, unfinished))

    def _write_record(self, record: _Record) -> None:
        self.known = record
        write_bytes(self.record, seal(vars(record)))

    def describe(self, num_files: int) -> str:
        """What was done, for the log."""
        each = ", ".join(f"{count} {what}" for what, count in self.done.items() if count)
        return f"{num_files} files -> {self.path}" + (f" ({each})" if each else "")


@contextlib.contextmanager
def opened(data_dir: Path, sets: Iterable[str], overwrite: bool) -> Iterator[dict[str, SetFolder]]:
    """The pred_contact folders of some sets, checked and locked before anything is written.

    Args:
        data_dir: the data folder; it is never created, and neither are the sets' folders.
        overwrite: files that are not ours may be replaced.
    Raises:
        ArchiveError: a folder is missing, not writable, a link, or written by another process.
    """
    with contextlib.ExitStack() as stack:
        folders = {}
        for set in sets:
            path = data_dir / set / PRED_CONTACT
            _check_folder(data_dir, path, overwrite)
            try:
                stack.enter_context(sole_writer(path))
                _check_writable(path)
            except OSError as error:
                raise ArchiveError(explain_os_error(error, path)) from None
            folders[set] = SetFolder(path, overwrite)
        yield folders


def put_maps(
    folders: Mapping[str, SetFolder],
    source: Path,
    split: str,
    files: Mapping[str, Checksums],
    origin: dict[str, str],
    log: Log,
) -> None:
    """Put exported maps into the data folder.

    Args:
        folders: what `opened` gave.
        source: parent of the set folders of our own export.
        files: set -> what its pred_contact folder there holds.
    Raises:
        ArchiveError: a file is in the way that is not ours; nothing was written then. Or the disk
            refused; what was written is whole, and the same command goes on.
    """
    foreign = {set: folder.foreign(files.get(set, {})) for set, folder in folders.items()}
    names = [str(folders[set].path / name) for set, found in foreign.items() for name in found]
    overwrite = all(folder.overwrite for folder in folders.values())
    if names and not overwrite:
        raise ArchiveError(
            f"{len(names)} file(s) are in the way and were not written by an export of ours, so "
            f"nothing was written there:\n  {listed(names, LISTED)}\nMove them away, or set "
            "export.overwrite to true to have them replaced"
        )
    if names:
        log(f"{len(names)} file(s) that were not ours are replaced: {listed(names, LISTED, ', ')}")
    for set, folder in folders.items():
        own = files.get(set, {})
        try:
            folder.put(source / set / PRED_CONTACT, split, own, origin)
        except OSError as error:
            where = Path(error.filename2 or error.filename or folder.path)
            raise ArchiveError(explain_os_error(error, where)) from None
        log(folder.describe(len(own)))


def other_exports(data_dir: Path, sets: Mapping[str, Any], split: str) -> list[Path]:
    """Folders that an earlier export of this split filled, of sets that are not exported now."""
    found = []
    for set in sorted(list_names(data_dir) - sets.keys()):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            splits = unseal(read_bytes(data_dir / set / RECORD))["splits"]
            if splits[split]["files"]:
                found.append(data_dir / set / PRED_CONTACT)
    return found


def replaced_since(data_dir: Path, set: str, split: str, files: Iterable[str], plan: str) -> bool:
    """Whether another export has put its maps in place of files that an export of a plan wrote.

    Maps of two models have the same names and sizes. So the folder's record is asked.
    """
    try:
        known = _read_record(data_dir / set / RECORD)
        begun = {name for export in known.unfinished for name in export["files"]}
        own = known.splits[split]
        return (
            own["plan"] != plan
            or not begun.isdisjoint(files)
            or not own["files"].keys() >= {*files}
        )
    except NOT_OURS:
        return True


def _read_record(path: Path) -> _Record:
    """The record beside a set's pred_contact folder.

    Raises:
        One of NOT_OURS: there is none, or it is not the record of an export.
    """
    if path.is_symlink():
        raise ValueError("a symbolic link")
    content = unseal(read_bytes(path))
    content.pop("sha256", None)
    found = _Record(**content)
    found.contents()
    return found


def check_data_folder(data_dir: Path) -> None:
    """Refuse a folder to export into that is not there.

    Raises:
        ArchiveError: says what it must be.
    """
    if not data_dir.is_dir():
        raise ArchiveError(
            f"export.to: {data_dir}: no such folder; export.to must be a data folder, with a "
            "folder for each set. It is never created"
        )


def _check_folder(data_dir: Path, path: Path, overwrite: bool) -> None:
    """Refuse a folder that is missing, or stands for another one."""
    check_data_folder(data_dir)
    if not path.parent.is_dir():
        there = sorted(name for name in list_names(data_dir) if (data_dir / name).is_dir())
        raise ArchiveError(
            f"{path.parent}: no such folder, but there are maps of {path.parent.name}; {data_dir} "
            f"holds {listed(there, 8, ', ') or 'no folder'}. Set export.to to the data folder"
        )
    if path.is_symlink() and not overwrite:
        raise ArchiveError(
            f"{path}: a symbolic link to {os.readlink(path)}; nothing is written through it, as "
            f"what lies there may not be ours. Remove the link (rm {shlex.quote(str(path))}), or "
            "set export.overwrite to true to have a folder take its place"
        )
    if os.path.lexists(path) and not (path.is_symlink() or path.is_dir()):
        raise ArchiveError(f"{path}: not a folder; move it away")


def _check_writable(path: Path) -> None:
    """Make and remove a file, because modes alone do not tell (a read-only disk, root)."""
    probe = temporary_name((path if is_folder(path) else path.parent) / PRED_CONTACT)
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    probe.unlink()


def _holds(path: Path, contents: list[list]) -> bool:
    """Whether a file has one of these contents; it is read only if its size is that of one."""
    size = path.stat().st_size
    return any(size == known[0] for known in contents) and checksum(path) in contents


def _put_file(source: Path, target: Path, known: list) -> str:
    """Give a file its name in the data folder, whole or not at all; says how.

    Args:
        known: [size, sha256] of the source, which a copy is held against.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(source), os.lstat(target)):
            return "there already"
    temporary, how = temporary_name(target), "linked"
    try:
        try:
            os.link(source, temporary, follow_symlinks=False)
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
            how = "copied, as it is another file system"
            if error.errno != errno.EXDEV:
                how = f"copied, as no hard link can be made ({error.strerror})"
            shutil.copyfile(source, temporary, follow_symlinks=False)
            _sync_file(temporary)
            if checksum(temporary) != known:
                raise ArchiveError(
                    f"{target}: its copy reads back differently from {source}; the disk may be "
                    "failing. Nothing was kept of it; run the same command again"
                ) from None
        os.replace(temporary, target)
    finally:
        remove(temporary)
    return how


def _sync_file(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    _sync_file(path, os.O_DIRECTORY)
