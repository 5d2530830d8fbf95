"""How a point gathers features from its neighbours in a Point Transformer (Zhao et al. 2021)."""

from typing import NamedTuple

import torch

from cdm.kernels.neighbourhoods import cpu, gpu, naive


class Weights(NamedTuple):
    """The weights of a vector attention layer, without those that make q, k and v.

    `position`, `hidden` and `out` are (weight, bias) of linear layers; `norm` is the scale and
    shift that a batch norm in eval mode amounts to. `channels` is that of q, and `shared` is an
    eighth of it. `hidden` and `out` have the dtype of q.
    """

    position: tuple[torch.Tensor, torch.Tensor]  # (channels, 3), (channels,)
    norm: tuple[torch.Tensor, torch.Tensor]  # scale and shift, (channels,) each
    hidden: tuple[torch.Tensor, torch.Tensor]  # (shared, channels), (shared,)
    out: tuple[torch.Tensor, torch.Tensor]  # (shared, shared), (shared,)


def vector_attention(q, k, v, neighbour_idx, positions, weights):
    """sum_j softmax_j(mlp(k_j - q_i + p_ij)) * (v_j + p_ij), over the neighbours j of point i.

    This is eq. 3. Here p = position(positions), and mlp is norm, ReLU, hidden, ReLU, out. The mlp
    gives an eighth of the channels; eight groups of channels share these.

    Args:
        q, k, v: (batch, num_points, channels).
        neighbour_idx: (batch, num_points, neighbours) int64, into the points of the whole batch.
        positions: (batch, num_points, neighbours, 3), the hidden code of relative positions.
        weights: `Weights`.
    Returns:
        (batch, num_points, channels), dtype of q.
    """
    if gpu.fits(q, neighbour_idx):
        return gpu.vector_attention(q, k, v, neighbour_idx, positions, weights)
    if q.device.type == "cpu":
        return cpu.vector_attention(q, k, v, neighbour_idx, positions, weights)
    return naive.vector_attention(q, k, v, neighbour_idx, positions, weights)


def grouped_max(x, neighbour_idx, offsets, weight):
    """max_j (x_j + weight offset_ij) over the group of points j of each point i (section 3.4).

    Args:
        x: (batch, num_finer, channels).
        neighbour_idx: (batch, num_points, k) int64, into the points of the whole batch of x.
        offsets: (batch, num_points, k, 3) float32, metres.
        weight: (channels, 3), dtype of x.
    Returns:
        (batch, num_points, channels), dtype of x.
    """
    if gpu.fits(x, neighbour_idx):
        return gpu.grouped_max(x, neighbour_idx, offsets, weight)
    if x.device.type == "cpu":
        return cpu.grouped_max(x, neighbour_idx, offsets, weight)
    return naive.grouped_max(x, neighbour_idx, offsets, weight)
