"""How far a job is: seconds of each phase, lines in its log, and a heartbeat file (no torch).

A running job renews its heartbeat `running/{name}.json` every few seconds. Others learn of the job
from this file alone, because jobs may run on machines that share nothing but the file system.
"""

import contextlib
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from cdm.files import read_json, remove, typed
from cdm.jobs.every import Every
from cdm.jobs.log import Log
from cdm.jobs.machine import process_age_s, process_birth, process_space, scheduler_job

REPORT_EVERY_S = 5.0  # at most this often a line in the log, and at most 60 s apart
BEAT_EVERY_S = 3.0
YEAR_9999_S = 253_402_300_800.0  # seconds since 1970
STALE_S = 120.0  # network file systems show a change up to a minute late


class Clock:
    """Measures the seconds spent in each named phase: `with clock("load"): ...`.

    A phase that is entered twice counts both times. The phase `start` is what passed between the
    start of the process and that of the clock: Python itself, and what Snakemake puts before a
    script.

    Attributes:
        seconds: phase -> seconds, to a thousandth.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @classmethod
    def of_process(cls) -> Self:
        """A clock that began with this process, whose first phase is `start`."""
        clock, age_s = cls(), process_age_s()
        if age_s is not None:
            clock.seconds["start"] = round(age_s, 3)
            clock._began -= age_s
        return clock

    @property
    def total_s(self) -> float:
        """Seconds since the clock began."""
        return time.perf_counter() - self._began

    @property
    def other_s(self) -> float:
        """Seconds since the clock began that are in no phase."""
        return max(0.0, self.total_s - sum(self.seconds.values()))

    def summary(self) -> str:
        """All phases in one line, such as "9.1 s: import 2.0, sample 7.0, other 0.1"."""
        phases = self.seconds | {"other": self.other_s}
        parts = (f"{phase} {seconds:.1f}" for phase, seconds in phases.items())
        return f"{self.total_s:.1f} s: {', '.join(parts)}"

    @contextmanager
    def __call__(self, phase: str):
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(phase, 0.0) + time.perf_counter() - started
            self.seconds[phase] = round(spent, 3)


@dataclass
class JobState:
    """What a job last wrote about itself.

    Attributes:
        name: of the chunk, or "merge".
        host, pid, process_space: where it runs; pids of one process space can be looked up.
        job: the cluster scheduler's number, or "".
        started, updated: seconds since 1970, by the job's clock.
        maps, total: how many are done, and how many there will be.
        rate: maps per second since sampling began; 0 before.
        birth: when the process was started, in the system's own count: a pid may be used again.
        has_turn: whether it has its turn and its device; before, it gets ready or stands by.
    """

    name: str
    host: str
    pid: int
    process_space: str
    job: str
    started: float
    updated: float
    maps: float = 0.0
    total: int = 0
    rate: float = 0.0
    birth: str = ""
    has_turn: bool = True

    def __post_init__(self):
        counts = 0 <= self.maps <= self.total and 0 <= self.rate
        if not (counts and self.pid > 0 and 0 <= self.updated < YEAR_9999_S):
            raise ValueError("a number in it is out of range")

    @property
    def age_s(self) -> float:
        """Seconds since it was renewed."""
        return max(0.0, time.time() - self.updated)

    @property
    def is_alive(self) -> bool:
        """Whether the job still runs, as far as one can see from here.

        A process of this machine is looked up. It lives even if it has been silent for hours: it
        may have been stopped (Ctrl-Z), or its clock may have been set. Of other machines only the
        age of the beat tells.
        """
        if not self.is_of_this_machine:
            return self.age_s <= STALE_S
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # another user's
        return self.birth in ("", process_birth(self.pid))

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its process can be looked up from here."""
        return (self.host, self.process_space) == (socket.gethostname(), process_space())


