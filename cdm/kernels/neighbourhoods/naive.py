"""Vector attention and grouped maximum as torch operations, on any device."""

import torch
import torch.nn.functional as F

SHARE_PLANES = 8  # number of channels that share an attention weight


def vector_attention(q, k, v, neighbour_idx, positions, weights):
    """Arguments and result as `cdm.kernels.neighbourhoods.vector_attention`."""
    scale, shift = weights.norm
    p = F.linear(positions, *weights.position)  # (batch, num_points, k, channels)
    w = F.embedding(neighbour_idx, k.flatten(0, 1)) - q[:, :, None] + p
    w = torch.addcmul(shift, w, scale).relu().to(q.dtype)
    w = F.linear(F.linear(w, *weights.hidden).relu(), *weights.out).to(p.dtype).softmax(dim=2)
    p = (p + F.embedding(neighbour_idx, v.flatten(0, 1))).unflatten(-1, (SHARE_PLANES, -1))
    return (p * w[..., None, :]).sum(dim=2).flatten(-2).to(q.dtype)


def grouped_max(x, neighbour_idx, offsets, weight):
    """Arguments and result as `cdm.kernels.neighbourhoods.grouped_max`."""
    x = F.embedding(neighbour_idx, x.flatten(0, 1))  # (batch, num_points, k, channels)
    return (x + F.linear(offsets.to(weight.dtype), weight)).amax(dim=2)
