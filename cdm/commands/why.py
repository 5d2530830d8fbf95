"""Which chunks would run now, and why (no torch).

The plan is made anew, as when Snakemake reads the Snakefile. Each chunk of it that is not finished
is held against the newest finished chunk of the same number, whose record tells what it was made
from; without one, against the plan of the last run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm.archive.store import ChunkRecord, read_record, store_path
from cdm.commands.status import LOGS, last_error, read_tail
from cdm.datasets import Sample
from cdm.errors import ArchiveError
from cdm.jobs.progress import read_beats
from cdm.model.text import find_text_weights
from cdm.run.contents import ITEMS, ContentResolver
from cdm.run.dataset import open_dataset
from cdm.run.plan import Chunk, Plan, read_plan, read_samples

WRITTEN = " samples written in "  # in the last line of a finished chunk's log
SHOWN = 3  # items or keys of a kind before "and N more"


@dataclass(frozen=True)
class Reason:
    """Chunks that would run for the same reasons."""

    chunks: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Why:
    """The answer.

    Attributes:
        run: the run's folder.
        num_chunks: of the plan.
        todo: what would run; neighbours with the same reasons together.
        merge: whether the archive would be made (again).
    """

    run: str
    num_chunks: int
    todo: tuple[Reason, ...]
    merge: bool

    @property
    def num_todo(self) -> int:
        """Chunks that would run."""
        return sum(len(reason.chunks) for reason in self.todo)


def explain(plan: Plan, samples: list[Sample]) -> Why:
    """Say for each unfinished chunk of a plan why it is not finished.

    Args:
        plan, samples: as `cdm.run.planning.make_plan` returns them.
    """
    run = Path(plan.config.run_dir)
    try:
        last = read_plan(run)
    except ArchiveError:
        last = None
    explainer = _Explainer(plan, samples, run, last)
    grouped: list[tuple[list[str], tuple[str, ...]]] = []
    merged = Path(plan.archive_record).exists() and Path(plan.archive).exists()
    for chunk in () if merged else plan.chunks:  # an archive that is there needs no chunks
        record = Path(plan.chunk_record(chunk))
        if record.exists() and store_path(record).exists():
            continue
        reasons = tuple(explainer.reasons(chunk))
        if grouped and grouped[-1][1] == reasons:
            grouped[-1][0].append(chunk.name)
        else:
            grouped.append(([chunk.name], reasons))
    return Why(
        run=str(run),
        num_chunks=len(plan.chunks),
        todo=tuple(Reason(tuple(names), reasons) for names, reasons in grouped),
        merge=not merged,
    )


class _Explainer:
    def __init__(self, plan: Plan, samples: list[Sample], run: Path, last: Plan | None):
        self.plan, self.samples, self.run, self.last = plan, samples, run, last
        self.planned = {chunk.name for chunk in last.chunks} if last else set()
        self.dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
        text_model = plan.config.model.text_model
        weights = find_text_weights(text_model.version, text_model.path)
        self.resolver = ContentResolver(plan.config, weights, plan.statistics, stats={})
        self.beats = read_beats(run)
        self.records: dict[str, list[Path]] = {}
        for path in run.glob("chunks/[0-9]*-*.json"):
            self.records.setdefault(path.name.split("-")[0], []).append(path)

    def reasons(self, chunk: Chunk) -> Iterator[str]:
        beat = self.beats.get(chunk.name)
        if beat and beat.is_alive:
            yield f"it is running now, on {beat.host}"
            return
        before = self._newest(chunk)
        if before:
            yield from self._differences(chunk, before)
        elif self.last is None:
            yield "nothing was run under this name before"
            return
        elif chunk.name not in self.planned:
            yield from self._since_the_last_plan(chunk)
        if chunk.name in self.planned:
            yield from self._unfinished(chunk, beat is not None)

    def _newest(self, chunk: Chunk) -> ChunkRecord | None:
        """The record last written for a chunk of this number, readable and with its store."""
        paths = self.records.get(chunk.name.split("-")[0], [])
        for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                if store_path(path).exists():
                    return read_record(path)
            except ArchiveError:
                continue
        return None

    def _differences(self, chunk: Chunk, before: ChunkRecord) -> Iterator[str]:
        """What separates a chunk from the finished one it replaces."""
        settings = list(_changed("", before.provenance["settings"], self.plan.settings))
        yield from settings
        rows = self.samples[chunk.start : chunk.stop]
        then = {(r["set"], r["index"], r["caption_idx"]): r["text"] for r in before.samples}
        moved = list(_moved(then, rows)) if not _changes_chunk_size(settings) else []
        yield from moved

        files = {name for sample in rows for name in self.dataset.files(sample)}
        contents = {
            **before.contents,
            ITEMS: {n: c for n, c in before.contents.get(ITEMS, {}).items() if n in files},
        }
        edited = list(self.resolver.changed(contents))
        yield from _listed("edited file(s)", edited)
        if not (settings or moved or edited):
            if files != set(before.contents.get(ITEMS, {})):
                yield "its items are read from other files"
            elif before.base != chunk.base:
                yield "scene_id or scene_trans of an item was edited"

    def _since_the_last_plan(self, chunk: Chunk) -> Iterator[str]:
        """What separates an unfinished chunk from the last plan, which had none of its name."""
        settings = list(_changed("", self.last.settings, self.plan.settings))
        yield from settings
        if settings:
            return
        if chunk.start >= self.last.num_samples:
            yield "new items at the end of the split"
            return
        try:
            dataset = open_dataset(self.last.config, self.last.architecture.point_feat_dim)
            rows = read_samples(self.last, self.last.chunks[chunk.number], dataset)
        except (ArchiveError, OSError):
            rows = []
        then = {(s.set, s.index, s.caption_idx): s.text for s in rows}
        moved = list(_moved(then, self.samples[chunk.start : chunk.stop])) if rows else []
        yield from moved or ["its items are not those of the last plan"]

    def _unfinished(self, chunk: Chunk, cut_off: bool) -> Iterator[str]:
        """What became of it in the last run."""
        log = self.run / LOGS / f"{chunk.name}.log"
        error = last_error(log)
        if error:
            yield f"failed: {error.splitlines()[0]} (log: {log})"
        elif not cut_off and WRITTEN in read_tail(log):
            yield "finished before, but its record or store was removed"
        elif cut_off or log.exists():
            yield "cut off before it was finished"
        else:
            yield "planned, not started yet"


def _moved(then: Mapping[tuple, str], rows: list[Sample]) -> Iterator[str]:
    """How a chunk's rows differ from what they were: (set, index, caption_idx) -> text."""
    now = {(s.set, s.index, s.caption_idx): s.text for s in rows}
    yield from _listed("new item(s) in it", (_name(key) for key in now if key not in then))
    yield from _listed("item(s) no longer in it", (_name(key) for key in then if key not in now))
    captions = (
        f"{_name(key)}: {then[key]!r} -> {text!r}"
        for key, text in now.items()
        if key in then and then[key] != text
    )
    yield from _listed("edited caption(s)", captions)
    if set(now) == set(then) and list(now) != list(then):
        yield "its items come in another order"


