"""Map a function over CPU threads, with results that do not depend on how many there are.

A parallel matrix product or reduction may split its sums by the number of threads. Therefore the
caller fixes the pieces here, and each piece runs on one thread with torch's own parallelism off.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def map_threads(function, *columns):
    """`list(map(function, *columns))` on `torch.get_num_threads()` threads; results keep the order.

    A call from one of these threads runs in that thread. Grad mode and autocast are settings of a
    thread, so `function` must set those it needs.
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
        # torch initialises a thread at its first use and would then overwrite the setting below.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    for _ in range(num_threads):
        pool.submit(start)
    started.wait()
    # The workers' calls also changed the default of threads started later: set it back.
    torch.set_num_threads(num_threads)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
