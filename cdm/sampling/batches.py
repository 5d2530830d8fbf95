"""Batches of maps: how they are formed, what they hold, and how they are made ahead of time."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch


def batches(maps: Iterable, batch_size: int) -> Iterator[list]:
    """Group maps into lists of batch_size; the last list may be shorter."""
    batch = []
    for entry in maps:
        batch.append(entry)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(frozen=True)
class Batch:
    """The inputs of a batch of maps, in main memory; pinned memory if the batch goes to a GPU.

    Attributes:
        keys: (batch, 2) int64, the keys of each map's noise (`cdm.noise.stream_key`).
        c_text: (batch, text_feat_dim) float32, on the model's device.
        c_pc_xyz: (batch, num_points, 3) float32, metres.
        c_pc_feat: (batch, num_points, point_feat_dim) float32; None if the model takes none.
    """

    keys: torch.Tensor
    c_text: torch.Tensor
    c_pc_xyz: torch.Tensor
    c_pc_feat: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, start: int, stop: int) -> "Batch":
        """The maps from start up to, and without, stop."""
        feat = self.c_pc_feat
        return Batch(
            self.keys[start:stop],
            self.c_text[start:stop],
            self.c_pc_xyz[start:stop],
            None if feat is None else feat[start:stop],
        )


class ReadAhead:
    """Iterates over function(entry) of each entry, in order, which threads compute ahead.

    The threads begin at once, before the first result is asked for. An exception is raised in
    place of the result whose function call raised it.

    Args:
        function: may be called in several threads at a time.
        entries: what it is called with.
        threads: how many.
        ahead: results that may wait for the caller.
    """

    def __init__(self, function: Callable, entries: Iterable, threads: int, ahead: int):
        self._function, self._entries = function, iter(entries)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read ahead")
        self._waiting: deque[Future] = deque()
        for _ in range(ahead):
            self._submit_next()

    def __iter__(self) -> Iterator[Any]:
        try:
            while self._waiting:
                result = self._waiting.popleft().result()
                self._submit_next()
                yield result
        finally:
            self.close()

    def close(self) -> None:
        """Stop to read; what is being computed is thrown away."""
        self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit_next(self) -> None:
        for entry in self._entries:
            self._waiting.append(self._pool.submit(self._function, entry))
            return


def prefetch(items: Iterable, depth: int = 2) -> Iterator:
    """Iterate over items, which a thread makes while the caller works on earlier ones.

    An exception of `items` is raised here, in place of the item that failed. A caller that stops
    early (closes this iterator) stops the thread too.

    Args:
        depth: how many finished items may wait for the caller.
    """
    # The thread: puts pairs (item, None), and at its end (None, error).
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

    threading.Thread(target=work, name="prefetch", daemon=True).start()

    # The caller.
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
