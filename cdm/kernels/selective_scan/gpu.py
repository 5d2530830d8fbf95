"""The selective scan on CUDA devices, with a gradient: what training runs on."""

from functools import cache
from pathlib import Path

import torch

from cdm.kernels.nvrtc import Kernel, ints
from cdm.kernels.selective_scan.naive import discretisation, skip_and_gate

SOURCE = Path(__file__).parent / "recurrence.cu"
D_STATE, CHANNELS, THREADS, TILE = 16, 64, 256, 8


def fits(d_inner: int, d_state: int) -> bool:
    """Whether the kernels have these sizes."""
    return d_state == D_STATE and d_inner % CHANNELS == 0


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """Arguments and result as `cdm.kernels.selective_scan.selective_scan`, but no last state.

    Computed in float32; the gradient takes TILE times less memory than the states of all steps.
    """
    u_, delta, A, B, C = (x.float() for x in (u, delta, A, B, C))
    y = _Recurrence.apply(u_, discretisation(delta, delta_bias, delta_softplus), A, B, C, reverse)
    return skip_and_gate(y, u_, D, z).to(u.dtype)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, reverse):
        inputs = [x.contiguous() for x in (u, delta, A, B, C)]
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
        *inputs, starts = ctx.saved_tensors
        u, A = inputs[0], inputs[2]
        batch, length, d_inner = u.shape
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        dA = u.new_empty(batch, *A.shape)
        dBC = u.new_empty(d_inner // CHANNELS, batch, length, 2 * D_STATE)
        _kernel("recurrence_gradient", u.device.index)(
            (d_inner // CHANNELS, batch), THREADS, *inputs, starts, dy.contiguous(),
            du, ddelta, dA, dBC, *ints(length, d_inner, ctx.reverse),
        )  # fmt: skip
        dB, dC = dBC.sum(0).chunk(2, dim=-1)
        return du, ddelta, dA.sum(0), dB, dC, None


@cache
def _kernel(name, device_index):
    return Kernel(SOURCE, name, device_index, TILE=TILE)
