"""Vector attention and grouped maximum as torch operations, on any device."""

import torch
import torch.nn.functional as F

SHARE_PLANES = 8  # number of channels that share an attention weight


def vector_attention(q, k, v, neighbour_idx, positions, weights):
    """Arguments and result as `cdm.kernels.neighbourhoods.vector_attention`."""
    scale, shift = weights.norm

    def mlp(w):
        w = torch.addcmul(shift, w, scale).relu().to(q.dtype)
        return F.linear(F.linear(w, *weights.hidden).relu(), *weights.out)

    return attend(q, k, v, neighbour_idx, F.linear(positions, *weights.position), mlp)


def attend(q, k, v, neighbour_idx, p, mlp):
    """`cdm.kernels.neighbourhoods.vector_attention` with any MLP; it has gradients.

    Args:
        q, k, v, neighbour_idx: as there.
        p: (batch, num_points, neighbours, channels), the code of relative positions.
        mlp: from (batch, num_points, neighbours, channels) to an eighth of the channels.
    """
    w = F.embedding(neighbour_idx, k.flatten(0, 1)) - q[:, :, None] + p
    w = mlp(w).to(p.dtype).softmax(dim=2)
    p = (p + F.embedding(neighbour_idx, v.flatten(0, 1))).unflatten(-1, (SHARE_PLANES, -1))
    return (p * w[..., None, :]).sum(dim=2).flatten(-2).to(q.dtype)


def grouped_max(x, neighbour_idx, offsets, weight):
    """Arguments and result as `cdm.kernels.neighbourhoods.grouped_max`."""
    x = F.embedding(neighbour_idx, x.flatten(0, 1))  # (batch, num_points, k, channels)
    return (x + F.linear(offsets.to(weight.dtype), weight)).amax(dim=2)
