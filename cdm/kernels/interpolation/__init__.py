"""Features of coarse points carried to fine ones by inverse distance (Qi et al. 2017, eq. 2)."""

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
    gathered = F.embedding(rows, x.flatten(0, 1))  # (batch, num_points, 3, channels)
    return (weights.to(x.dtype)[..., None, :] @ gathered).squeeze(-2)
