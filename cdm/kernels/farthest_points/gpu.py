"""Farthest point sampling on CUDA devices, one block per cloud."""

from functools import cache
from pathlib import Path

import torch

from cdm.kernels.nvrtc import Kernel, ints

SOURCE = Path(__file__).parent / "farthest_points.cu"
# Threads of a block, and how many points a thread can keep in registers without spilling.
THREADS, POINTS = 512, 16


def farthest_points(xyz, num_samples):
    """Arguments and result as `cdm.kernels.farthest_points.farthest_points`, xyz float32."""
    batch, num_points, _ = xyz.shape
    taken = xyz.new_empty(batch, num_samples, dtype=torch.int64)
    threads = THREADS if num_points <= THREADS * POINTS else 1024
    points = 1
    while threads * points < num_points:
        points *= 2  # powers of two, so that few variants are compiled
    _kernel(xyz.device.index, threads, points)(
        (batch,), threads, xyz, taken, *ints(num_points, num_samples)
    )
    return taken


@cache
def _kernel(device_index, threads, points):
    return Kernel(SOURCE, "farthest_points", device_index, THREADS=threads, POINTS=points)
