"""A clock that says when some seconds have passed (no torch)."""

import time


class Every:
    """Says at most once in so many seconds that something is due.

    Args:
        seconds: between two times that `due` is True; the first comes that long after the start.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.restart()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the last time that it was due, or since the start."""
        return time.perf_counter() - self._last

    def due(self) -> bool:
        """Whether the seconds have passed; if so, they begin again."""
        if self.elapsed_s < self.seconds:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Let the seconds begin again now."""
        self._last = time.perf_counter()
