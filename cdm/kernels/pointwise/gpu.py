"""The pointwise steps of PointMamba on CUDA devices, one pass over memory each.

Arguments are as in `naive.py`; results that feed a matrix product have the dtype named `half`
there: float32 or bfloat16. `residual_norm` adds to `stream` in place.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from cdm.kernels.nvrtc import Kernel, ints

SOURCE = Path(__file__).parent / "pointwise.cu"
THREADS = 256


def embed(x_t, weight, share, step_share, half):
    """`naive.embed`, in dtype `half`."""
    batch, num_points, contact_dim = x_t.shape
    hidden = share.shape[2]
    out = share.new_empty(share.shape, dtype=half)
    rows = batch * num_points
    kernel = _kernels(x_t.device.index, half, 4, contact_dim)["embed"]
    kernel(
        (-(-rows * hidden // (4 * THREADS)),), THREADS, x_t, weight, share, step_share, out,
        np.int64(rows), *ints(num_points, hidden),
    )  # fmt: skip
    return out


def embedding_norm(y, norm_e, norm):
    """`naive.embedding_norm`; the norm in y's dtype."""
    stream, out = torch.empty_like(y, dtype=torch.float32), torch.empty_like(y)
    _by_row("embedding_norm", y, *norm_e, *norm, stream, out)
    return stream, out


def residual_norm(stream, y, norm):
    """`naive.residual_norm`, adding to stream in place; the norm in y's dtype."""
    out = torch.empty_like(y)
    _by_row("residual_norm", y, *norm, stream, out)
    return stream, out


def residual_head(stream, y, weight, bias):
    """`naive.residual_head`."""
    out = stream.new_empty(*y.shape[:-1], len(weight))
    _by_row("residual_head", y, stream, weight, bias, out, contact_dim=len(weight))
    return out


def _by_row(name, y, *arguments, contact_dim=1):
    d_model, rows = y.shape[-1], y.shape[:-1].numel()
    kernel = _kernels(y.device.index, y.dtype, d_model, contact_dim)[name]
    kernel((-(-rows * 32 // THREADS),), THREADS, y, *arguments, np.int64(rows))


@cache
def _kernels(device_index, half, d_model, contact_dim):
    macros = {
        "FLOAT32": half == torch.float32,
        "D_MODEL": d_model,
        "CONTACT_DIM": contact_dim,
    }
    names = "embed", "embedding_norm", "residual_norm", "residual_head"
    return {name: Kernel(SOURCE, name, device_index, **macros) for name in names}
