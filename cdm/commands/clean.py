"""What a run's folder no longer needs (no torch).

Only what this program made may go: its exact name says so, and a store holds nothing else. What a
plan, a running job, a running Snakemake or a held lock refers to stays.
"""

import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdm.archive.checks import list_files
from cdm.archive.records import record_path, store_path
from cdm.errors import ArchiveError
from cdm.files import is_folder, is_locked, list_names, lock_path, remove_if_unused, target_of
from cdm.jobs.progress import JobState, duration, heartbeat_path, read_job_states
from cdm.run.plan import ARCHIVE, CHUNKS, LOGS, Plan, plan_folder

MERGE = "merge"  # name of the merging job
QUIET_S = 600.0  # temporary files older than this are treated as abandoned
# A job of another machine that was silent for longer is treated as dead. It may also have been
# stopped (Ctrl-Z), which cannot be seen from here.
SILENT_S = 86400.0
SNAKEMAKE_LOCKS = Path(".snakemake", "locks")  # in the working folder

_CHUNK = r"[0-9]{5,}-[0-9a-f]{16}"
_ARRAY = r"(sample|distance|points|scene_trans|aug_trans)"
_IN_STORE = re.compile(rf"zarr\.json|{_ARRAY}/(zarr\.json|c\.0(\.0)*)")
# Folder, as a pattern -> names in it that `replacing` writes under a temporary name.
_WRITTEN = {
    "": rf"{re.escape(ARCHIVE)}|contact_maps-[0-9a-f]{{16}}\.json|checkpoint_info\.txt"
    r"|generated_contact_maps\.npz|pred_contact\.json|ply|ply\.json",
    "ckpt": r"training\.pt|model[0-9]{6,}\.pt",
    CHUNKS: rf"{_CHUNK}\.(zarr|json)",
    plan_folder("").name: r"plan\.json|samples\.tsv|contents\.json|h3d_clips\.json",
    "statistics/*": r"Mean_Std_.*\.(npz|left_out\.json)",
    "*": r"pred_contact",
}


@dataclass(frozen=True)
class Found:
    """A file or folder: why it may go or has to stay, and its size in bytes."""

    path: Path
    why: str
    size: int


def find_leftovers(plans: Sequence[Plan], run: str | Path) -> tuple[list[Found], list[Found]]:
    """Chunks no plan refers to, and what killed jobs left half written. Looking changes nothing.

    Args:
        plans: whose chunks stay.
        run: the run's folder, `outputs/{exp_name}`.
    Returns:
        What may go, and what looks like it but may be in use or is not this program's.
    """
    run = Path(run)
    users = _Users(plans, run)
    leftovers, kept = [], []
    for path, why, job in _candidates(users, run):
        reason = _why_not_ours(path) or users.of(path, job)
        size = _size(path)
        if reason:
            kept.append(Found(path, f"{why}; {reason}", size))
        else:
            leftovers.append(Found(path, why, size))
    return leftovers, kept


def _candidates(users: "_Users", run: Path) -> Iterator[tuple[Path, str, str]]:
    """(path, why it may go, name of its job) of all that has the name of something of ours."""
    # Chunks and their logs.
    for path in _named(run / CHUNKS, rf"{_CHUNK}\.(zarr|json)"):
        if path.stem not in users.planned:
            yield path, "no plan refers to this chunk", path.stem
        elif path.suffix == ".zarr" and not record_path(path).exists():
            yield path, "a store without its record: its job was cut off", path.stem
    for path in _named(run / LOGS, rf"{_CHUNK}\.log"):
        if path.stem not in users.planned:
            yield path, "log of a chunk no plan refers to", path.stem

    # What was being written when a job was killed.
    for pattern, names in _WRITTEN.items():
        for folder in [run] if pattern == "" else sorted(run.glob(pattern)):
            for path in _named(folder, r"\..*\.tmp"):
                target = target_of(path)
                if target and re.fullmatch(names, target.name):
                    is_chunk = folder.name == CHUNKS
                    yield path, "a temporary", target.stem if is_chunk else MERGE

    # Jobs that ended without a word.
    running = heartbeat_path(run, MERGE).parent
    for path in _named(running, rf"({_CHUNK}|{MERGE})\.json"):
        if path.stem in users.states and path.stem not in users.alive:
            host = users.states[path.stem].host
            yield path, f"heartbeat of a job cut off on {host}", path.stem
    for path in _named(running, rf"\.({_CHUNK}|{MERGE})\.json\.[0-9]+\.tmp"):
        yield path, "a temporary", path.name[1:].rsplit(".", 3)[0]


