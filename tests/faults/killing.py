"""Run a function in a process that is killed right before its n-th call that changes the disk."""

import os
import signal
import threading
from pathlib import Path

from forked import server

from cdm.files import whole

CALLS = ("fsync", "link", "mkdir", "rename", "replace", "rmdir", "unlink")


def disk_calls(folder: Path, function, *arguments) -> list[tuple[str, str]]:
    """(call, its last path) of every call that changes the disk, in order."""
    receiver, sender = server().Pipe(duplex=False)
    _start(None, sender, folder, function, arguments)
    sender.close()
    calls = []
    while True:
        try:
            calls.append(receiver.recv())
        except EOFError:
            return calls


def killed_at_call(number: int, folder: Path, function, *arguments) -> bool:
    """Call a function in `folder`, in a process that dies by SIGKILL before its n-th call.

    Returns:
        True if it was killed, False if it ended before its call of that number.
    """
    process = _start(number, None, folder, function, arguments)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def _start(*arguments):
    process = server().Process(target=_run, args=arguments)
    process.start()
    return process


def _run(number, sender, folder, function, arguments):
    os.chdir(folder)
    counting = threading.Lock()
    count = 0

    def watched(name, call):
        def wrapper(*args, **kwargs):
            nonlocal count
            with counting:
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                if sender is not None:
                    paths = [arg for arg in args[:2] if isinstance(arg, str | os.PathLike)]
                    sender.send((name, str(paths[-1]) if paths else ""))
            return call(*args, **kwargs)

        return wrapper

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    whole._exchange = watched("exchange", whole._exchange)  # the system's, which os does not have
    function(*arguments)
