"""What a job writes to its log file and to the terminal, and how its log is read again.

The last line of a log tells how the job ended. It is written and read here, and nowhere else.
"""

import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cdm.errors import CDMError, RunEnded, printable
from cdm.files import explain_os_error

Log = Callable[[str], None]  # takes one line of text

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # preemption, scancel, time limit; Ctrl-C
GRACE_S = 5.0  # for the main thread to clean up, before the process ends without it
TAIL_BYTES = 8192  # of a log, in which its last lines are looked for

FAILED, STOPPED, FINISHED = "error", "stopped by", "finished"
_CLOCK = r"\d\d:\d\d:\d\d"
_ERROR = re.compile(rf"^(?:{_CLOCK} )?{FAILED}: (.*)\Z", re.MULTILINE | re.DOTALL)
_LAST_LINE = re.compile(rf"{_CLOCK} ({STOPPED}|{FINISHED})\b")


@contextmanager
def job_log(path: str, summary: Callable[[], str] | None = None) -> Iterator[Log]:
    """Yield `log(line)`; a `CDMError` ends the process with its message and exit status 1.

    SIGTERM and SIGINT end it within seconds, with one line and exit status 128 + signal. The last
    line tells how the job ended (`read_ending`).

    Args:
        path: log file, started anew; each line carries the time of day.
        summary: what the last line of a job that finished says besides.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        _remove_link(Path(path))
        file = open(path, "wb", buffering=0)
    except OSError as error:
        sys.exit(printable(f"error: {explain_os_error(error, Path(path))}"))

    def write(line: str) -> None:
        with suppress(OSError):  # a full disk must not hide what there is to say
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n".encode())

    def log(line: str) -> None:
        line = printable(line)
        write(line)
        print(printable(line, sys.stderr.encoding), file=sys.stderr, flush=True)

    with file, _ended_by_signals(log):
        try:
            yield log
            write(f"{FINISHED}: {summary()}" if summary else FINISHED)
        except RunEnded as error:
            log(f"{STOPPED} the end of its run: {error}")
            sys.exit(1)
        except CDMError as error:
            log(f"{FAILED}: {error}")
            sys.exit(1)
        except Exception:
            with suppress(OSError):
                file.write(printable(traceback.format_exc()).encode())
            raise


def leave() -> NoReturn:
    """End the process now, with exit status 0, once all it had to write is written.

    The usual end takes torch and CUDA apart piece by piece, which costs about a second. The system
    does the same at once: memory, sockets and the GPU are freed with the process. Files must be
    closed before; nothing that was registered with `atexit` is called.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or a pipe that nobody reads
            stream.flush()
    os._exit(0)


def _remove_link(path: Path) -> None:
    """Remove a symbolic link at a log's path: opening it would truncate the file it points to."""
    if path.is_symlink():
        path.unlink()


# --- reading a log -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How a job ended, by the end of its log.

    Attributes:
        kind: FAILED, STOPPED, FINISHED, or "" where the log breaks off: the job runs, was killed,
            or was of a version that wrote no last line.
        error: the message of a job that failed; otherwise "".
    """

    kind: str
    error: str = ""


def read_ending(log: Path) -> Ending | None:
    """How the job of a log ended; None if there is no log."""
    if not log.is_file():  # a pipe in its place would be waited for
        return None
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace").strip()
    except OSError:
        return None
    lines = text.splitlines()
    found = _ERROR.search(text)
    if found:
        return Ending(FAILED, found[1])
    if "Traceback (most recent call last)" in text:
        return Ending(FAILED, lines[-1])
    last = _LAST_LINE.match(lines[-1]) if lines else None
    return Ending(last[1] if last else "")


# --- signals -------------------------------------------------------------------------------------


@contextmanager
def signals_wait() -> Iterator[Callable[[], None]]:
    """Hold SIGTERM and SIGINT back; yields a function that lets through what has come.

    The main thread uses it around work that must not be left halfway. A signal that the process
    ignores stays ignored.
    """
    came: list[int] = []
    before = {
        each: signal.signal(each, lambda number, _: came.append(number))
        for each in SIGNALS
        if signal.getsignal(each) != signal.SIG_IGN
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def let_through() -> None:
        if came:
            restore()
            signal.raise_signal(came[0])

    try:
        yield let_through
    finally:
        restore()


@contextmanager
def _ended_by_signals(log: Log) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into SystemExit, so that what is half written is removed.

    Python raises it once the main thread is back from C code, which a kernel or a slow disk may
    delay. A second thread therefore tells at once what happens, and ends the process if that takes
    too long. The next attempt removes a temporary that stays behind.
    """
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    announced = threading.Event()

    def leave(number: int, _) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # a second signal must not disturb the cleaning up
        announced.wait(1)
        sys.exit(128 + number)

    def watch() -> None:
        with woken:
            while number := woken.recv(1):
                if number[0] in SIGNALS:
                    log(
                        f"{STOPPED} {signal.Signals(number[0]).name}: nothing half-written is "
                        "kept, finished chunks are; run the same snakemake command again to go on"
                    )
                    announced.set()
                    time.sleep(GRACE_S)
                    os._exit(128 + number[0])

    threading.Thread(target=watch, daemon=True).start()
    before = {each: signal.signal(each, leave) for each in SIGNALS}
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        wake.close()
