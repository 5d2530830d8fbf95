"""What a job tells: lines in its log file and on the terminal, and errors without tracebacks."""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cdm.errors import CDMError
from cdm.files import explain_os_error

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # preemption, scancel, time limit; Ctrl-C
GRACE_S = 5.0  # for the main thread to clean up, before the process ends without it


@contextmanager
def job_log(path: str) -> Iterator[Callable[[str], None]]:
    """Yield `log(line)`; a `CDMError` ends the process with its message and exit status 1.

    SIGTERM and SIGINT end it within seconds, with one line and exit status 128 + signal.

    Args:
        path: log file, started anew; each line carries the time of day.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "wb", buffering=0)
    except OSError as error:
        sys.exit(f"error: {explain_os_error(error, Path(path))}")

    def log(line: str) -> None:
        with suppress(OSError):  # a full disk must not hide what there is to say
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n".encode())
        print(line, file=sys.stderr, flush=True)

    with file, _ended_by_signals(log):
        try:
            yield log
        except CDMError as error:
            log(f"error: {error}")
            sys.exit(1)
        except Exception:
            with suppress(OSError):
                file.write(traceback.format_exc().encode())
            raise


@contextmanager
def signals_wait() -> Iterator[Callable[[], None]]:
    """Hold SIGTERM and SIGINT back; yields a function that lets through what has come.

    For the main thread, around work that must not be left anywhere. What is ignored stays so.
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
def _ended_by_signals(log: Callable[[str], None]) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into SystemExit, so that what is half written is removed.

    Python raises it once the main thread is back from C, which a kernel or a slow disk may delay.
    A thread beside it tells at once what happens, and ends the process where that takes too long:
    a temporary that stays behind is removed by the next attempt.
    """
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    told = threading.Event()

    def leave(number: int, _) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # let the cleaning up be
        told.wait(1)
        sys.exit(128 + number)

    def watch() -> None:
        while number := woken.recv(1):
            if number[0] in SIGNALS:
                log(
                    f"stopped by {signal.Signals(number[0]).name}: nothing half-written is kept, "
                    "finished chunks are; run the same snakemake command again to go on"
                )
                told.set()
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
