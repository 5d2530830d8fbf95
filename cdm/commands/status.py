"""What a run is doing, from files alone (no torch).

A chunk is *done* once its record and its store are there. Of the others, those whose job renews
its heartbeat are *running*, those whose log ends in an error *failed*, and the rest *waiting*;
jobs that were cut off leave a heartbeat that no longer beats, and their chunks wait again.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdm.archive.store import read_record
from cdm.commands.pace import measure_pace
from cdm.errors import ArchiveError
from cdm.files import is_sealed, list_names
from cdm.jobs.progress import Beat, duration, read_beats
from cdm.run.plan import Plan

LOGS = Path("logs", "generate_chunk")
LISTED = 10  # lines of a kind before "... and N more"
ERROR = re.compile(r"^(?:\d\d:\d\d:\d\d )?error: (.*)\Z", re.MULTILINE | re.DOTALL)
REASON = b'"reason":'  # as a key: quotes inside a JSON string are escaped


@dataclass
class Counts:
    """How far a run is; cheap enough to be asked every second.

    Attributes:
        done: names of finished chunks.
        running: beats of the jobs that generate chunks of this plan.
        merging: beat of a running merge.
        cut_off: beats that stopped without an end.
        maps_done: maps of finished chunks and of running ones (these are fractional).
        maps_total: maps of the whole plan.
    """

    done: set[str]
    running: list[Beat]
    merging: Beat | None
    cut_off: list[Beat]
    maps_done: float
    maps_total: int

    @property
    def rate(self) -> float:
        """Maps per second of the running jobs together, by what they say."""
        return sum(beat.rate for beat in self.running)


@dataclass
class Status:
    """Everything `status` shows; see `Counts`.

    Attributes:
        failed: chunk, error, log of each failed chunk.
        waiting: number of chunks that wait.
        skipped: set, index, caption_idx, reason and chunk of every sample without a map.
        damaged: what is wrong with records that cannot be read.
        maps_per_second: of the running jobs together; None while none runs.
        map_seconds: seconds of one map on one device, by finished chunks; None before one is.
        gpu_busy: share 0 to 1, or None where the records do not tell.
        eta_seconds: until the last chunk is done, at the present rate; None while none runs.
        archive: "merged", "merging", "of an earlier plan" or "not merged".
    """

    run: str
    num_samples: int
    num_chunks: int
    k_samples: int
    counts: Counts
    failed: list[dict[str, str]] = field(default_factory=list)
    waiting: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    maps_per_second: float | None = None
    map_seconds: float | None = None
    gpu_busy: float | None = None
    eta_seconds: float | None = None
    archive: str = "not merged"

    def as_dict(self) -> dict[str, Any]:
        """JSON types, for `--json`."""
        counts, rate = self.counts, self.maps_per_second

        def job(beat: Beat) -> dict[str, Any]:
            shown = ("name", "host", "pid", "job", "maps", "total", "rate")
            return {key: getattr(beat, key) for key in shown} | {"age_s": round(beat.age_s, 1)}

        return {
            "run": self.run,
            "samples": self.num_samples,
            "maps": {"done": round(counts.maps_done, 2), "total": counts.maps_total},
            "chunks": {
                "total": self.num_chunks,
                "done": len(counts.done),
                "running": len(counts.running),
                "failed": len(self.failed),
                "waiting": self.waiting,
            },
            "maps_per_second": rate,
            "samples_per_second": None if rate is None else rate / self.k_samples,
            "seconds_per_map": self.map_seconds,
            "gpu_busy": self.gpu_busy,
            "eta_seconds": self.eta_seconds,
            "running": [job(beat) for beat in counts.running],
            "cut_off": [job(beat) for beat in counts.cut_off],
            "failed": self.failed,
            "skipped": self.skipped,
            "damaged": self.damaged,
            "archive": self.archive,
        }


def count(plan: Plan, run: str | Path) -> Counts:
    """Look at the names of the chunks and at the heartbeats."""
    k, names = plan.config.sampling.k_samples, list_names(Path(run, "chunks"))
    done, maps = set(), 0.0
    for chunk in plan.chunks:
        if f"{chunk.name}.json" in names and f"{chunk.name}.zarr" in names:
            done.add(chunk.name)
            maps += (chunk.stop - chunk.start) * k
    beats = read_beats(run)
    merging = beats.pop("merge", None)
    undone = {chunk.name for chunk in plan.chunks} - done if beats else set()
    mine = [beat for name, beat in beats.items() if name in undone]
    running = [beat for beat in mine if beat.is_alive]
    return Counts(
        done=done,
        running=running,
        merging=merging if merging and merging.is_alive else None,
        cut_off=[beat for beat in mine if not beat.is_alive],
        maps_done=maps + sum(beat.maps for beat in running),
        maps_total=plan.num_samples * k,
    )


def read_status(plan: Plan, run: str | Path) -> Status:
    """All that can be said of a run.

    Args:
        plan: as the run's start wrote it (`cdm.run.plan.read_plan`).
        run: the run's folder, `outputs/{exp_name}`.
    """
    counts = count(plan, run)
    status = Status(
        str(run), plan.num_samples, len(plan.chunks), plan.config.sampling.k_samples, counts
    )
    running = {beat.name for beat in counts.running}
    logs = list_names(Path(run, LOGS)) if len(counts.done) < len(plan.chunks) else set()
    for chunk in plan.chunks:
        if chunk.name in counts.done:
            _look_into(Path(run, "chunks", f"{chunk.name}.json"), status)
        elif chunk.name not in running:
            log = Path(run, LOGS, f"{chunk.name}.log")
            error = last_error(log) if log.name in logs else None
            if error:
                status.failed.append({"chunk": chunk.name, "error": error, "log": str(log)})
    status.waiting = len(plan.chunks) - len(counts.done) - len(running) - len(status.failed)

    pace = measure_pace(plan, run)
    if pace:
        status.map_seconds, status.gpu_busy = pace.map_s, pace.gpu_busy
    if counts.running:
        # A job that still loads has no rate of its own.
        usual = 1 / pace.map_s if pace else 0.0
        rate = sum(beat.rate or usual for beat in counts.running)
        status.maps_per_second = rate
        status.eta_seconds = (counts.maps_total - counts.maps_done) / rate if rate else None
    status.archive = _archive_state(plan, Path(run), counts)
    return status


def last_error(log: Path) -> str | None:
    """The error a job's log ends with, or None."""
    text = read_tail(log)
    found = ERROR.search(text)
    if found:
        return found[1]
    return text.splitlines()[-1] if "Traceback (most recent call last)" in text else None


