"""Vector attention on CUDA devices: two kernels around the two matrix products.

Differences to all neighbours are written once, in the dtype of the products; of the values only
the result.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from cdm.kernels import nvrtc
from cdm.kernels.nvrtc import Kernel

SOURCE = Path(__file__).parent / "vector_attention.cu"
THREADS = 256
MOST_NEIGHBOURS = 16  # whose weights fit into registers


def fits(q, rows) -> bool:
    """Whether these kernels can compute it."""
    return (
        q.is_cuda
        and not torch.is_grad_enabled()
        and q.dtype in (torch.float32, torch.bfloat16)
        and q.shape[-1] % 32 == 0
        and rows.shape[-1] <= MOST_NEIGHBOURS
        and nvrtc.unavailable(q.device.index) is None
    )


def vector_attention(q, k, v, rows, positions, weights):
    """Arguments and result as `cdm.kernels.vector_attention.vector_attention`."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    positions = positions.float().contiguous()
    channels, neighbours = q.shape[-1], rows.shape[-1]
    num_points = q.shape[:-1].numel()
    grid, points = (-(-num_points * channels // (4 * THREADS)),), np.int64(num_points)
    float32 = q.dtype == torch.float32
    differences, weighted_sum = _kernels(q.device.index, float32, channels, neighbours)
    position = [x.float().contiguous() for x in weights.position]
    norm = [x.float().contiguous() for x in weights.norm]

    u = q.new_empty(*rows.shape, channels)
    differences(grid, THREADS, q, k, rows, positions, *position, *norm, u, points)
    logits = F.linear(F.linear(u, *weights.hidden).relu_(), *weights.out)
    out = torch.empty_like(q)
    weighted_sum(grid, THREADS, v, logits, rows, positions, *position, out, points)
    return out


@cache
def _kernels(device_index, float32, channels, neighbours):
    macros = {"FLOAT32": float32, "CHANNELS": channels, "K": neighbours}
    return [
        Kernel(SOURCE, name, device_index, **macros) for name in ("differences", "weighted_sum")
    ]
