"""The causal convolution on CUDA devices: in both directions, or in one with a gradient."""

from functools import cache
from pathlib import Path

import torch

from cdm.kernels.nvrtc import Kernel, element_macros, even_rows, ints

FOLDER = Path(__file__).parent
RUN = 16  # tokens per thread
THREADS = 256


def bidirectional_conv_silu(x, weight, bias):
    """Arguments and result as `cdm.kernels.causal_conv.bidirectional_conv_silu`."""
    batch, length, d_inner = x.shape
    x = even_rows(x)
    if x.data_ptr() % 16:
        x = x.contiguous()
    y = x.new_empty(2, batch, length, d_inner)
    threads = d_inner // 4 * -(-length // RUN)
    _kernel(x.device.index, x.dtype, weight.shape[1])(
        (-(-threads // THREADS), batch), THREADS, x, weight.float().t().contiguous(), bias.float(),
        y, *ints(batch, length, d_inner, x.stride(1)),
    )  # fmt: skip
    return y


@cache
def _kernel(device_index, dtype, width):
    macros = element_macros(dtype) | {"WIDTH": width, "RUN": RUN}
    return Kernel(FOLDER / "bidirectional.cu", "bidirectional_conv", device_index, **macros)


def causal_conv_silu(x, weight, bias, reverse):
    """Arguments and result as `cdm.kernels.causal_conv.causal_conv_silu`, computed in float32."""
    y = x if x.dtype == torch.bfloat16 else x.float()
    return _CausalConv.apply(y, weight.float(), bias.float(), reverse).to(x.dtype)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, reverse):
        x, weight = even_rows(x), weight.contiguous()
        y = x.new_empty(x.shape)
        _launch("causal_conv", reverse, x, weight, bias, y)
        ctx.save_for_backward(x, weight, bias)
        ctx.reverse = reverse
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight, bias = ctx.saved_tensors
        batch, length, d_inner = x.shape
        dx = x.new_empty(x.shape)
        partial = weight.new_empty(batch, -(-length // RUN), weight.shape[1] + 1, d_inner)
        _launch("causal_conv_gradient", ctx.reverse, x, weight, bias, dy.contiguous(), dx, partial)
        sums = partial.sum((0, 1))
        return dx, sums[:-1].t(), sums[-1], None


def _launch(name, reverse, x, weight, *rest):
    batch, length, d_inner = x.shape
    blocks = -(-d_inner * -(-length // RUN) // THREADS)
    _gradient_kernel(name, x.device.index, x.dtype == torch.bfloat16, weight.shape[1])(
        (blocks, batch), THREADS, x, weight, *rest, *ints(length, d_inner, x.stride(1), reverse)
    )


@cache
def _gradient_kernel(name, device_index, bf16, width):
    return Kernel(FOLDER / "gradient.cu", name, device_index, BF16=bf16, WIDTH=width, RUN=RUN)