def read_tail(log: Path) -> str:
    """The last lines of a log; empty where there is none."""
    with suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
        return file.read().decode("utf-8", "replace").strip()
    return ""


def _look_into(path: Path, status: Status) -> None:
    """Skipped samples of a finished chunk; whole records are read only where there are some."""
    try:
        content = path.read_bytes()
        if REASON in content or not is_sealed(content):
            for row in read_record(path).skipped:
                kept = {key: row.get(key) for key in ("set", "index", "caption_idx", "reason")}
                status.skipped.append(kept | {"chunk": path.stem})
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


def describe_status(status: Status, width: int = 80) -> str:
    """The status as text."""
    counts, rate = status.counts, status.maps_per_second
    share = counts.maps_done / counts.maps_total
    table = {
        "done": len(counts.done),
        "running": len(counts.running),
        "failed": len(status.failed),
        "waiting": status.waiting,
    }
    by_chunks = f"{1 / status.map_seconds:.3g} by finished chunks" if status.map_seconds else ""
    now = f"{rate:.3g} maps/s now" if rate else ""
    speed = ", ".join(filter(None, [now, by_chunks and f"{by_chunks} (maps/s of one device)"]))
    busy = "-" if status.gpu_busy is None else f"{100 * status.gpu_busy:.0f} %"
    left = "-" if status.eta_seconds is None else f"about {duration(status.eta_seconds)}"
    lines = [
        f"{status.run}: {status.num_samples} samples in {status.num_chunks} chunks",
        f"{draw_bar(share, max(10, min(width, 80) - 30))} "
        f"{counts.maps_done:.6g}/{counts.maps_total} maps, {_percent(share)}",
        "",
        "chunks     " + "   ".join(f"{number} {name}" for name, number in table.items()),
        f"speed      {speed or '-'}",
        f"GPU busy   {busy}",
        f"time left  {left}",
        f"skipped    {len(status.skipped)} sample(s)",
        f"archive    {status.archive}",
    ]
    lines += _section("running", [_job(beat) for beat in counts.running])
    lines += _section(
        "cut off; the chunk starts anew with the next run", [_job(beat) for beat in counts.cut_off]
    )
    failed = [f"{f['chunk']}: {f['error']}\n    log: {f['log']}" for f in status.failed]
    lines += _section("failed", failed)
    lines += _section("damaged records", status.damaged)
    skipped = [
        f"{s['set']}/{s['index']} caption {s['caption_idx']}: {s['reason']}" for s in status.skipped
    ]
    lines += _section("skipped", skipped)
    return "\n".join(lines) + "\n"


def progress_line(run: str, counts: Counts, rate: float, num_chunks: int, width: int = 0) -> str:
    """One line on the whole job, with a bar where `width` columns are given."""
    share = counts.maps_done / counts.maps_total
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
    bar = [draw_bar(share, min(room, 40))] if room >= 5 else []
    return "  ".join([run, *bar, *parts])[: width or None]


def draw_bar(share: float, width: int) -> str:
    """A bar of `width` columns."""
    full = int(share * width)
    return "█" * full + "░" * (width - full)


def _percent(share: float) -> str:
    """100 % only when all is done."""
    return f"{int(share * 1000) / 10:.3g} %"


def _job(beat: Beat) -> str:
    where = f"{beat.host} pid {beat.pid}" + (f" job {beat.job}" if beat.job else "")
    done = f"{beat.maps:.4g}/{beat.total} maps" if beat.total else "starting"
    rate = f", {beat.rate:.3g} maps/s" if beat.rate else ""
    return f"{beat.name}  {done}{rate}  on {where}, {beat.age_s:.0f} s ago"


def _section(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    more = [f"  ... and {len(entries) - LISTED} more"] if len(entries) > LISTED else []
    return ["", f"{title}:", *(f"  {entry}" for entry in entries[:LISTED]), *more]
