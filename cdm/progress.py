"""How far a chunk is: seconds of each phase, and lines with maps done, rate and time left."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

Log = Callable[[str], None]
REPORT_EVERY_S = 5.0


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
class Progress:
    """Logs maps done, maps per second and the time left, every few seconds."""

    total: int
    name: str
    log: Log
    finished: int = 0

    def __post_init__(self):
        self.started = self.reported = time.perf_counter()

    def start_batch(self, num_steps: int, size: int) -> None:
        """A batch of `size` maps begins, of `num_steps` denoising steps."""
        self.num_steps, self.steps, self.size = num_steps, 0, size

    def step(self, *_) -> None:
        """One denoising step of the batch is done; matches the sampler's callback."""
        self.steps += 1
        if time.perf_counter() - self.reported >= REPORT_EVERY_S:
            self._report(self.finished + self.size * self.steps / self.num_steps)

    def done(self, size: int) -> None:
        """A batch is done."""
        self.finished += size
        self._report(self.finished)

    def _report(self, maps: float) -> None:
        self.reported = time.perf_counter()
        rate = maps / (self.reported - self.started)
        left = round((self.total - maps) / rate) if rate else 0
        eta = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        self.log(f"chunk {self.name}: {maps:.4g}/{self.total} maps, {rate:.3g} maps/s, ETA {eta}")
