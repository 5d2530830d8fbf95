"""Processes that work for another one, and end when it ends, however that ends."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Called by a new worker: have Linux kill it once its parent is gone.

    A worker that outlives a killed job waits for ever for somebody to take what it has read. A
    forked one holds the job's locks meanwhile, and the job could not be started again.

    Args:
        parent: process id; the thread that started the worker must live as long as the process.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
