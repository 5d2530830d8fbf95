"""Vector self-attention over neighbours (Zhao et al. 2021, Point Transformer, eq. 3)."""

from typing import NamedTuple

import torch

from cdm.kernels.vector_attention import gpu, naive


class Weights(NamedTuple):
    """What a layer has learned behind its queries, keys and values; batch norms are affine.

    Pairs of weight and bias of linear layers, but for `norm`. Channels are those of q, shared
    ones are an eighth of that. Of `hidden` and `out` the dtype is that of q.
    """

    position: tuple[torch.Tensor, torch.Tensor]  # (channels, 3), (channels,)
    norm: tuple[torch.Tensor, torch.Tensor]  # scale and shift, (channels,) each
    hidden: tuple[torch.Tensor, torch.Tensor]  # (shared, channels), (shared,)
    out: tuple[torch.Tensor, torch.Tensor]  # (shared, shared), (shared,)


def vector_attention(q, k, v, rows, positions, weights):
    """sum_j softmax_j(mlp(k_j - q_i + p_ij)) * (v_j + p_ij) over the neighbours j of each i.

    p = position(positions); mlp is norm, ReLU, hidden, ReLU, out; eight groups of channels share
    its result.

    Args:
        q, k, v: (batch, num_points, channels).
        rows: (batch, num_points, neighbours) int64, into the rows of the whole batch.
        positions: (batch, num_points, neighbours, 3), the hidden code of relative positions.
        weights: `Weights`.
    Returns:
        (batch, num_points, channels), dtype of q.
    """
    if gpu.fits(q, rows):
        return gpu.vector_attention(q, k, v, rows, positions, weights)
    return naive.vector_attention(q, k, v, rows, positions, weights)
