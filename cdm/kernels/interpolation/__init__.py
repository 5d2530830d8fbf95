"""Features of coarse points carried to fine ones by inverse distance (Qi et al. 2017, eq. 2)."""

import torch
import torch.nn.functional as F

NUM_NEIGHBOURS = 3


def interpolation_weights(distance):
    """1 / (d + 1e-8), normalised.

    Args:
        distance: (batch, num_points, 3) to the nearest coarse points, metres.
    Returns:
        (batch, num_points, 3), sums of 1.
    """
    inverse = 1 / (distance + 1e-8)
    return inverse / inverse.sum(dim=-1, keepdim=True)


def interpolate(x, rows, weights):
    """Weighted sums of coarse features; `naive` is the reference.

    Args:
        x: (batch, num_coarse, channels).
        rows: (batch, num_points, 3) int64, into the rows of the whole batch.
        weights: (batch, num_points, 3).
    Returns:
        (batch, num_points, channels), dtype of x.
    """
    x, weights = x.flatten(0, 1), weights.to(x.dtype)
    out = F.embedding(rows[..., 0], x) * weights[..., :1]
    for j in range(1, NUM_NEIGHBOURS):  # one after the other: faster than a product of matrices
        out = torch.addcmul(out, F.embedding(rows[..., j], x), weights[..., j : j + 1])
    return out
