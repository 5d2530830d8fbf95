"""What a chunk read, and whether the files still hold it (no torch).

A chunk's record keeps, under the key `contents`, the content of every file that decided its
numbers: the file's state (size, mtime, ctime, inode; on a server, what it tells: size, ETag, time
of the last change) and the sha256 of its bytes. The files come in three groups. A later plan
compares the state first, and hashes a file only where the state differs. So a touch or a copy
changes nothing, and an edit changes exactly the chunks that read the file.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cdm.archive.records import ChunkRecord, read_record
from cdm.config import Config
from cdm.datasets import Dataset, FileReader, Sample
from cdm.errors import ArchiveError
from cdm.files import (
    FileContent,
    FileState,
    Place,
    RemotePath,
    RemoteState,
    digest,
    hash_file,
    may_be,
    place_of,
    read_bytes,
    state_of,
    unseal,
)
from cdm.files.remote import AT_ONCE
from cdm.model.text_weights import find_text_weights
from cdm.run.plan import CHUNKS, Plan, PlannedStatistics, file_hashes_path

ITEMS, STATISTICS, TEXT_MODEL = "items", "statistics", "text_model"

Contents = Mapping[str, Mapping[str, Mapping[str, Any] | None]]  # group -> file -> its content


def content_fingerprint(base: str, hashes: Mapping[str, Mapping[str, str | None]]) -> str:
    """Fingerprint of a chunk some of whose files were edited after it was first made."""
    return digest([base, hashes])


def fingerprint_allows(fingerprint: str, base: str, contents: Contents) -> bool:
    """True if a chunk of this fingerprint may contain results of these input files.

    A base fingerprint says nothing about file contents, so it always may. Statistics that the
    workflow computes may not have existed when the name was chosen. Their hash may therefore be
    missing from the name.
    """
    hashes: dict[str, dict[str, str | None]] = {
        group: {name: now["sha256"] if now else None for name, now in files.items()}
        for group, files in contents.items()
    }
    nothing: dict[str, str | None] = dict.fromkeys(hashes[STATISTICS])
    unknown = hashes | {STATISTICS: nothing}
    names = (base, content_fingerprint(base, hashes), content_fingerprint(base, unknown))
    return fingerprint in names


class InputResolver:
    """Finds, for each chunk, the finished one whose recorded inputs are the files of today.

    It only reads. `hashes` holds what it had to hash, for `Plan.file_hashes`, and `finished` the
    files of the chunks that it found, for `Plan.finished`.

    Args:
        config: of the run.
        weights: files of the text encoder.
        statistics: as planned.
        states: file -> state of the items' files, where they are known already.
    """

    def __init__(
        self,
        config: Config,
        weights: list[Path],
        statistics: PlannedStatistics,
        states: Mapping[str, FileState | RemoteState | None],
    ):
        self.config, self.data_dir = config, place_of(config.data_dir)
        self.states = states
        self.records: dict[int, list[Path]] = {}
        for path in sorted(Path(config.run_dir, CHUNKS).glob("*-*.json")):
            number = path.name.split("-")[0]
            if number.isascii() and number.isdigit():
                self.records.setdefault(int(number), []).append(path)
        self.hashes = read_file_hashes(config.run_dir) if self.records else {}
        self.finished: dict[str, dict[str, list]] = {}
        self._read: dict[Path, ChunkRecord] = {}
        self.paths = {TEXT_MODEL: {path.name: path for path in weights}, STATISTICS: {}}
        if statistics.computed:
            path = Path(statistics.path)
            self.paths[STATISTICS][statistics_name(path)] = path

    def fingerprint(self, number: int, base: str, files: list[list[str]]) -> str:
        """The fingerprint that names a chunk under the files of today.

        The base fingerprint, unless a finished chunk recorded other file contents than today's.
        Then a fingerprint that also hashes today's contents.

        Args:
            number: of the chunk.
            base: its base fingerprint.
            files: paths of each sample's files, relative to the data folder.
        """
        candidates = []
        for path in self.records.get(number, []):
            try:
                record = self._read.pop(path, None) or read_record(path)
            except ArchiveError:
                continue  # the merge names it; a chunk of this name would be made again
            if record.base == base and record.name == path.stem:
                self._hash_ahead(self._doubtful(record.contents[ITEMS]))
                if next(self.changed(record.contents), None) is None:
                    self.finished[record.name] = record.files
                    return record.name.split("-")[1]
                candidates.append(record)
        if not candidates:
            return base
        names = {name for item in files for name in item}
        self._hash_ahead(names)
        groups = {group: set(paths) for group, paths in self.paths.items()} | {ITEMS: names}
        return content_fingerprint(
            base,
            {group: {n: self._today(group, n) for n in names} for group, names in groups.items()},
        )

    def read_all(self) -> Iterator[ChunkRecord]:
        """The readable records of finished chunks, by number.

        The last one that the caller takes is kept, and `fingerprint` does not read it again.
        """
        for number in sorted(self.records):
            for path in self.records[number]:
                try:
                    record = read_record(path)
                except ArchiveError:
                    continue
                self._read = {path: record}
                yield record

    def changed(self, contents: Contents) -> Iterator[str]:
        """Files that are not as recorded: another size, or another hash where the state differs."""
        for group, files in contents.items():
            for name, then in files.items():
                if group == STATISTICS and "/" in name and name not in self.paths[group]:
                    yield name  # of another data folder, split or joints
                    continue
                now = self._state(group, name)
                if now is None and (group == STATISTICS or self.config.is_demo_data):
                    continue  # a rule makes it again, alike, if a chunk needs it
                if then is None or now is None:
                    if then is not None or now is not None:
                        yield name
                elif now.agrees_with(then):
                    continue
                elif not may_be(then, now) or self._today(group, name) != then["sha256"]:
                    yield name

    def _doubtful(self, items: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
        """Items whose state says neither that they are as recorded nor that they changed."""
        states = {name: self._state(ITEMS, name) for name in items}
        return [
            name
            for name, then in items.items()
            if then and (now := states[name]) and not now.agrees_with(then) and may_be(then, now)
        ]

    def _hash_ahead(self, names: Iterable[str]) -> None:
        """Hash items on a server, many at once, because an answer takes long."""
        if isinstance(self.data_dir, RemotePath):
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for _ in pool.map(lambda name: self._today(ITEMS, name), names):
                    pass

    def _state(self, group: str, name: str) -> FileState | RemoteState | None:
        if group == ITEMS and name in self.states:
            return self.states[name]
        try:
            return state_of(self._path(group, name))
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return None

    def _path(self, group: str, name: str) -> Place:
        if group == ITEMS:
            return self.data_dir / name
        if group == STATISTICS and "/" not in name:  # in records of earlier versions
            name = next((key for key in self.paths[group] if key.endswith(f"/{name}")), name)
        return self.paths.get(group, {}).get(name, Path(name))

    def _today(self, group: str, name: str) -> str | None:
        """sha256 of a file as it is now, remembered by the file's state; None if unreadable."""
        now = self._state(group, name)
        if now is None:
            return None
        key = f"{group}/{name}"
        if self.hashes.get(key, [])[:-1] != [*now] or not now.tells_edits:
            try:
                self.hashes[key] = [*now, hash_file(self._path(group, name))]
            except OSError:
                return None
        return self.hashes[key][-1]


