"""One bar for the whole run on a terminal, plain lines anywhere else (no torch).

The bar keeps the last line of the terminal to itself, and all other text scrolls above it, as apt
does. It is drawn from the same files that `cdm status` reads. So it also shows jobs that
run on a cluster. A notebook, a logger plugin of Snakemake or CDM_PROGRESS=plain get plain lines.
"""

import atexit
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from cdm.commands.status import count, progress_line
from cdm.errors import printable
from cdm.jobs.every import Every
from cdm.run.plan import Plan

DRAW_EVERY_S = 1.0
LINE_EVERY_S = 60.0


class LiveProgress:
    """Shows how far a run is, from `start` to `stop`, in its own thread.

    Args:
        plan: of the run that now begins.
        stream: the terminal, or the file that the messages of the run go to.
        has_logger: whether a logger plugin of Snakemake is at work (`snakemake --logger rich`).
            Such a plugin may draw on the terminal itself, so plain lines are written then.
    """

    def __init__(self, plan: Plan, stream: TextIO, has_logger: bool = False):
        self.plan, self.stream = plan, stream
        bar = is_terminal(stream) and not has_logger and not wants_plain(os.environ)
        self.line = BottomLine(stream) if bar else None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="live progress", daemon=True)

    def start(self) -> None:
        """Begin to show."""
        atexit.register(self.stop)
        self._thread.start()

    def stop(self) -> None:
        """Give the terminal back; may be called again."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        with suppress(OSError, ValueError):  # the terminal was closed; the run goes on
            self._show_until_ended()

    def _show_until_ended(self) -> None:
        meter, next_line = Meter(self.plan), Every(LINE_EVERY_S)
        while not self._ended.wait(max(DRAW_EVERY_S, 20 * meter.cost_s)):
            meter.measure()
            if self.line:
                self.line.draw(meter.text(self.line.width, self.stream.encoding))
            elif next_line.due():
                print(printable(meter.text(), self.stream.encoding), file=self.stream, flush=True)
        if self.line:
            self.line.close()


class Meter:
    """Counts what is done, again and again. Its rate is that of the run since the first count."""

    def __init__(self, plan: Plan, run: str | Path | None = None):
        self.plan, self.run = plan, run or plan.config.run_dir
        self.cost_s = 0.0
        self.measure()
        self.first, self.began = self.counts.maps_done, time.monotonic()

    def measure(self) -> None:
        """Count again."""
        started = time.monotonic()
        self.counts = count(self.plan, self.run)
        self.cost_s = time.monotonic() - started

    @property
    def rate(self) -> float:
        """Maps per second since the first count; before a map is done, what the jobs report."""
        gained, seconds = self.counts.maps_done - self.first, time.monotonic() - self.began
        return gained / seconds if gained > 0 and seconds > 0 else self.counts.rate

    def text(self, width: int = 0, encoding: str | None = None) -> str:
        """One line, with a bar if a width is given (`progress_line`)."""
        name, chunks = self.plan.config.exp_name, len(self.plan.chunks)
        return progress_line(name, self.counts, self.rate, chunks, width, encoding)


class BottomLine:
    """The last line of a terminal, which stays in place while the other lines scroll.

    Uses the scroll region of ECMA-48 terminals (DECSTBM); each change is one write, so that the
    output of other processes cannot come in between.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.size: os.terminal_size | None = None

    @property
    def width(self) -> int:
        """Columns that may be used."""
        return os.get_terminal_size(self.stream.fileno()).columns

    def draw(self, text: str) -> None:
        """Show a line of text in place of the one before."""
        size = os.get_terminal_size(self.stream.fileno())
        keep = ""
        if size != self.size:  # at first, and when the window was resized
            # Go one line down so that nothing stands in the last line, then take it out.
            keep = f"\n\0337\033[1;{size.lines - 1}r\0338\033[1A"
            self.size = size
        self._write(f"{keep}\0337\033[{size.lines};1H\033[2K{text[: size.columns]}\0338")

    def close(self) -> None:
        """Give the line back, empty."""
        if self.size:
            self._write(f"\0337\033[1;{self.size.lines}r\033[{self.size.lines};1H\033[2K\0338")
            self.size = None

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def is_terminal(stream: TextIO) -> bool:
    """Whether a bar can be drawn there: a terminal that knows its size."""
    if not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # the stream of a notebook may call itself a terminal
        return False
    return True


def wants_plain(environment: Mapping[str, str]) -> bool:
    """Whether plain lines were asked for, or the terminal is the cell of a notebook.

    IPython starts `!snakemake` on a pseudo terminal, and shows each redrawing as a line of its own.
    Its kernels set JPY_PARENT_PID (when Jupyter starts them) and the inline backend of matplotlib.
    """
    backend = environment.get("MPLBACKEND", "")
    return (
        environment.get("CDM_PROGRESS") == "plain"
        or "JPY_PARENT_PID" in environment
        or "inline" in backend
    )
