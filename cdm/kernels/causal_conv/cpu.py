"""The depthwise causal convolution for CPUs, compiled by numba (float32)."""

from functools import cache

import numba
import numpy as np
import torch

from cdm.kernels.vector_math import silu
from cdm.threads import map_threads


def causal_conv_silu(x, weight, bias, reverse):
    """Arguments and result as `cdm.kernels.causal_conv.causal_conv_silu`."""
    batch, length, _ = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    arrays = [a.detach().contiguous().numpy() for a in (x, weight.t(), bias, y)]
    kernel = _compile()

    def convolve(first, end):
        kernel(*arrays, first, end, reverse)

    num_tasks = min(torch.get_num_threads(), batch * length)
    edges = [batch * length * i // num_tasks for i in range(num_tasks + 1)]
    map_threads(convolve, edges[:-1], edges[1:])
    return y


@cache
def _compile():
    def convolve(x, weight, bias, y, first, end, reverse):
        length, d_inner = x.shape[1:]
        width = weight.shape[0]
        total = np.empty(d_inner, np.float32)
        for row in range(first, end):
            b, t = row // length, row % length
            total[:] = bias
            for k in range(width):
                source = t + (width - 1 - k) if reverse else t - (width - 1 - k)
                if 0 <= source < length:
                    x_k, weight_k = x[b, source], weight[k]
                    for c in range(d_inner):
                        total[c] += weight_k[c] * x_k[c]
            y_t = y[b, t]
            for c in range(d_inner):
                y_t[c] = silu(total[c])

    options = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(convolve)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(**options)(convolve)
