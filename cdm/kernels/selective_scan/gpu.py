"""The selective scan on CUDA devices with a gradient, for training."""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from cdm.kernels.nvrtc import Kernel, even_rows, ints

SOURCE = Path(__file__).parent / "recurrence.cu"
D_STATE, CHANNELS, THREADS, TILE = 16, 64, 256, 8


def fits(d_inner: int, d_state: int) -> bool:
    """Whether the kernels can compute these sizes."""
    return d_state == D_STATE and d_inner % CHANNELS == 0


def selective_scan(u, delta, A, B, C, D, z, delta_bias, reverse):
    """`cdm.kernels.selective_scan.selective_scan` with delta_softplus and without last_state.

    Everything is computed in float32, also if u, delta, B and C are bfloat16. The gradient keeps
    only every TILE-th state, so it takes TILE times less memory than all states would.
    """
    inputs = [u, delta, B, C]
    if any(x.dtype != torch.bfloat16 for x in inputs):
        inputs = [x.float() for x in inputs]
    zeros = A.new_zeros(u.shape[2])
    vectors = [x.float() for x in (A, zeros if D is None else D)]
    bias = zeros if delta_bias is None else delta_bias
    y = _Scan.apply(*inputs, *vectors, bias.float(), reverse).to(u.dtype)
    return y if z is None else y * F.silu(z.to(y.dtype))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, B, C, A, D, bias, reverse):
        u, delta, A, D, bias = (x.contiguous() for x in (u, delta, A, D, bias))
        B, C = even_rows(B), even_rows(C)
        batch, length, d_inner = u.shape
        y = torch.empty_like(u)
        starts = A.new_empty(batch, -(-length // TILE), d_inner, D_STATE)
        inputs = u, delta, A, B, C, D, bias
        _launch("recurrence", reverse, *inputs, y, starts)
        ctx.save_for_backward(*inputs, starts)
        ctx.reverse = reverse
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        u, _, A, B, *_ = inputs = ctx.saved_tensors  # the last one: states at the tiles' starts
        batch, length, d_inner = u.shape
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        dA = A.new_empty(batch, *A.shape)
        vectors = A.new_empty(batch, 2, d_inner)
        dBC = A.new_empty(d_inner // CHANNELS, batch, length, 2 * D_STATE)
        outputs = du, ddelta, dA, vectors, dBC
        _launch("recurrence_gradient", ctx.reverse, *inputs, dy.contiguous(), *outputs)
        dB, dC = dBC.sum(0).to(B.dtype).chunk(2, dim=-1)
        return du, ddelta, dB, dC, dA.sum(0), *vectors.sum(0), None


def _launch(name, reverse, u, delta, A, B, C, *rest):
    batch, length, d_inner = u.shape
    _kernel(name, u.device.index, u.dtype == torch.bfloat16)(
        (d_inner // CHANNELS, batch), THREADS, u, delta, A, B, C, *rest,
        *ints(length, d_inner, B.stride(1), C.stride(1), reverse),
    )  # fmt: skip


@cache
def _kernel(name, device_index, bf16):
    return Kernel(SOURCE, name, device_index, BF16=bf16)
