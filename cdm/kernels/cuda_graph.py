"""Record work on a CUDA device once, and replay it without Python."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import torch

Result = TypeVar("Result")


def capture(
    work: Callable[[], Result], device: torch.device | None = None
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Run `work` once, then run it again while a CUDA graph records its kernels.

    Args:
        work: launches the same kernels on the same tensors at every call, and waits for none.
        device: the CUDA device of these tensors; None: torch's current device.
    Returns:
        The graph, and what `work` returned while it was recorded: tensors that each replay
        overwrites.
    """
    with nullcontext() if device is None else torch.cuda.device(device):
        # The first run compiles kernels and lets libraries allocate what they keep; neither may
        # happen while a graph is recorded. It runs on a stream of its own, as torch requires.
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            work()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # "thread_local", because another thread prefetches items meanwhile: with the default
        # mode its calls to CUDA would end the capture with an error. A stream of its own, because
        # torch's usual one belongs to the device of the process's first capture.
        stream = torch.cuda.Stream()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = work()
    return graph, result
