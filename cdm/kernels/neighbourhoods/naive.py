"""Neighbourhoods, one torch operation after the other: the reference, on any device."""

import torch
import torch.nn.functional as F

SHARE_PLANES = 8  # channels that share a weight


def vector_attention(q, k, v, rows, positions, weights):
    """Arguments and result as `cdm.kernels.neighbourhoods.vector_attention`."""
    scale, shift = weights.norm
    p = F.linear(positions, *weights.position)  # (batch, num_points, k, channels)
    w = F.embedding(rows, k.flatten(0, 1)) - q[:, :, None] + p
    w = torch.addcmul(shift, w, scale).relu().to(q.dtype)
    w = F.linear(F.linear(w, *weights.hidden).relu(), *weights.out).to(p.dtype).softmax(dim=2)
    p = (p + F.embedding(rows, v.flatten(0, 1))).unflatten(-1, (SHARE_PLANES, -1))
    return (p * w[..., None, :]).sum(dim=2).flatten(-2).to(q.dtype)


def grouped_max(x, rows, offsets, weight):
    """Arguments and result as `cdm.kernels.neighbourhoods.grouped_max`."""
    x = F.embedding(rows, x.flatten(0, 1))  # (batch, num_points, k, channels)
    return (x + F.linear(offsets.to(weight.dtype), weight)).amax(dim=2)
