"""Nearest neighbours on CUDA devices, one thread per query."""

from functools import cache
from pathlib import Path

import torch

from cdm.kernels.nvrtc import Kernel, ints

SOURCE = Path(__file__).parent / "nearest_neighbours.cu"
THREADS = 128


def nearest_neighbours(xyz, queries, k):
    """Arguments and result as `cdm.kernels.nearest_neighbours.nearest_neighbours`, float32."""
    (batch, num_points, _), num_queries = xyz.shape, queries.shape[1]
    index = xyz.new_empty(batch, num_queries, k, dtype=torch.int64)
    distance = xyz.new_empty(batch, num_queries, k)
    _kernel(xyz.device.index, k)(
        (-(-num_queries // THREADS), batch), THREADS, xyz, queries, index, distance,
        *ints(num_points, num_queries),
    )  # fmt: skip
    return index, distance


@cache
def _kernel(device_index, k):
    return Kernel(SOURCE, "nearest_neighbours", device_index, K=k, THREADS=THREADS)
