"""Neighbourhoods for CPUs: the reference, on as many points at a time as the cache holds."""

import torch

from cdm.kernels.neighbourhoods import naive

ELEMENTS = 2**18  # of an intermediate result: points times neighbours times channels


def vector_attention(q, k, v, rows, positions, weights):
    """Arguments and result as `cdm.kernels.neighbourhoods.vector_attention`."""
    return _in_blocks(
        lambda *block: naive.vector_attention(block[0], k, v, *block[1:], weights),
        (q, rows, positions),
        q.shape[-1],
    )


def grouped_max(x, rows, offsets, weight):
    """Arguments and result as `cdm.kernels.neighbourhoods.grouped_max`."""
    return _in_blocks(
        lambda *block: naive.grouped_max(x, *block, weight), (rows, offsets), x.shape[-1]
    )


def _in_blocks(function, columns, channels):
    """function of (batch, num_points, ...) columns, block after block of points."""
    batch, _, neighbours = columns[-1].shape[:3]
    size = max(1, ELEMENTS // (batch * neighbours * channels))
    blocks = zip(*[column.split(size, dim=1) for column in columns], strict=True)
    return torch.cat([function(*block) for block in blocks], dim=1)
