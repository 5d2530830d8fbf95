"""Interpolation of coarse points' features to fine points by inverse distance.

Qi et al. 2017, PointNet++, eq. 2.
"""

import torch
import torch.nn.functional as F

NUM_NEIGHBOURS = 3


def interpolation_weights(distance):
    """1 / (distance + 1e-8), divided by the sum over the neighbours.

    Args:
        distance: (batch, num_points, 3) to the nearest coarse points, metres.
    Returns:
        (batch, num_points, 3); each point's weights sum to 1.
    """
    inverse = 1 / (distance + 1e-8)
    return inverse / inverse.sum(dim=-1, keepdim=True)


def interpolate(x, neighbour_idx, weights):
    """Weighted sums of the features of coarse points.

    Args:
        x: (batch, num_coarse, channels).
        neighbour_idx: (batch, num_points, 3) int64, into the coarse points of the whole batch.
        weights: (batch, num_points, 3).
    Returns:
        (batch, num_points, channels), dtype of x.
    """
    x, weights = x.flatten(0, 1), weights.to(x.dtype)
    out = F.embedding(neighbour_idx[..., 0], x) * weights[..., :1]
    # One neighbour after the other, which is faster than one product of matrices.
    for j in range(1, NUM_NEIGHBOURS):
        feature = F.embedding(neighbour_idx[..., j], x)
        out = torch.addcmul(out, feature, weights[..., j : j + 1])
    return out