def _named(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder under names of exactly this pattern."""
    return [folder / name for name in sorted(list_names(folder)) if re.fullmatch(pattern, name)]


class _Users:
    """Who may need what lies in a run's folder.

    Args:
        plans: whose chunks stay.
        run: the run's folder.
    """

    def __init__(self, plans: Sequence[Plan], run: Path):
        self.planned = {chunk.name for plan in plans for chunk in plan.chunks}
        self.states = read_job_states(run)
        self.alive = {name: state for name, state in self.states.items() if _may_live(state)}
        self.of_snakemake = _locked_by_snakemake()
        # Plans of other configurations are not known here. Their running jobs show that they exist.
        self.others = sorted(set(self.alive) - self.planned - {MERGE})

    def of(self, path: Path, job: str) -> str | None:
        """Why a path has to stay, or None."""
        if is_locked(lock_path(_written_as(path))):
            return "a process is writing it"
        if job in self.alive:
            return _whereabouts(self.alive[job])
        if path.suffix == ".tmp":
            fresh = job not in self.states and _quiet_s(path) < QUIET_S
            return f"written to in the last {QUIET_S / 60:.0f} minutes" if fresh else None
        if job in self.of_snakemake:
            return "a running Snakemake refers to it (if it was killed: snakemake --unlock)"
        if self.others and path.parent.name in (CHUNKS, LOGS.name):
            other = self.alive[self.others[0]]
            return f"a job of another configuration ({other.name}) runs on {other.host}"
        return None


def _may_live(state: JobState) -> bool:
    return state.is_alive or (not state.is_of_this_machine and state.age_s < SILENT_S)


def _whereabouts(state: JobState) -> str:
    if state.is_alive:
        return f"its job runs on {state.host}"
    return f"its job may still run on {state.host}, silent for {duration(state.age_s)}"


def _locked_by_snakemake() -> set[str]:
    """Names of the chunks that a Snakemake in this working folder reads or writes.

    Snakemake lists the files of a run in its lock files, and removes these at the end.
    """
    names = set()
    for name in list_names(SNAKEMAKE_LOCKS):
        try:
            text = (SNAKEMAKE_LOCKS / name).read_text("utf-8", "replace")
        except OSError:
            continue
        names |= {Path(line).stem for line in text.splitlines()}
    return names


def _written_as(path: Path) -> Path:
    """The path whose lock is held while this one is written: a record goes with its store."""
    path = target_of(path) or path
    if path.suffix == ".json" and path.parent.name == CHUNKS:
        return store_path(path)
    return path.with_name(ARCHIVE) if path.name.startswith("contact_maps-") else path


def _why_not_ours(path: Path) -> str | None:
    """Why a path with the name of something of ours is not ours, or None."""
    if path.is_symlink():
        return "a symbolic link, which this program does not make"
    if path.suffix in (".json", ".log") and not path.is_file():
        return "not a file, as this program makes it"
    if path.suffix != ".zarr":
        return None
    if not is_folder(path):
        return "not a folder, as this program makes it"
    strange = sorted(name for name in _all_files(path) if not _IN_STORE.fullmatch(name))
    return f"it holds {strange[0]}, which this program did not write" if strange else None


def _all_files(store: Path) -> list[str]:
    try:
        return list(list_files(store))
    except OSError:
        return []  # it is removed while we look


def clean(leftovers: Sequence[Found]) -> tuple[list[Found], list[Found]]:
    """Remove what was found. A chunk's record goes before its store.

    Returns:
        What was removed, and what a process has begun to write since.
    Raises:
        ArchiveError: the system refuses to remove something.
    """
    removed, kept = [], []
    for found in sorted(leftovers, key=lambda found: found.path.suffix != ".json"):
        if not remove_if_unused(found.path, _written_as(found.path)):
            kept.append(Found(found.path, f"{found.why}; a process is writing it", found.size))
            continue
        if os.path.lexists(found.path):
            raise ArchiveError(f"{found.path}: could not be removed; check its owner and mode")
        removed.append(found)
    return removed, kept


def _files(path: Path) -> Iterator[os.stat_result]:
    """Stat of a path and of all below it; links are not followed."""
    yield os.lstat(path)
    if is_folder(path):
        for folder, folders, names in os.walk(path):
            for name in (*folders, *names):
                yield os.lstat(os.path.join(folder, name))


def _size(path: Path) -> int:
    """Bytes that its files hold; 0 if it changes meanwhile."""
    try:
        return sum(found.st_size for found in _files(path) if not stat.S_ISDIR(found.st_mode))
    except OSError:
        return 0


def _quiet_s(path: Path) -> float:
    """Seconds since anything in it was written; 0 if it changes meanwhile."""
    try:
        return time.time() - max(found.st_mtime for found in _files(path))
    except OSError:
        return 0.0


def describe_leftovers(leftovers: list[Found], kept: list[Found], removed: bool) -> str:
    """What was found (or removed), as text."""
    size = sum(found.size for found in leftovers) / 1e6
    verb = "removed" if removed else "to remove"
    lines = [f"{found.path}  ({found.why}, {found.size / 1e6:.1f} MB)" for found in leftovers]
    lines.append(f"{len(leftovers)} {verb}, {size:.1f} MB")
    lines += [f"kept: {found.path}  ({found.why})" for found in kept]
    if leftovers and not removed:
        lines += ["", "the same command with --yes removes them"]
    return "\n".join(lines) + "\n"
