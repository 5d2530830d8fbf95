"""What a point takes from its neighbours in a Point Transformer (Zhao et al. 2021)."""

from typing import NamedTuple

import torch

from cdm.kernels.neighbourhoods import cpu, gpu, naive


class Weights(NamedTuple):
    """What an attention layer has learned beside its queries, keys and values.

    Pairs of weight and bias of linear layers; `norm` is what a batch norm amounts to. Channels are
    those of q, shared ones are an eighth of that. Of `hidden` and `out` the dtype is that of q.
    """

    position: tuple[torch.Tensor, torch.Tensor]  # (channels, 3), (channels,)
    norm: tuple[torch.Tensor, torch.Tensor]  # scale and shift, (channels,) each
    hidden: tuple[torch.Tensor, torch.Tensor]  # (shared, channels), (shared,)
    out: tuple[torch.Tensor, torch.Tensor]  # (shared, shared), (shared,)


def vector_attention(q, k, v, rows, positions, weights):
    """Eq. 3: sum_j softmax_j(mlp(k_j - q_i + p_ij)) * (v_j + p_ij) over the neighbours j of each i.

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
    if q.device.type == "cpu":
        return cpu.vector_attention(q, k, v, rows, positions, weights)
    return naive.vector_attention(q, k, v, rows, positions, weights)


def grouped_max(x, rows, offsets, weight):
    """max_j (x_j + weight offset_ij) over the group of each point i; section 3.4.

    Args:
        x: (batch, num_finer, channels).
        rows: (batch, num_points, k) int64, into the rows of the whole batch of x.
        offsets: (batch, num_points, k, 3) float32, metres.
        weight: (channels, 3), dtype of x.
    Returns:
        (batch, num_points, channels), dtype of x.
    """
    if gpu.fits(x, rows):
        return gpu.grouped_max(x, rows, offsets, weight)
    if x.device.type == "cpu":
        return cpu.grouped_max(x, rows, offsets, weight)
    return naive.grouped_max(x, rows, offsets, weight)