def read_file_hashes(run: str | Path) -> dict[str, list]:
    """The hashes that an earlier plan kept: group/file -> [size, mtime, ctime, inode, sha256].

    Empty if the file is missing, damaged or edited: what it held is then hashed again.
    """
    try:
        files = unseal(read_bytes(file_hashes_path(run)))["files"]
        return {name: list(entry) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def statistics_name(path: Path) -> str:
    """The name records have for computed statistics.

    The folder tells the data and the split they were computed from (`computed_statistics_path`).
    """
    return f"{path.parent.name}/{path.name}"


# --- what a job records --------------------------------------------------------------------------


def shared_files(plan: Plan) -> dict[str, list[Path]]:
    """The files that all chunks read, by group: the text encoder's, and computed statistics."""
    text_model = plan.config.model.text_model
    return {
        TEXT_MODEL: find_text_weights(text_model.version, text_model.path),
        STATISTICS: [Path(plan.statistics.path)] if plan.statistics.computed else [],
    }


def shared_states(plan: Plan) -> dict[Path, FileState | None]:
    """State of the files that all chunks read, taken before a job loads them."""
    return {path: _state_of(path) for paths in shared_files(plan).values() for path in paths}


def _state_of(path: Path) -> FileState | None:
    try:
        return FileState.of(path.stat())
    except OSError:
        return None


def read_inputs(
    plan: Plan,
    dataset: Dataset,
    samples: list[Sample],
    reader: FileReader,
    before: Mapping[Path, FileState | None],
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """The content of every file that decided a chunk's numbers, by group, as JSON values.

    For items, this is the content that the reader read; None where it could not read a file, so
    that the chunk is made again once the file is there. The shared files are hashed now. Their
    state shows that they were not replaced since the job loaded them.

    Args:
        before: `shared_states`, from before the job loaded them.
    Raises:
        ArchiveError: a shared file was replaced since then.
    """
    names = sorted({name for sample in samples for name in dataset.files(sample)})
    items = {name: reader.contents.get(name) for name in names}
    for name, content in items.items():
        if name in reader.unread:  # it may be there by now, and the sample was skipped without it
            items[name] = None
        elif content is None:  # a file of a sample that was skipped before it was asked for
            items[name] = _content_of(reader.data_dir / name)
    contents = {ITEMS: {name: found and found.as_dict() for name, found in items.items()}}
    for group, paths in shared_files(plan).items():
        contents[group] = {}
        for path in paths:
            found = _content_of(path)
            if (found and found.state) != before.get(path):
                raise ArchiveError(
                    f"{path}: was replaced while this chunk was generated. Run the same snakemake "
                    "command again once the file stays as it is; finished chunks are kept"
                )
            name = statistics_name(path) if group == STATISTICS else path.name
            contents[group][name] = found and found.as_dict()
    return contents


def _content_of(path: Place) -> FileContent | None:
    try:
        return FileContent.read(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None  # a skipped item whose file is not there
