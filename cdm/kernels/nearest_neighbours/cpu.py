"""Nearest neighbours for CPUs, compiled by numba.

All distances of a block of points are computed first, as vector code. Only a block that has a point
nearer than the k-th neighbour so far is searched.
"""

from functools import cache

import numpy as np
import torch

from cdm.kernels.nearest_neighbours.naive import MISSING
from cdm.kernels.threads import map_threads
from cdm.kernels.vector_math import compile_kernel

BLOCK = 64  # points


def nearest_neighbours(xyz, queries, k):
    """Arguments and result as `cdm.kernels.nearest_neighbours.nearest_neighbours`, float32."""
    index = torch.empty(*queries.shape[:2], k, dtype=torch.int64)
    distance = torch.empty(*queries.shape[:2], k)
    kernel = _compile()

    def find(cloud, *arrays):
        kernel(cloud.t().contiguous().numpy(), *[array.numpy() for array in arrays])

    map_threads(find, xyz, queries, index, distance)
    return index, distance


@cache
def _compile():
    block, missing = BLOCK, np.float32(MISSING)

    def find(xyz, queries, index, distance):
        x, y, z = xyz
        num_points, k = len(x), index.shape[1]
        squared = np.empty(block, np.float32)
        for i in range(len(queries)):
            px, py, pz = queries[i]
            found, at = distance[i], index[i]
            found[:], at[:] = missing, 0
            for start in range(0, num_points, block):
                size = min(block, num_points - start)
                worst, closer = found[k - 1], 0
                for j in range(size):
                    dx, dy, dz = px - x[start + j], py - y[start + j], pz - z[start + j]
                    d = (dx * dx + dy * dy) + dz * dz
                    squared[j] = d
                    closer |= d < worst
                if not closer:
                    continue
                for j in range(size):
                    d = squared[j]
                    if not d < found[k - 1]:
                        continue
                    place = k - 1
                    while place > 0 and d < found[place - 1]:
                        found[place], at[place] = found[place - 1], at[place - 1]
                        place -= 1
                    found[place], at[place] = d, start + j
            for n in range(k):
                found[n] = np.sqrt(found[n])

    return compile_kernel(find, contract=False)
