"""Whether what a chunk read is still what the files hold (no torch).

A chunk's record keeps the state (size, mtime, ctime, inode) and the sha256 of every file that
decided its numbers, in three groups. Files are compared by their state first and hashed only where
that differs. So a touch or a copy changes nothing, and an edit changes exactly its chunk.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cdm.archive.store import read_record
from cdm.config import Config
from cdm.datasets import Dataset, FileReader, Sample
from cdm.errors import ArchiveError
from cdm.files import FileState, digest, hash_file, write_json
from cdm.model.text import find_text_weights
from cdm.run.plan import Plan

ITEMS, STATISTICS, TEXT_MODEL = "items", "statistics", "text_model"


def content_fingerprint(base: str, hashes: Mapping[str, Mapping[str, str | None]]) -> str:
    """Fingerprint of a chunk some of whose items were edited after it was first made."""
    return digest([base, hashes])


def is_named_for(fingerprint: str, base: str, contents: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a chunk of this fingerprint may hold numbers made from these contents.

    The base promises no particular content. Statistics that the workflow computes may not have
    been there when the name was chosen.
    """
    hashes = {
        group: {name: now and now["sha256"] for name, now in files.items()}
        for group, files in contents.items()
    }
    unknown = hashes | {STATISTICS: dict.fromkeys(hashes[STATISTICS])}
    names = (base, content_fingerprint(base, hashes), content_fingerprint(base, unknown))
    return fingerprint in names


class ContentResolver:
    """Finds, for each chunk, the finished one whose recorded contents are those of today."""

    def __init__(self, config: Config, weights: list[Path], statistics: dict, stats: dict):
        self.config = config
        self.stats = stats
        self.folder = Path(config.run_dir, "chunks")
        self.records: dict[int, list[Path]] = {}
        for path in sorted(self.folder.glob("*-*.json")):
            number = path.name.split("-")[0]
            if number.isdigit():
                self.records.setdefault(int(number), []).append(path)
        self.cache_path = Path(config.run_dir, "plan", "contents.json")
        self.cache: dict[str, list] = {}
        if self.records:
            with contextlib.suppress(OSError, ValueError):  # only a cache
                self.cache = json.loads(self.cache_path.read_bytes())
        self.hashed = False
        self.paths = {TEXT_MODEL: {path.name: path for path in weights}, STATISTICS: {}}
        if statistics["computed"]:
            path = Path(statistics["path"])
            self.paths[STATISTICS][path.name] = path

    def fingerprint(self, number: int, base: str, files: list[list[str]]) -> str:
        """The base where nothing contradicts it, else one that names today's content."""
        candidates = []
        for path in self.records.get(number, []):
            try:
                record = read_record(path)
            except ArchiveError:
                continue  # the merge names it; a chunk of this name would be made again
            if record.base == base and record.name == path.stem:
                if next(self.changed(record.contents), None) is None:
                    return record.name.split("-")[1]
                candidates.append(record)
        if not candidates:
            return base
        names = {name for item in files for name in item}
        groups = {group: set(paths) for group, paths in self.paths.items()} | {ITEMS: names}
        return content_fingerprint(
            base,
            {group: {n: self._today(group, n) for n in names} for group, names in groups.items()},
        )

    def changed(self, contents: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Files that are not as recorded: another size, or another hash where the state differs."""
        for group, files in contents.items():
            for name, then in files.items():
                now = self._stat(group, name)
                if now is None and (group == STATISTICS or self.config.is_demo_data):
                    continue  # a rule makes it again, alike, if a chunk needs it
                if (then is None) != (now is None):
                    yield name
                elif then is None or now.agrees_with(then):
                    continue
                elif now.size != then["size"] or self._today(group, name) != then["sha256"]:
                    yield name

    def _stat(self, group: str, name: str) -> FileState | None:
        if group == ITEMS and name in self.stats:
            return self.stats[name]
        try:
            return FileState.of(os.stat(self._path(group, name)))
        except OSError:
            return None

    def _path(self, group: str, name: str) -> Path:
        if group == ITEMS:
            return Path(self.config.data_dir, name)
        return self.paths[group].get(name, Path(name))

    def _today(self, group: str, name: str) -> str | None:
        """sha256 of a file as it is now, remembered by the file's state."""
        now = self._stat(group, name)
        if now is None:
            return None
        key = f"{group}/{name}"
        if self.cache.get(key, [])[:-1] != [*now]:
            try:
                self.cache[key] = [*now, hash_file(self._path(group, name))]
            except OSError:
                return None  # unreadable: as good as missing
            self.hashed = True
        return self.cache[key][-1]

    def save(self) -> None:
        """Remember what was hashed, so that a touched data set is hashed once."""
        if self.hashed:
            write_json(self.cache_path, self.cache)


def read_contents(plan: Plan, dataset: Dataset, samples: list[Sample], reader: FileReader) -> dict:
    """Size, mtime and sha256 of everything that decided the chunk's numbers, by group."""
    folder = Path(plan.config.data_dir)
    names = sorted({name for sample in samples for name in dataset.files(sample)})
    text_model = plan.config.model.text_model
    weights = find_text_weights(text_model.version, text_model.path)
    computed = [Path(plan.statistics["path"])] if plan.statistics["computed"] else []
    return {
        ITEMS: {name: reader.contents.get(name) or _content(folder / name) for name in names},
        TEXT_MODEL: {path.name: _content(path) for path in weights},
        STATISTICS: {path.name: _content(path) for path in computed},
    }


def _content(path: Path) -> dict[str, Any] | None:
    try:
        return FileState.of(path.stat())._asdict() | {"sha256": hash_file(path)}
    except OSError:
        return None  # a skipped item whose file is not there
