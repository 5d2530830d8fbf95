"""Which chunks would run now, and why (no torch).

The plan is made anew, as when Snakemake reads the Snakefile. Each chunk of it that is not finished
is compared with the newest finished chunk of the same number, whose record tells what it was made
from. If there is none, it is compared with the plan of the last run. Nothing is changed by this.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm.archive.records import ChunkRecord, read_record, store_path
from cdm.commands.pace import modified_s
from cdm.datasets import Sample
from cdm.errors import ArchiveError, listed
from cdm.jobs.log import FAILED, FINISHED, read_ending
from cdm.jobs.progress import read_job_states
from cdm.model.text_weights import find_text_weights
from cdm.run.dataset import open_dataset
from cdm.run.inputs import ITEMS, InputResolver
from cdm.run.losses import find_losses
from cdm.run.plan import CHUNKS, LOGS, Chunk, Plan
from cdm.run.plan_files import read_plan, read_samples

SHOWN = 3  # items or keys of a kind before "and N more"

Change = tuple[str, Any, Any]  # key of a setting, its value before, its value now


@dataclass(frozen=True)
class TodoGroup:
    """Neighbouring chunks that would run for the same reasons."""

    chunks: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Why:
    """The answer.

    Attributes:
        run: the run's folder.
        num_chunks: of the plan.
        todo: what would run.
        merge: whether the archive would be made (again).
        merge_reason: why; "" if it would not.
    """

    run: str
    num_chunks: int
    todo: tuple[TodoGroup, ...]
    merge: bool
    merge_reason: str = ""

    @property
    def num_todo(self) -> int:
        """Chunks that would run."""
        return sum(len(group.chunks) for group in self.todo)


def explain(plan: Plan, samples: list[Sample]) -> Why:
    """Say for each unfinished chunk of a plan why it is not finished.

    Args:
        plan, samples: as `cdm.run.planning.make_plan` returns them.
    """
    run = Path(plan.config.run_dir)
    losses = find_losses(plan)
    merged = Path(plan.archive_record).exists() and "merge" not in losses
    explainer = _Explainer(plan, samples, losses)
    groups: list[tuple[list[str], tuple[str, ...]]] = []
    for chunk in () if merged else plan.chunks:  # an archive that is there needs no chunks
        if Path(plan.chunk_record(chunk)).exists() and chunk.name not in losses:
            continue
        reasons = tuple(explainer.reasons(chunk))
        if groups and groups[-1][1] == reasons:
            groups[-1][0].append(chunk.name)
        else:
            groups.append(([chunk.name], reasons))
    reason = "" if merged else losses.get("merge", "there is no archive of this plan yet")
    todo = tuple(TodoGroup(tuple(names), reasons) for names, reasons in groups)
    return Why(str(run), len(plan.chunks), todo, merge=not merged, merge_reason=reason)


class _Explainer:
    """Gives the reasons for one chunk after the other.

    Args:
        plan, samples: of the configuration as it is now.
        losses: finished chunks that lost a file (`cdm.run.losses.find_losses`).
    """

    def __init__(self, plan: Plan, samples: list[Sample], losses: Mapping[str, str]):
        self.plan, self.samples, self.losses = plan, samples, losses
        self.run = Path(plan.config.run_dir)
        self.last: Plan | None = None
        with contextlib.suppress(ArchiveError):
            self.last = read_plan(self.run)
        self.planned = {chunk.name for chunk in self.last.chunks} if self.last else set()
        self.dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
        text_model = plan.config.model.text_model
        weights = find_text_weights(text_model.version, text_model.path)
        self.resolver = InputResolver(plan.config, weights, plan.statistics, states={})
        self.jobs = read_job_states(self.run)
        self.records: dict[str, list[Path]] = {}
        for path in self.run.glob(f"{CHUNKS}/[0-9]*-*.json"):
            self.records.setdefault(path.name.split("-")[0], []).append(path)

    def reasons(self, chunk: Chunk) -> Iterator[str]:
        """Why a chunk is not finished, one sentence for each reason."""
        job = self.jobs.get(chunk.name)
        if job and job.is_alive:
            yield f"it is running now, on {job.host}"
            return
        if chunk.name in self.losses:
            yield f"finished before, but a file of it is lost: {self.losses[chunk.name]}"
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
            yield from self._unfinished(chunk, cut_off=job is not None)

    def _newest(self, chunk: Chunk) -> ChunkRecord | None:
        """The record last written for a chunk of this number, readable and with its store."""
        paths = self.records.get(chunk.name.split("-")[0], [])
        for path in sorted(paths, key=modified_s, reverse=True):
            try:
                if store_path(path).exists():
                    return read_record(path)
            except ArchiveError:
                continue
        return None

    def _differences(self, chunk: Chunk, before: ChunkRecord) -> Iterator[str]:
        """How a chunk differs from the finished one that it replaces."""
        # Settings.
        changes = list(_changes("", before.provenance.get("settings"), self.plan.identity))
        yield from map(_change_text, changes)

        # Rows. With another chunk size every chunk holds other items, which explains nothing.
        rows = self.samples[chunk.start : chunk.stop]
        then = {(r["set"], r["index"], r["caption_idx"]): r["text"] for r in before.samples}
        resized = any(key == "chunk_size" for key, _, _ in changes)
        moved = [] if resized else list(_moved(then, rows))
        yield from moved

        # Content of the files.
        files = {name for sample in rows for name in self.dataset.files(sample)}
        recorded = before.contents.get(ITEMS, {})
        still_read = {name: content for name, content in recorded.items() if name in files}
        edited = list(self.resolver.changed({**before.contents, ITEMS: still_read}))
        yield from _several("edited file(s)", edited)

        # What is left.
        if not (changes or moved or edited):
            if files != set(recorded):
                yield "its items are read from other files"
            elif before.base != chunk.base:
                yield "scene_id or scene_trans of an item was edited"

    def _since_the_last_plan(self, chunk: Chunk) -> Iterator[str]:
        """How an unfinished chunk differs from the last plan, which had none of its name."""
        last = self.last
        assert last is not None, "asked only of a run that was planned before"
        changes = list(_changes("", last.identity, self.plan.identity))
        yield from map(_change_text, changes)
        if changes:
            return
        if chunk.start >= last.num_samples:
            yield "new items at the end of the split"
            return
        try:
            dataset = open_dataset(last.config, last.architecture.point_feat_dim)
            rows = read_samples(last, last.chunks[chunk.number], dataset)
        except (ArchiveError, OSError):
            rows = []
        then = {(s.set, s.index, s.caption_idx): s.text for s in rows}
        moved = list(_moved(then, self.samples[chunk.start : chunk.stop])) if rows else []
        yield from moved or ["its items are not those of the last plan"]

    def _unfinished(self, chunk: Chunk, cut_off: bool) -> Iterator[str]:
        """What became of it in the last run.

        Args:
            cut_off: its job left a heartbeat that does not beat any more.
        """
        log = self.run / LOGS / f"{chunk.name}.log"
        ending = read_ending(log)
        if ending is None:
            yield "cut off before it was finished" if cut_off else "planned, not started yet"
        elif ending.kind == FAILED:
            yield f"failed: {ending.error.splitlines()[0]} (log: {log})"
        elif ending.kind == FINISHED and not cut_off:
            yield "finished before, but its record was removed"
        else:
            yield "cut off before it was finished"


def _moved(then: Mapping[tuple, str], rows: list[Sample]) -> Iterator[str]:
    """How a chunk's rows differ from earlier ones: (set, index, caption_idx) -> text."""
    now = {(s.set, s.index, s.caption_idx): s.text for s in rows}
    yield from _several("new item(s) in it", (_name(key) for key in now if key not in then))
    yield from _several("item(s) no longer in it", (_name(key) for key in then if key not in now))
    captions = (
        f"{_name(key)}: {then[key]!r} -> {text!r}"
        for key, text in now.items()
        if key in then and then[key] != text
    )
    yield from _several("edited caption(s)", captions)
    if set(now) == set(then) and list(now) != list(then):
        yield "its items come in another order"


