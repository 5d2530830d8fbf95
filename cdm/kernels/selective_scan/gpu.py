"""The selective scan on CUDA devices, with a gradient: what training runs on."""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from cdm.kernels.nvrtc import Kernel, ints

SOURCE = Path(__file__).parent / "recurrence.cu"
D_STATE, CHANNELS, THREADS, TILE = 16, 64, 256, 8


def fits(d_inner: int, d_state: int) -> bool:
    """Whether the kernels have these sizes."""
    return d_state == D_STATE and d_inner % CHANNELS == 0


def selective_scan(u, delta, A, B, C, D, z, delta_bias, reverse):
    """`cdm.kernels.selective_scan.selective_scan` with delta_softplus, and without a last state.

    Computed in float32; the gradient takes TILE times less memory than the states of all steps.
    """
    inputs = [x.float() for x in (u, delta, A, B, C)]
    zeros = inputs[0].new_zeros(u.shape[2])
    vectors = [zeros if x is None else x.float() for x in (D, delta_bias)]
    y = _Scan.apply(*inputs, *vectors, reverse).to(u.dtype)
    return y if z is None else y * F.silu(z.to(y.dtype))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, bias, reverse):
        inputs = [x.contiguous() for x in (u, delta, A, B, C, D, bias)]
        batch, length, d_inner = u.shape
        y = torch.empty_like(inputs[0])
        starts = u.new_empty(batch, -(-length // TILE), d_inner, D_STATE)
        _kernel("recurrence", u.device.index)(
            (d_inner // CHANNELS, batch), THREADS, *inputs, y, starts,
            *ints(length, d_inner, reverse),
        )  # fmt: skip
        ctx.save_for_backward(*inputs, starts)
        ctx.reverse = reverse
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        u, _, A, *_ = inputs = ctx.saved_tensors  # with the states at the starts of tiles
        batch, length, d_inner = u.shape
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        dA, dD = u.new_empty(batch, *A.shape), u.new_empty(batch, d_inner)
        dBC = u.new_empty(d_inner // CHANNELS, batch, length, 2 * D_STATE)
        _kernel("recurrence_gradient", u.device.index)(
            (d_inner // CHANNELS, batch), THREADS, *inputs, dy.contiguous(),
            du, ddelta, dA, dD, dBC, *ints(length, d_inner, ctx.reverse),
        )  # fmt: skip
        dB, dC = dBC.sum(0).chunk(2, dim=-1)
        return du, ddelta, dA.sum(0), dB, dC, dD.sum(0), ddelta.sum((0, 1)), None


@cache
def _kernel(name, device_index):
    return Kernel(SOURCE, name, device_index, TILE=TILE)
