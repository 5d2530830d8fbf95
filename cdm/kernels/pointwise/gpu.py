"""The pointwise steps of PointMamba on CUDA devices, one pass over memory each."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from cdm.kernels.nvrtc import Kernel, ints

SOURCE = Path(__file__).parent / "pointwise.cu"
THREADS = 256


class Pointwise:
    """The functions of `naive`, for one model: results that feed a matrix product are `half`.

    Args:
        device: CUDA device.
        half: torch.float32 or torch.bfloat16.
        d_model: a multiple of 4, at most 1024.
        contact_dim: columns of x_t and of the head, at most 32.
    """

    def __init__(self, device: torch.device, half: torch.dtype, d_model: int, contact_dim: int):
        self.half = half
        self._kernels = _kernels(device.index, half, d_model, contact_dim)

    def embed(self, x_t, weight, share, step_share):
        """`naive.embed`, in `half`."""
        batch, num_points, _ = x_t.shape
        hidden = share.shape[2]
        out = share.new_empty(share.shape, dtype=self.half)
        rows = batch * num_points
        self._kernels["embed"](
            (-(-rows * hidden // (4 * THREADS)),), THREADS, x_t, weight, share, step_share, out,
            np.int64(rows), *ints(num_points, hidden),
        )  # fmt: skip
        return out

    def embedding_norm(self, y, norm_e, norm):
        """`naive.embedding_norm`; the norm in `half`."""
        stream, out = torch.empty_like(y, dtype=torch.float32), torch.empty_like(y)
        self._by_row("embedding_norm", y, *norm_e, *norm, stream, out)
        return stream, out

    def residual_norm(self, stream, y, norm):
        """`naive.residual_norm`, adding to stream in place; the norm in `half`."""
        out = torch.empty_like(y)
        self._by_row("residual_norm", y, *norm, stream, out)
        return stream, out

    def residual_head(self, stream, y, weight, bias):
        """`naive.residual_head`."""
        out = stream.new_empty(*y.shape[:-1], len(weight))
        self._by_row("residual_head", y, stream, weight, bias, out)
        return out

    def _by_row(self, name, y, *arguments):
        rows = y.shape[:-1].numel()
        grid = (-(-rows * 32 // THREADS),)
        self._kernels[name](grid, THREADS, y, *arguments, np.int64(rows))


@cache
def _kernels(device_index, half, d_model, contact_dim):
    macros = {
        "BF16": half == torch.bfloat16,
        "D_MODEL": d_model,
        "CONTACT_DIM": contact_dim,
    }
    names = "embed", "embedding_norm", "residual_norm", "residual_head"
    return {name: Kernel(SOURCE, name, device_index, **macros) for name in names}
