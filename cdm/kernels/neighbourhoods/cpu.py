"""Vector attention and grouped maximum for CPUs: the naive forms on a few points at a time.

The intermediate results of a block of points fit into the cache.
"""

import torch

from cdm.kernels.neighbourhoods import naive

ELEMENTS = 2**18  # of an intermediate result (points, neighbours, channels)


def vector_attention(q, k, v, neighbour_idx, positions, weights):
    """Arguments and result as `cdm.kernels.neighbourhoods.vector_attention`."""
    return _in_blocks(
        lambda *block: naive.vector_attention(block[0], k, v, block[1], block[2], weights),
        (q, neighbour_idx, positions),
        q.shape[-1],
    )


def grouped_max(x, neighbour_idx, offsets, weight):
    """Arguments and result as `cdm.kernels.neighbourhoods.grouped_max`."""
    return _in_blocks(
        lambda *block: naive.grouped_max(x, block[0], block[1], weight),
        (neighbour_idx, offsets),
        x.shape[-1],
    )


def _in_blocks(function, columns, channels):
    """Apply function to (batch, num_points, ...) columns, block after block of points."""
    batch, _, neighbours = columns[-1].shape[:3]
    size = max(1, ELEMENTS // (batch * neighbours * channels))
    blocks = zip(*[column.split(size, dim=1) for column in columns], strict=True)
    return torch.cat([function(*block) for block in blocks], dim=1)
