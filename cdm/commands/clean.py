"""What a run's folder no longer needs (no torch)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdm.files import remove
from cdm.jobs.progress import read_job_states
from cdm.run.plan import LOGS, Plan

ARCHIVE = "contact_maps"
QUIET_S = 600.0  # a temporary nobody wrote to for so long belongs to no living job


@dataclass(frozen=True)
class Leftover:
    """Something that may go: its path (a file or a folder), why, and its size in bytes."""

    path: Path
    why: str
    size: int


@dataclass(frozen=True)
class Kept:
    """Something that may be in use, and why it is thought so."""

    path: Path
    why: str


def find_leftovers(plans: Sequence[Plan], run: str | Path) -> tuple[list[Leftover], list[Kept]]:
    """Chunks no plan refers to, and what killed jobs left half written.

    Nothing is listed that a running job may be writing: one whose heartbeat beats, or, of what
    has no heartbeat, a temporary that was written to within ten minutes.

    Args:
        plans: whose chunks stay.
        run: the run's folder, `outputs/{exp_name}`.
    Returns:
        What may go, and what looks like it but may be in use.
    """
    run = Path(run)
    beats = read_job_states(run)
    alive = {name for name, beat in beats.items() if beat.is_alive}
    planned = {chunk.name for plan in plans for chunk in plan.chunks}
    leftovers, kept = [], []

    def sort(path: Path, why: str, job: str) -> None:
        if job in alive:
            kept.append(Kept(path, f"{why}; its job runs on {beats[job].host}"))
        elif path.name.endswith(".tmp") and job not in beats and _quiet_s(path) < QUIET_S:
            kept.append(Kept(path, f"{why}; written to in the last {QUIET_S / 60:.0f} minutes"))
        else:
            leftovers.append(Leftover(path, why, _size(path)))

    for path in sorted(run.glob("chunks/[0-9]*-*")):
        if path.stem not in planned:
            sort(path, "no plan refers to this chunk", path.stem)
        elif path.suffix == ".zarr" and not path.with_suffix(".json").exists():
            sort(path, "a store without its record: its job was cut off", path.stem)
    for path in sorted(run.glob(f"{LOGS}/[0-9]*-*.log")):
        if path.stem not in planned:
            sort(path, "log of a chunk no plan refers to", path.stem)
    for folder in ("", "chunks", "plan", "statistics/*"):
        for path in sorted(run.glob(f"{folder}/.*.tmp".lstrip("/"))):
            # .{name}.{suffix}.{random}.tmp, as cdm.files.replacing names it
            target = path.name[1:].rsplit(".", 2)[0]
            is_archive = target.startswith(ARCHIVE)
            sort(path, "a temporary", "merge" if is_archive else Path(target).stem)
    for name, beat in beats.items():
        if name not in alive:
            path = run / "running" / f"{name}.json"
            leftovers.append(
                Leftover(path, f"heartbeat of a job cut off on {beat.host}", _size(path))
            )
    return leftovers, kept


def clean(leftovers: list[Leftover]) -> None:
    """Remove what was found. A chunk's record goes before its store."""
    for leftover in sorted(leftovers, key=lambda found: found.path.suffix != ".json"):
        remove(leftover.path)


def _files(path: Path) -> list[Path]:
    return [path, *path.rglob("*")] if path.is_dir() else [path]


def _size(path: Path) -> int:
    """Bytes that its files hold."""
    total = 0
    for file in _files(path):
        try:
            total += 0 if file.is_dir() else file.stat().st_size
        except OSError:
            continue
    return total


def _quiet_s(path: Path) -> float:
    """Seconds since anything in it was written."""
    newest = 0.0
    for file in _files(path):
        try:
            newest = max(newest, file.stat().st_mtime)
        except OSError:
            return 0.0  # it changes while we look
    return time.time() - newest


def describe_leftovers(leftovers: list[Leftover], kept: list[Kept], removed: bool) -> str:
    """What was found (or removed), as text."""
    size = sum(leftover.size for leftover in leftovers) / 1e6
    verb = "removed" if removed else "to remove"
    lines = [f"{found.path}  ({found.why}, {found.size / 1e6:.1f} MB)" for found in leftovers]
    lines.append(f"{len(leftovers)} {verb}, {size:.1f} MB")
    lines += [f"kept: {found.path}  ({found.why})" for found in kept]
    if leftovers and not removed:
        lines += ["", "the same command with --yes removes them"]
    return "\n".join(lines) + "\n"
