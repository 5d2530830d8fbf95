"""Work that a CUDA device repeats without asking Python again."""

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def capture(work: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Do a piece of work once, then record it as a CUDA graph.

    Args:
        work: launches the same kernels on the same tensors every time, and waits for none.
    Returns:
        The graph, and what `work` returned while it was recorded: tensors that hold values after
        a replay, and other ones after the next.
    """
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):  # kernels compile, libraries set themselves up
        work()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Items are read ahead in another thread, whose calls must not end the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = work()
    return graph, result
