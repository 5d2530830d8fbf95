"""Vector attention and grouped maximum on CUDA devices.

Attention is two kernels, one before and one after its two matrix products. The first writes
ReLU(norm(k_j - q_i + p_ij)) for all neighbours, in the dtype of the products. The second reads the
values and the logits, and writes only the weighted sum. The grouped maximum is one kernel.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cdm.kernels import nvrtc
from cdm.kernels.nvrtc import Kernel

SOURCE = Path(__file__).parent / "neighbourhoods.cu"
THREADS = 256
MOST_NEIGHBOURS = 16  # the weights of more would not fit into registers


def fits(x, neighbour_idx) -> bool:
    """Whether these kernels can compute features x of points with these neighbours."""
    return (
        x.is_cuda
        and not torch.is_grad_enabled()
        and x.dtype in nvrtc.ELEMENTS
        and x.shape[-1] % 32 == 0
        and neighbour_idx.shape[-1] <= MOST_NEIGHBOURS
        and nvrtc.unavailable(x.device.index) is None
    )


def vector_attention(q, k, v, neighbour_idx, positions, weights):
    """Arguments and result as `cdm.kernels.neighbourhoods.vector_attention`."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    positions = positions.float().contiguous()
    position = [x.float().contiguous() for x in weights.position]
    norm = [x.float().contiguous() for x in weights.norm]
    u = q.new_empty(*neighbour_idx.shape, q.shape[-1])
    _launch("differences", q, neighbour_idx, q, k, neighbour_idx, positions, *position, *norm, u)
    logits = F.linear(F.linear(u, *weights.hidden).relu_(), *weights.out)
    out = torch.empty_like(q)
    _launch("weighted_sum", q, neighbour_idx, v, logits, neighbour_idx, positions, *position, out)
    return out


def grouped_max(x, neighbour_idx, offsets, weight):
    """Arguments and result as `cdm.kernels.neighbourhoods.grouped_max`."""
    out = x.new_empty(*neighbour_idx.shape[:2], x.shape[-1])
    weight = weight.float().contiguous()
    _launch(
        "grouped_max",
        out,
        neighbour_idx,
        x.contiguous(),
        neighbour_idx,
        offsets.float().contiguous(),
        weight,
        out,
    )
    return out


def _launch(name, out, neighbour_idx, *arguments):
    """Launch a kernel with one thread for every four channels of a point of `out`."""
    num_points, channels = out.shape[:-1].numel(), out.shape[-1]
    kernels = _kernels(out.device.index, out.dtype, channels, neighbour_idx.shape[-1])
    grid = (-(-num_points * channels // (4 * THREADS)),)
    kernels[name](grid, THREADS, *arguments, np.int64(num_points))


@cache
def _kernels(device_index, dtype, channels, neighbours):
    macros = nvrtc.element_macros(dtype) | {"CHANNELS": channels, "K": neighbours}
    names = "differences", "weighted_sum", "grouped_max"
    return {name: Kernel(SOURCE, name, device_index, **macros) for name in names}
