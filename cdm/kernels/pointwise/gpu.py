"""The steps between PointMamba's matrix products on CUDA devices, one pass over memory each."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from cdm.kernels.nvrtc import Kernel, element_macros, ints

SOURCE = Path(__file__).parent / "pointwise.cu"
THREADS = 256


def term_dtype(io_dtype: torch.dtype) -> torch.dtype:
    """Of what makes up the residual stream, the embedding's layers and every y: float32 in fp16."""
    return torch.float32 if io_dtype == torch.float16 else io_dtype


class Pointwise:
    """The functions of `naive` for one model.

    float16 rounds less than its 11 bits tell, so that a step's error stays below 1e-3: the residual
    stream is made of float32 alone, and norms are written as pairs (benchmarks/README.md).

    Args:
        device: CUDA device.
        io_dtype: of the norms, which go into the blocks: torch.float32, torch.bfloat16 or
            torch.float16.
        d_model: a multiple of 4, at most 1024.
        contact_dim: columns of x_t and of the head, at most 32.

    Attributes:
        norm_parts: how often a norm is written: once, but as [high, low, high] with float16.
    """

    def __init__(self, device: torch.device, io_dtype: torch.dtype, d_model: int, contact_dim: int):
        self.io_dtype = io_dtype
        self.norm_parts = 3 if io_dtype == torch.float16 else 1
        self._term_dtype = term_dtype(io_dtype)
        self._kernels = _kernels(device.index, io_dtype, d_model, contact_dim)

    def embed(self, x_t, weight, static_proj, time_proj):
        """`naive.embed`; the result is `term_dtype`."""
        batch, num_points, _ = x_t.shape
        hidden = static_proj.shape[2]
        out = static_proj.new_empty(static_proj.shape, dtype=self._term_dtype)
        rows = batch * num_points
        self._kernels["embed"](
            (-(-rows * hidden // (4 * THREADS)),), THREADS, x_t, weight, static_proj,
            time_proj, out, np.int64(rows), *ints(num_points, hidden),
        )  # fmt: skip
        return out

    def embedding_norm(self, y, norm_e, norm):
        """`naive.embedding_norm`; y is `term_dtype`, the norm io_dtype."""
        stream = torch.empty_like(y, dtype=torch.float32)
        out = self._empty_norm(y)
        self._by_row("embedding_norm", y, *norm_e, *norm, stream, out)
        return stream, out

    def residual_norm(self, stream, y, norm):
        """`naive.residual_norm`; adds to stream in place; y is `term_dtype`, the norm io_dtype."""
        out = self._empty_norm(y)
        self._by_row("residual_norm", y, *norm, stream, out)
        return stream, out

    def residual_head(self, stream, y, weight, bias):
        """`naive.residual_head`; y is `term_dtype`."""
        out = stream.new_empty(*y.shape[:-1], len(weight))
        self._by_row("residual_head", y, stream, weight, bias, out)
        return out

    def _empty_norm(self, y):
        return y.new_empty(*y.shape[:-1], self.norm_parts * y.shape[-1], dtype=self.io_dtype)

    def _by_row(self, name, y, *arguments):
        """Launch a kernel that gives each point a warp."""
        rows = y.shape[:-1].numel()
        grid = (-(-rows * 32 // THREADS),)
        self._kernels[name](grid, THREADS, y, *arguments, np.int64(rows))


@cache
def _kernels(device_index, io_dtype, d_model, contact_dim):
    macros = element_macros(io_dtype) | {"D_MODEL": d_model, "CONTACT_DIM": contact_dim}
    names = "embed", "embedding_norm", "residual_norm", "residual_head"
    return {name: Kernel(SOURCE, name, device_index, **macros) for name in names}