class Heartbeat:
    """Writes a job's state every few seconds while the `with` block runs; removes it at the end.

    After a SIGKILL the file stays and is not renewed any more. A disk that refuses the file never
    stops the job.

    Args:
        run: the run's folder, `outputs/{exp_name}`.
        name: of the chunk, or "merge".
    """

    def __init__(self, run: str | Path, name: str):
        self.path = heartbeat_path(run, name)
        now = time.time()
        self.state = JobState(
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_space=process_space(),
            job=scheduler_job(),
            started=now,
            updated=now,
            birth=process_birth(os.getpid()),
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            remove(self.path)

    def report(self, maps: float, total: int, rate: float) -> None:
        """Say how far the job is; written with the next beat."""
        self.state.maps, self.state.total, self.state.rate = min(maps, total), total, rate

    def report_turn(self, has_turn: bool) -> None:
        """Say whether the job has its turn; written with the next beat."""
        self.state.has_turn = has_turn

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_EVERY_S):
            self._write()

    def _write(self) -> None:
        self.state.updated = time.time()
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(self.state)), "utf-8")
            os.replace(temporary, self.path)  # whole or old; not fsynced, it is soon renewed


def heartbeat_path(run: str | Path, name: str) -> Path:
    """Where a job's beat lies."""
    return Path(run, "running", f"{name}.json")


def read_job_states(run: str | Path) -> dict[str, JobState]:
    """The states that lie in a run's folder, by name; those of jobs that ended without a word too.

    A file that is no job's state counts as not there. So does one that is removed meanwhile.
    """
    states = {}
    for path in sorted(Path(run, "running").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            states[path.stem] = typed(JobState, read_json(path))
    return states


class Progress:
    """Logs how many maps are done, how many per second, and the time left.

    Args:
        total: maps there will be.
        name: begins each line.
        log: gets the lines: now and then (see `_due`), and one at the end.
        heartbeat: gets the same numbers after each denoising step.
    """

    def __init__(self, total: int, name: str, log: Log, heartbeat: Heartbeat | None = None):
        self.total, self.name, self.log, self.heartbeat = total, name, log, heartbeat
        self.finished = 0
        self.num_steps, self.steps, self.size = 1, 0, 0  # of the present batch
        self.started = time.perf_counter()
        self._sampling = False
        self._last_line = Every(REPORT_EVERY_S)
        self._maps_logged = 0.0

    def start_batch(self, num_steps: int, size: int) -> None:
        """A batch of `size` maps begins, of `num_steps` denoising steps.

        The rate counts from the first batch on: what a job does before it says nothing of the maps
        that are left.
        """
        if not self._sampling:
            self._sampling, self.started = True, time.perf_counter()
        self.num_steps, self.steps, self.size = num_steps, 0, size

    def step(self, *_) -> None:
        """One denoising step of the batch is done; matches the sampler's callback."""
        self.steps += 1
        self._report(self.finished + self.size * self.steps / self.num_steps)

    def done(self, size: int) -> None:
        """A batch is done."""
        self.finished += size
        self._report(self.finished, last=self.finished >= self.total)

    def _report(self, maps: float, last: bool = False) -> None:
        rate = per_second(maps, time.perf_counter() - self.started)
        if self.heartbeat:
            self.heartbeat.report(maps, self.total, rate)
        if last or self._due(maps):
            self._last_line.restart()
            self._maps_logged = maps
            eta = duration((self.total - maps) / rate) if rate else "-"
            self.log(f"{self.name}: {maps:.4g}/{self.total} maps, {rate:.3g} maps/s, ETA {eta}")

    def _due(self, maps: float) -> bool:
        """Whether to log a line now.

        The first line comes after REPORT_EVERY_S seconds. Later ones come with every tenth of
        the maps, but not closer together than that, and at least once a minute.
        """
        silent_s = self._last_line.elapsed_s
        if silent_s < REPORT_EVERY_S:
            return False
        is_first = self._maps_logged == 0
        return is_first or silent_s >= 60 or maps - self._maps_logged >= self.total / 10


def per_second(count: float, seconds: float) -> float:
    """A rate; 0 if no time passed, as a rounded or a coarse clock may say."""
    return count / seconds if seconds > 0 else 0.0


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:02:03; "-" for what no clock can count to."""
    if not 0 <= seconds < YEAR_9999_S:
        return "-"
    left = round(seconds)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