def _changes(prefix: str, before: Any, now: Any) -> Iterator[Change]:
    """(key, value before, value now) of every setting that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            inner = f"{prefix}.{key}" if prefix else key
            yield from _changes(inner, before.get(key), now.get(key))
        return
    if before != now:
        yield prefix, before, now


def _change_text(change: Change) -> str:
    key, before, now = change
    return f"setting {key}: {_short(before)} -> {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:28]}...{text[-9:]}"


def _several(what: str, entries: Iterable[str]) -> Iterator[str]:
    """One sentence on several entries; none if there is no entry."""
    entries = list(entries)
    if entries:
        yield f"{what}: {listed(entries, SHOWN, ', ')}"


def _name(key: tuple) -> str:
    set_name, index, caption_idx = key
    return f"{set_name}/{index}" + (f" caption {caption_idx}" if caption_idx else "")


def describe_why(why: Why, command: str) -> str:
    """The answer as text, with the command to type."""
    lines = [f"{why.run}: {why.num_todo} of {why.num_chunks} chunks would run"]
    for group in why.todo:
        first, last = group.chunks[0], group.chunks[-1]
        if len(group.chunks) > 1:
            numbers = f"{first.split('-')[0]} to {last.split('-')[0]}"
            lines.append(f"  chunks {numbers} ({len(group.chunks)}):")
        else:
            lines.append(f"  chunk {first}:")
        lines += [f"    {text}" for text in group.reasons]
    if why.merge:
        lines.append(f"  then the merge: {why.merge_reason}")
    elif not why.todo:
        lines.append("  the archive is of this very plan: nothing to do")
    if why.todo or why.merge:
        lines += ["", "to run them:", f"  {command}"]
    return "\n".join(lines) + "\n"
