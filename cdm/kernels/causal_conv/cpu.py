"""The depthwise causal convolution for CPUs, compiled by numba (float32)."""

from functools import cache

import torch
import torch.nn.functional as F

from cdm.kernels.threads import map_threads
from cdm.kernels.vector_math import compile_kernel, silu


def causal_conv_silu(x, weight, bias, reverse):
    """Arguments and result as `cdm.kernels.causal_conv.causal_conv_silu`."""
    batch, length, d_inner = x.shape
    width = weight.shape[1]
    zeros = (0, width - 1) if reverse else (width - 1, 0)
    x = F.pad(x, (0, 0, *zeros))  # (batch, length + width - 1, d_inner)
    weight = weight.flip(1) if reverse else weight
    y = x.new_empty(batch, length, d_inner)
    arrays = [a.detach().contiguous().numpy() for a in (x, weight.t(), bias, y)]
    kernel = _compile(width)

    def convolve(first, end):
        kernel(*arrays, first, end)

    num_tasks = min(torch.get_num_threads(), batch * length)
    edges = [batch * length * i // num_tasks for i in range(num_tasks + 1)]
    map_threads(convolve, edges[:-1], edges[1:])
    return y


@cache
def _compile(width):
    def convolve(x, weight, bias, y, first, end):
        length, d_inner = y.shape[1:]
        for row in range(first, end):
            b, t = row // length, row % length
            x_t, y_t = x[b, t : t + width], y[b, t]
            for c in range(d_inner):
                total = bias[c]
                for k in range(width):
                    total += weight[k, c] * x_t[k, c]
                y_t[c] = silu(total)

    return compile_kernel(convolve)
