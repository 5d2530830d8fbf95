"""Vector attention, one torch operation after the other: the reference, on any device."""

import torch
import torch.nn.functional as F

SHARE_PLANES = 8  # channels that share a weight


def vector_attention(q, k, v, rows, positions, weights):
    """Arguments and result as `cdm.kernels.vector_attention.vector_attention`."""
    scale, shift = weights.norm
    p = F.linear(positions, *weights.position)  # (batch, num_points, k, channels)
    w = F.embedding(rows, k.flatten(0, 1)) - q[:, :, None] + p
    w = torch.addcmul(shift, w, scale).relu().to(q.dtype)
    w = F.linear(F.linear(w, *weights.hidden).relu(), *weights.out).to(p.dtype).softmax(dim=2)
    p = (p + F.embedding(rows, v.flatten(0, 1))).unflatten(-1, (SHARE_PLANES, -1))
    return (p * w[..., None, :]).sum(dim=2).flatten(-2).to(q.dtype)
