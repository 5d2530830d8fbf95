"""The causal convolution in both directions on CUDA devices."""

from functools import cache
from pathlib import Path

import torch

from cdm.kernels.nvrtc import Kernel, ints

SOURCE = Path(__file__).parent / "bidirectional.cu"
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
    return Kernel(SOURCE, "bidirectional_conv", device_index, **macros)
