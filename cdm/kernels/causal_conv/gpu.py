"""The causal convolution on CUDA devices: in both directions, and in one with a gradient."""

from functools import cache
from pathlib import Path

import torch

from cdm.kernels.nvrtc import Kernel, ints

FOLDER = Path(__file__).parent
RUN = 16  # tokens a thread
THREADS = 256


def bidirectional_conv_silu(x, weight, bias):
    """Arguments and result as `cdm.kernels.causal_conv.bidirectional_conv_silu`."""
    batch, length, d_inner = x.shape
    if x.stride(2) != 1 or x.stride(0) != x.stride(1) * length or x.data_ptr() % 16:
        x = x.contiguous()
    y = x.new_empty(2, batch, length, d_inner)
    threads = d_inner // 4 * -(-length // RUN)
    _kernel(x.device.index, x.dtype == torch.float32, weight.shape[1])(
        (-(-threads // THREADS), batch), THREADS, x, weight.float().t().contiguous(), bias.float(),
        y, *ints(batch, length, d_inner, x.stride(1)),
    )  # fmt: skip
    return y


@cache
def _kernel(device_index, float32, width):
    macros = {"FLOAT32": float32, "WIDTH": width, "RUN": RUN}
    return Kernel(FOLDER / "bidirectional.cu", "bidirectional_conv", device_index, **macros)


def causal_conv_silu(x, weight, bias, reverse):
    """Arguments and result as `cdm.kernels.causal_conv.causal_conv_silu`; float32 inside."""
    return _CausalConv.apply(x.float(), weight.float(), bias.float(), reverse).to(x.dtype)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, reverse):
        x, weight = x.contiguous(), weight.contiguous()
        y = torch.empty_like(x)
        _launch("causal_conv", x, weight, bias, y, reverse)
        ctx.save_for_backward(x, weight, bias)
        ctx.reverse = reverse
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight, bias = ctx.saved_tensors
        batch, length, d_inner = x.shape
        dx = torch.empty_like(x)
        partial = x.new_empty(batch, -(-length // RUN), weight.shape[1] + 1, d_inner)
        arguments = x, weight, bias, dy.contiguous(), dx, partial
        _launch("causal_conv_gradient", *arguments, ctx.reverse)
        sums = partial.sum((0, 1))
        return dx, sums[:-1].t(), sums[-1], None


def _launch(name, x, weight, *arguments):
    *tensors, reverse = arguments
    batch, length, d_inner = x.shape
    blocks = -(-d_inner * -(-length // RUN) // THREADS)
    _gradient_kernel(name, x.device.index, weight.shape[1])(
        (blocks, batch), THREADS, x, weight, *tensors, *ints(length, d_inner, reverse)
    )


@cache
def _gradient_kernel(name, device_index, width):
    return Kernel(FOLDER / "gradient.cu", name, device_index, WIDTH=width, RUN=RUN)
