"""Work on other CPU threads: spread over them, so that their number cannot change a bit, or ahead.

A parallel GEMM or reduction may split its sums by the number of threads. Here the caller fixes
the pieces, and each piece runs on one thread, with torch's own parallelism off.
"""

import os
import queue
import threading
from collections.abc import Iterable, Iterator
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


def ahead(items: Iterable, depth: int = 2) -> Iterator:
    """The items, made in a thread of their own while the caller works on earlier ones.

    An exception there is raised here, in its turn. A caller that stops early stops the thread.

    Args:
        depth: items that wait at most.
    """
    waiting: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(*entry):
        while not stopped.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work():
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    threading.Thread(target=work, name="ahead", daemon=True).start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
