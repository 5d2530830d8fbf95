"""Spread independent work over CPU threads, so that the thread count cannot change a bit.

A parallel GEMM or reduction may split its sums by the number of threads. Here the caller fixes
the pieces, and each piece runs on one thread, with torch's own parallelism off.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def map_threads(function, *columns):
    """`list(map(function, *columns))` on `torch.get_num_threads()` threads, in order.

    Work that is already on one of the threads stays there. Grad mode and autocast belong to a
    thread: `function` sets those it needs.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return list(map(function, *columns))
    return list(_pool(num_threads).map(function, *columns))


@cache
def _pool(num_threads):
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="cdm")
    started = threading.Barrier(num_threads + 1)

    def start():
        torch.get_num_threads()  # torch sets a thread up at its first use: let that come first
        torch.set_num_threads(1)
        started.wait()

    for _ in range(num_threads):
        pool.submit(start)
    started.wait()
    torch.set_num_threads(num_threads)  # the workers' call has also set what new threads get
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
