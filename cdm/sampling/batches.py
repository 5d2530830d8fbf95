"""Batches of maps: how they are formed, what they hold, and how they are made ahead of time."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
        fields = self.keys, self.c_text, self.c_pc_xyz, self.c_pc_feat
        return Batch(*[None if x is None else x[start:stop] for x in fields])


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
