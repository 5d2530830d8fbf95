"""Farthest point sampling for CPUs, compiled by numba."""

from functools import cache

import numpy as np
import torch

from cdm.kernels.farthest_points.naive import NONE_YET
from cdm.kernels.threads import map_threads
from cdm.kernels.vector_math import as_int, compile_kernel


def farthest_points(xyz, num_samples):
    """Arguments and result as `cdm.kernels.farthest_points.farthest_points`, xyz float32."""
    taken = torch.empty(len(xyz), num_samples, dtype=torch.int64)
    kernel = _compile()

    def take(cloud, out):
        kernel(cloud.t().contiguous().numpy(), out.numpy())

    map_threads(take, xyz, taken)
    return taken


@cache
def _compile():
    far = np.float32(NONE_YET)

    def take(xyz, taken):
        x, y, z = xyz
        num_points = len(x)
        nearest = np.full(num_points, far, np.float32)
        last = 0
        for i in range(len(taken)):
            taken[i] = last
            px, py, pz = x[last], y[last], z[last]
            top = np.int32(-1)
            for j in range(num_points):
                dx, dy, dz = x[j] - px, y[j] - py, z[j] - pz
                d = (dx * dx + dy * dy) + dz * dz
                d = d if d < nearest[j] else nearest[j]
                nearest[j] = d
                # Floats >= 0 have the order of their bits, and LLVM vectorises an integer maximum.
                bits = as_int(d)
                top = bits if bits > top else top
            last = 0
            while last < num_points - 1 and as_int(nearest[last]) != top:
                last += 1

    return compile_kernel(take, contract=False)