def _changes_chunk_size(settings: list[str]) -> bool:
    return any(text.startswith("setting chunk_size:") for text in settings)


def _changed(prefix: str, before: Any, now: Any) -> Iterator[str]:
    """`setting KEY: BEFORE -> NOW` of every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            inner = f"{prefix}.{key}" if prefix else key
            yield from _changed(inner, before.get(key), now.get(key))
        return
    before, now = _plain(before), _plain(now)
    if before != now:
        yield f"setting {prefix}: {_short(before)} -> {_short(now)}"


def _plain(value: Any) -> Any:
    """Tuples as the lists that JSON makes of them."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:28]}...{text[-9:]}"


def _listed(what: str, entries) -> Iterator[str]:
    entries = list(entries)
    if entries:
        more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
        yield f"{what}: {', '.join(entries[:SHOWN])}{more}"


def _name(key: tuple) -> str:
    set_name, index, caption_idx = key
    return f"{set_name}/{index}" + (f" caption {caption_idx}" if caption_idx else "")


def describe_why(why: Why, command: str) -> str:
    """The answer as text, with the command to type."""
    lines = [f"{why.run}: {why.num_todo} of {why.num_chunks} chunks would run"]
    for reason in why.todo:
        first, last = reason.chunks[0], reason.chunks[-1]
        if len(reason.chunks) > 1:
            numbers = f"{first.split('-')[0]} to {last.split('-')[0]}"
            lines.append(f"  chunks {numbers} ({len(reason.chunks)}):")
        else:
            lines.append(f"  chunk {first}:")
        lines += [f"    {text}" for text in reason.reasons]
    if why.merge:
        lines.append("  then the merge: there is no archive of this plan yet")
    elif not why.todo:
        lines.append("  the archive is of this very plan: nothing to do")
    if why.todo or why.merge:
        lines += ["", "to run them:", f"  {command}"]
    return "\n".join(lines) + "\n"
