"""Neighbourhoods on CUDA devices.

Attention is two kernels around its two matrix products: differences to all neighbours are written
once, in the dtype of the products; of values, as of groups, only the result.
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
MOST_NEIGHBOURS = 16  # whose weights fit into registers


def fits(x, rows) -> bool:
    """Whether these kernels can compute it."""
    return (
        x.is_cuda
        and not torch.is_grad_enabled()
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.shape[-1] % 32 == 0
        and rows.shape[-1] <= MOST_NEIGHBOURS
        and nvrtc.unavailable(x.device.index) is None
    )


def vector_attention(q, k, v, rows, positions, weights):
    """Arguments and result as `cdm.kernels.neighbourhoods.vector_attention`."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    positions = positions.float().contiguous()
    position = [x.float().contiguous() for x in weights.position]
    norm = [x.float().contiguous() for x in weights.norm]
    u = q.new_empty(*rows.shape, q.shape[-1])
    _launch("differences", q, rows, q, k, rows, positions, *position, *norm, u)
    logits = F.linear(F.linear(u, *weights.hidden).relu_(), *weights.out)
    out = torch.empty_like(q)
    _launch("weighted_sum", q, rows, v, logits, rows, positions, *position, out)
    return out


def grouped_max(x, rows, offsets, weight):
    """Arguments and result as `cdm.kernels.neighbourhoods.grouped_max`."""
    out = x.new_empty(*rows.shape[:2], x.shape[-1])
    weight = weight.float().contiguous()
    _launch(
        "grouped_max", out, rows, x.contiguous(), rows, offsets.float().contiguous(), weight, out
    )
    return out


def _launch(name, out, rows, *arguments):
    """One thread for four channels of each of out's points."""
    num_points, channels = out.shape[:-1].numel(), out.shape[-1]
    kernels = _kernels(out.device.index, out.dtype == torch.bfloat16, channels, rows.shape[-1])
    grid = (-(-num_points * channels // (4 * THREADS)),)
    kernels[name](grid, THREADS, *arguments, np.int64(num_points))


@cache
def _kernels(device_index, bf16, channels, neighbours):
    macros = {"BF16": bf16, "CHANNELS": channels, "K": neighbours}
    names = "differences", "weighted_sum", "grouped_max"
    return {name: Kernel(SOURCE, name, device_index, **macros) for name in names}
