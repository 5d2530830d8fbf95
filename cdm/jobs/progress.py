"""How far a job is: seconds of each phase, lines in its log, and a heartbeat file (no torch).

A running job renews `running/{name}.json` every few seconds. That file is all that others see of
it: jobs may run on other machines that share nothing but the file system.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cdm.files import remove
from cdm.jobs.every import Every

Log = Callable[[str], None]

REPORT_EVERY_S = 5.0  # at most this often a line in the log, and at most 60 s apart
BEAT_EVERY_S = 3.0
STALE_S = 120.0  # network file systems show a change up to a minute late


class Clock:
    """Seconds spent in each named phase."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str):
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = round(time.perf_counter() - started, 3)


@dataclass
class Beat:
    """What a job last said of itself.

    Attributes:
        name: of the chunk, or "merge".
        host, pid, process_space: where it runs; pids of one process space can be looked up.
        job: the cluster scheduler's number, or "".
        started, updated: seconds since 1970, by the job's clock.
        maps, total: how many are done, and how many there will be.
        rate: maps per second since sampling began; 0 before.
        birth: when the process was started, in the system's own count: a pid may be used again.
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
        return self.birth in ("", _birth(self.pid))

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its process can be looked up from here."""
        return (self.host, self.process_space) == (socket.gethostname(), _process_space())


class Heartbeat:
    """Renews a job's beat while the `with` block runs, and removes it at the end.

    After a SIGKILL the file stays and grows old. A disk that refuses the file never stops the job.

    Args:
        run: the run's folder, `outputs/{exp_name}`.
        name: of the chunk, or "merge".
    """

    def __init__(self, run: str | Path, name: str):
        self.path = heartbeat_path(run, name)
        jobs = (os.environ.get(key) for key in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"))
        now = time.time()
        self.beat = Beat(
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_space=_process_space(),
            job=next(filter(None, jobs), ""),
            started=now,
            updated=now,
            birth=_birth(os.getpid()),
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
        self.beat.maps, self.beat.total, self.beat.rate = maps, total, rate

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_EVERY_S):
            self._write()

    def _write(self) -> None:
        self.beat.updated = time.time()
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(self.beat)), "utf-8")
            os.replace(temporary, self.path)  # whole or old; not fsynced, it is soon renewed


def heartbeat_path(run: str | Path, name: str) -> Path:
    """Where a job's beat lies."""
    return Path(run, "running", f"{name}.json")


def read_beats(run: str | Path) -> dict[str, Beat]:
    """The beats that lie in a run's folder, dead ones too, by name."""
    beats = {}
    for path in sorted(Path(run, "running").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):  # just removed, or not ours
            beats[path.stem] = Beat(**json.loads(path.read_bytes()))
    return beats


def _birth(pid: int) -> str:
    """When a process was started: the machine's boot and clock ticks since; "" if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Field 22 of the line; the second field is a name in brackets that may hold spaces.
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


def _process_space() -> str:
    """Tells containers of one machine apart, whose pids mean different processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


@dataclass
class Progress:
    """Logs maps done, maps per second and the time left: now and then, and at the end.

    Lines come at every tenth of the chunk or every minute, whichever is sooner.
    """

    total: int
    name: str
    log: Log
    heartbeat: Heartbeat | None = None
    finished: int = 0

    def __post_init__(self):
        self.started = time.perf_counter()
        self._last_line = Every(REPORT_EVERY_S)
        self._maps_logged = 0.0

    def start_batch(self, num_steps: int, size: int) -> None:
        """A batch of `size` maps begins, of `num_steps` denoising steps."""
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
        now = time.perf_counter()
        rate = maps / (now - self.started)
        if self.heartbeat:
            self.heartbeat.report(maps, self.total, rate)
        if last or self._due(maps):
            self._last_line.restart()
            self._maps_logged = maps
            eta = duration((self.total - maps) / rate)
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


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    left = round(seconds)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
