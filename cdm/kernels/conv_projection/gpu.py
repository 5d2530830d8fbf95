"""The convolution and the product with x_proj in one kernel, in 16 bits on tensor cores."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from cdm.kernels.nvrtc import Kernel, element_macros, even_rows, ints

SOURCE = Path(__file__).with_name("conv_projection.cu")
TOKENS = 16  # per block
RUN = 16  # tokens per thread
WARPS = 4  # per block
CHUNK = 512  # channels in shared memory: with 16 tokens of two directions 35 KB


class Packed(NamedTuple):
    """The weights as the kernel reads them."""

    taps: torch.Tensor  # (width + 1, d_inner) float32: those of the convolution, then its bias
    weight: torch.Tensor  # (d_inner / 32, columns / 16, 2, 32, 8): x_proj, by steps and lanes


def conv_projection(x, packed):
    """Result as `cdm.kernels.conv_projection.conv_projection`."""
    batch, length, d_inner = x.shape
    x = even_rows(x)
    if x.data_ptr() % 16 or x.stride(1) % 8:
        x = x.contiguous()
    width, columns = len(packed.taps) - 1, 16 * packed.weight.shape[1]
    u, x_dbl = x.new_empty(2, batch, length, d_inner), x.new_empty(2, batch, length, columns)
    kernel = _kernel(x.device.index, x.dtype, d_inner, width, columns, x.stride(1))
    kernel(
        (-(-length // TOKENS), batch), 32 * WARPS, x, *packed, u, x_dbl, *ints(batch, length)
    )  # fmt: skip
    return u, x_dbl


def pack_weights(conv_weight, conv_bias, weight) -> Packed:
    """Bring the arguments of `conv_projection` into the order in which the kernel reads them."""
    columns, d_inner = weight.shape
    # Row 16 m + 4 a + 2 h + e and channel 32 k + 8 c + 4 s + 2 q + f are in step k, tile m and
    # product s with lane 4 (2 a + e) + c, which holds q, h and f one after the other.
    mahekcsqf = weight.detach().reshape(columns // 16, 4, 2, 2, d_inner // 32, 4, 2, 2, 2)
    kmsaecqhf = mahekcsqf.permute(4, 0, 6, 1, 3, 5, 7, 2, 8)
    return Packed(
        torch.cat([conv_weight.t(), conv_bias[None]]).float(),
        kmsaecqhf.reshape(d_inner // 32, columns // 16, 2, 32, 8),
    )


@cache
def _kernel(device_index, *sizes):
    return Kernel(SOURCE, "conv_projection", device_index, **kernel_macros(*sizes))


def kernel_macros(dtype, d_inner: int, width: int, columns: int, x_stride: int) -> dict:
    """What conv_projection.cu says that its caller defines."""
    return element_macros(dtype) | {
        "D_INNER": d_inner,
        "CHUNK": min(d_inner, CHUNK),
        "WIDTH": width,
        "COLUMNS": columns,
        "X_STRIDE": x_stride,
        "RUN": RUN,
        "WARPS": WARPS,
        "MIN_BLOCKS": 4 if columns <= 48 else 3 if columns <= 80 else 2,  # for want of registers
    }
