"""What a run is doing, read from files alone and changing none (no torch).

A chunk is *done* once its record and its store are there. A chunk whose job renews its heartbeat
is *running*, or *next* while the job has not got its turn. A chunk whose log ends in an error has
*failed*. The rest is *waiting*. A job that was cut off leaves a heartbeat that is not renewed any
more; its chunk waits again.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdm.archive.records import read_archive_record, read_record
from cdm.commands.pace import measure_pace
from cdm.errors import ArchiveError, listed
from cdm.files import is_sealed, list_names
from cdm.jobs.log import FAILED, read_ending
from cdm.jobs.progress import JobState, duration, per_second, read_job_states
from cdm.run.losses import find_losses
from cdm.run.plan import CHUNKS, LOGS, Plan

LISTED = 10  # lines of a kind before "... and N more"
# Keys of rows that status tells of; quotes inside a JSON string are escaped.
REASON, CUT = b'"reason":', b'"caption_cut":'


@dataclass
class Counts:
    """How far a run is. This is cheap enough to be asked every second.

    Attributes:
        done: names of finished chunks.
        running: the jobs that generate chunks of this plan.
        next: those of the jobs whose turn has not come: they get ready, or stand by.
        merging: the job that merges, if one does.
        cut_off: jobs that ended without a word.
        maps_done: maps of finished chunks, and of running ones in fractions.
        maps_total: maps of the whole plan.
    """

    done: set[str]
    running: list[JobState]
    merging: JobState | None
    cut_off: list[JobState]
    next: list[JobState]
    maps_done: float
    maps_total: int

    @property
    def rate(self) -> float:
        """Maps per second of the running jobs together, as they report it."""
        return sum(job.rate for job in self.running)

    @property
    def share(self) -> float:
        """Maps done of all maps, 0 to 1."""
        return min(1.0, self.maps_done / self.maps_total) if self.maps_total else 1.0


@dataclass
class Status:
    """Everything `status` shows; see `Counts`.

    Attributes:
        failed: chunk, error, log of each failed chunk.
        waiting: number of chunks that wait.
        skipped: set, index, caption_idx, reason and chunk of every sample without a map; the chunk
            is None if it was removed after the merge.
        cut: set, index, caption_idx and chunk of every sample of a finished chunk whose caption is
            longer than the text model reads.
        dropped: name -> reason of the clips that the dataset left out when the plan was made.
        damaged: records that cannot be read, and finished chunks that lost a file.
        maps_per_second: of the running jobs together; None while none runs.
        map_seconds: seconds of one map on one device, as finished chunks took; None before the
            first is finished.
        gpu_busy: share 0 to 1, or None where the records do not tell.
        eta_seconds: until the last chunk is done, at the present rate; None while none runs.
        archive: "merged", "damaged", "merging", "of an earlier plan" or "not merged".
    """

    run: str
    num_samples: int
    num_chunks: int
    k_samples: int
    counts: Counts
    failed: list[dict[str, str]] = field(default_factory=list)
    waiting: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)
    cut: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    maps_per_second: float | None = None
    map_seconds: float | None = None
    gpu_busy: float | None = None
    eta_seconds: float | None = None
    archive: str = "not merged"

    def as_dict(self) -> dict[str, Any]:
        """JSON types, for `--json`."""
        counts, rate = self.counts, self.maps_per_second

        def job(state: JobState) -> dict[str, Any]:
            shown = ("name", "host", "pid", "job", "maps", "total", "rate")
            return {key: getattr(state, key) for key in shown} | {"age_s": round(state.age_s, 1)}

        return {
            "run": self.run,
            "samples": self.num_samples,
            "maps": {"done": round(counts.maps_done, 2), "total": counts.maps_total},
            "chunks": {
                "total": self.num_chunks,
                "done": len(counts.done),
                "running": len(counts.running),
                "next": len(counts.next),
                "failed": len(self.failed),
                "waiting": self.waiting,
            },
            "maps_per_second": rate,
            "samples_per_second": None if rate is None else rate / self.k_samples,
            "seconds_per_map": self.map_seconds,
            "gpu_busy": self.gpu_busy,
            "eta_seconds": self.eta_seconds,
            "running": [job(state) for state in counts.running],
            "next": [job(state) for state in counts.next],
            "cut_off": [job(state) for state in counts.cut_off],
            "failed": self.failed,
            "skipped": self.skipped,
            "captions_cut": self.cut,
            "dropped": self.dropped,
            "damaged": self.damaged,
            "archive": self.archive,
        }


def count(plan: Plan, run: str | Path) -> Counts:
    """Look at the names of the chunks and at the heartbeats."""
    k, names = plan.config.sampling.k_samples, list_names(Path(run, CHUNKS))
    done, maps = set(), 0.0
    for chunk in plan.chunks:
        if f"{chunk.name}.json" in names and f"{chunk.name}.zarr" in names:
            done.add(chunk.name)
            maps += chunk.num_samples * k
    jobs = read_job_states(run)
    merging = jobs.pop("merge", None)
    undone = {chunk.name for chunk in plan.chunks} - done if jobs else set()
    mine = [job for name, job in jobs.items() if name in undone]
    alive = [job for job in mine if job.is_alive]
    running = [job for job in alive if job.has_turn]
    return Counts(
        done=done,
        running=running,
        next=[job for job in alive if not job.has_turn],
        merging=merging if merging and merging.is_alive else None,
        cut_off=[job for job in mine if job not in alive],
        maps_done=maps + sum(job.maps for job in running),
        maps_total=plan.num_samples * k,
    )


def read_status(plan: Plan, run: str | Path) -> Status:
    """All that can be said of a run.

    Args:
        plan: as the run's start wrote it (`cdm.run.plan_files.read_plan`).
        run: the run's folder, `outputs/{exp_name}`.
    """
    counts = count(plan, run)
    status = Status(
        str(run), plan.num_samples, len(plan.chunks), plan.config.sampling.k_samples, counts
    )
    status.dropped = plan.dropped
    losses = find_losses(plan, run)
    status.damaged = [
        f"{name}: {lost}; it is made again with the next run"
        for name, lost in losses.items()
        if name == "merge" or name in counts.done
    ]
    status.archive = _archive_state(plan, Path(run), counts)
    if status.archive == "merged" and "merge" in losses:
        status.archive = "damaged"
    archived = _count_archived(plan, Path(run), status) if status.archive == "merged" else []
    running = {job.name for job in [*counts.running, *counts.next]}
    logs = list_names(Path(run, LOGS)) if len(counts.done) < len(plan.chunks) else set()
    for chunk in plan.chunks:
        if chunk.name in counts.done:
            _look_into(Path(run, CHUNKS, f"{chunk.name}.json"), status)
        elif chunk.name not in running:
            log = Path(run, LOGS, f"{chunk.name}.log")
            ending = read_ending(log) if log.name in logs else None
            if ending and ending.kind == FAILED:
                failed = {"chunk": chunk.name, "error": ending.error, "log": str(log)}
                status.failed.append(failed)
    known = [{**row, "chunk": None} for row in status.skipped]
    status.skipped += [
        row | {"chunk": None} for row in archived if row | {"chunk": None} not in known
    ]
    status.waiting = len(plan.chunks) - len(counts.done) - len(running) - len(status.failed)

    pace = measure_pace(plan, run)
    if pace:
        status.map_seconds, status.gpu_busy = pace.map_s, pace.gpu_busy
    if counts.running:
        # A job that still loads its model reports no rate yet.
        usual = per_second(1, pace.map_s) if pace else 0.0
        rate = sum(job.rate or usual for job in counts.running)
        status.maps_per_second = rate
        status.eta_seconds = (counts.maps_total - counts.maps_done) / rate if rate else None
    return status


def _count_archived(plan: Plan, run: Path, status: Status) -> list[dict[str, Any]]:
    """Count chunks as done that were removed after the merge.

    Returns:
        The samples without a map that the archive tells of, where it stands for chunks.
    """
    counts = status.counts
    gone = {chunk.name for chunk in plan.chunks} - counts.done
    if not gone or counts.running or counts.next:
        return []
    try:
        record = read_archive_record(run / Path(plan.archive_record).name)
    except ArchiveError as error:
        status.damaged.append(str(error))
        return []
    counts.done |= gone
    counts.maps_done = counts.maps_total
    return record.skipped


def _look_into(path: Path, status: Status) -> None:
    """Skipped samples and cut captions of a finished chunk.

    A record is read whole only if it has some.
    """
    try:
        content = path.read_bytes()
        if REASON in content or CUT in content or not is_sealed(content):
            record, named = read_record(path), ("set", "index", "caption_idx")
            for row in record.skipped:
                shown = {key: row.get(key) for key in (*named, "reason")}
                status.skipped.append(shown | {"chunk": path.stem})
            for row in record.cut:
                status.cut.append({key: row[key] for key in named} | {"chunk": path.stem})
    except FileNotFoundError:
        pass  # just removed
    except ArchiveError as error:
        status.damaged.append(str(error))
    except OSError as error:
        status.damaged.append(f"{path}: {error.strerror or error}")


def _archive_state(plan: Plan, run: Path, counts: Counts) -> str:
    if counts.merging:
        return "merging"
    archive = run / Path(plan.archive).name
    if not archive.exists():
        return "not merged"
    return "merged" if (run / Path(plan.archive_record).name).exists() else "of an earlier plan"


# --- for people ----------------------------------------------------------------------------------


def describe_status(status: Status, width: int = 80, encoding: str | None = None) -> str:
    """The status as text, `width` columns wide, for a stream of this encoding."""
    # What the head says.
    counts, rate = status.counts, status.maps_per_second
    share = counts.share
    table = {
        "done": len(counts.done),
        "running": len(counts.running),
        **({"next": len(counts.next)} if counts.next else {}),
        "failed": len(status.failed),
        "waiting": status.waiting,
    }
    by_chunks = f"{1 / status.map_seconds:.3g} by finished chunks" if status.map_seconds else ""
    now = f"{rate:.3g} maps/s now" if rate else ""
    speed = ", ".join(filter(None, [now, by_chunks and f"{by_chunks} (maps/s of one device)"]))
    busy = "-" if status.gpu_busy is None else f"{100 * status.gpu_busy:.0f} %"
    left = "-" if status.eta_seconds is None else f"about {duration(status.eta_seconds)}"

    # The head.
    lines = [
        f"{status.run}: {status.num_samples} samples in {status.num_chunks} chunks",
        f"{draw_bar(share, max(10, min(width, 80) - 30), encoding)} "
        f"{counts.maps_done:.6g}/{counts.maps_total} maps, {_percent(share)}",
        "",
        "chunks     " + "   ".join(f"{number} {name}" for name, number in table.items()),
        f"speed      {speed or '-'}",
        f"GPU busy   {busy}",
        f"time left  {left}",
        f"skipped    {len(status.skipped)} sample(s)",
        f"shortened  {len(status.cut)} caption(s)",
        f"dropped    {len(status.dropped)} clip(s)",
        f"archive    {status.archive}",
    ]

    # A section for each kind of chunk, sample and clip that there is.
    lines += _section("running", list(map(_job_text, counts.running)))
    lines += _section("next, getting ready or standing by", list(map(_job_text, counts.next)))
    cut_off = list(map(_job_text, counts.cut_off))
    lines += _section("cut off; the chunk starts anew with the next run", cut_off)
    failed = [f"{f['chunk']}: {f['error']}\n    log: {f['log']}" for f in status.failed]
    lines += _section("failed", failed)
    lines += _section("damaged", status.damaged)
    skipped = [
        f"{s['set']}/{s['index']} caption {s['caption_idx']}: {s['reason']}" for s in status.skipped
    ]
    lines += _section("skipped", skipped)
    cut = [f"{s['set']}/{s['index']} caption {s['caption_idx']}" for s in status.cut]
    lines += _section("shortened: captions whose ends the text model does not read", cut)
    dropped = [f"{name}: {reason}" for name, reason in status.dropped.items()]
    lines += _section("dropped from the split when the plan was made", dropped)
    return "\n".join(lines) + "\n"


def progress_line(
    run: str,
    counts: Counts,
    rate: float,
    num_chunks: int,
    width: int = 0,
    encoding: str | None = None,
) -> str:
    """One line on the whole run.

    Args:
        rate: maps per second.
        width: columns of the terminal; 0 for a line without a bar.
        encoding: of the terminal; None for UTF-8.
    """
    share = counts.share
    left = duration((counts.maps_total - counts.maps_done) / rate) if rate else "-"
    parts = [
        f"{counts.maps_done:.6g}/{counts.maps_total} maps",
        _percent(share),
        f"{rate:.3g} maps/s" if rate else "- maps/s",
        f"ETA {left}",
        f"chunks {len(counts.done)}/{num_chunks}, {len(counts.running)} running",
    ]
    if counts.merging:
        parts = [*parts[:2], "merging"]
    room = width - len(run) - sum(len(part) + 2 for part in parts) - 2
    bar = [draw_bar(share, min(room, 40), encoding)] if room >= 5 else []
    return "  ".join([run, *bar, *parts])[: width or None]


def draw_bar(share: float, width: int, encoding: str | None = None) -> str:
    """A bar of `width` columns, in plain ASCII if the encoding has no blocks."""
    full, (done, left) = int(share * width), "█░"
    try:
        (done + left).encode(encoding or "utf-8")
    except UnicodeEncodeError:
        done, left = "#-"
    return done * full + left * (width - full)


def _percent(share: float) -> str:
    """100 % only when all is done."""
    return f"{int(share * 1000) / 10:.3g} %"


def _job_text(job: JobState) -> str:
    where = f"{job.host} pid {job.pid}" + (f" job {job.job}" if job.job else "")
    done = f"{job.maps:.4g}/{job.total} maps" if job.total else "starting"
    rate = f", {job.rate:.3g} maps/s" if job.rate else ""
    return f"{job.name}  {done}{rate}  on {where}, {job.age_s:.0f} s ago"


def _section(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    return ["", f"{title}:", f"  {listed(entries, LISTED)}"]
