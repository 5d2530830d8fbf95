"""Vector attention, one torch operation after the other: the reference, on any device."""

import torch
import torch.nn.functional as F

SHARE_PLANES = 8  # channels that share a weight


def vector_attention(q, k, v, rows, positions, weights):
    """Arguments and result as `cdm.kernels.vector_attention.vector_attention`."""
    scale, shift = weights.norm
    p = F.linear(positions.to(q.dtype), *weights.position)  # (batch, num_points, k, channels)
    w = F.embedding(rows, k.flatten(0, 1)) - q[:, :, None] + p
    w = torch.relu(torch.addcmul(shift, w, scale)).to(q.dtype)
    w = F.linear(torch.relu(F.linear(w, *weights.hidden)), *weights.out)
    w = w.float().softmax(dim=2).to(q.dtype) if q.dtype == torch.bfloat16 else w.softmax(dim=2)
    p = p + F.embedding(rows, v.flatten(0, 1))
    shared = p.unflatten(-1, (SHARE_PLANES, -1)) * w[..., None, :]
    return shared.sum(dim=2).flatten(-2)
