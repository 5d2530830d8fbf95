"""The convolution and the product with x_proj in one kernel, in 16 bits on tensor cores."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from cdm.kernels.nvrtc import Kernel, element_macros, even_rows, ints

SOURCE = Path(__file__).with_name("conv_projection.cu")
RUN = 2  # tokens per lane
TOKENS = 8 * RUN  # per warp
WARPS = 4  # per block
STAGES = 3  # steps of 32 channels that are being copied or used


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
    parts = split(batch, length, d_inner, columns, x.device)
    _kernel(x.device.index, x.dtype, d_inner, width, columns, x.stride(1), parts)(
        (-(-length // (TOKENS * WARPS // parts)), batch), 32 * WARPS,
        x, *packed, u, x_dbl, *ints(batch, length),
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


def split(batch: int, length: int, d_inner: int, columns: int, device) -> int:
    """How many warps share the channels of a tile of tokens: 1, or more if there are few tiles."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    warps = processors * WARPS * min_blocks(columns)  # that are on the device at a time
    tiles = batch * -(-length // TOKENS)
    for parts in (4, 2):
        # The sums of more columns would not fit into 48 KB of shared memory.
        if d_inner % (32 * parts) == 0 and columns <= 96 and tiles * parts <= warps:
            return parts
    return 1


def min_blocks(columns: int) -> int:
    """Blocks per processor, for which the compiler has to spare registers."""
    return 4 if columns <= 48 else 3 if columns <= 80 else 2


@cache
def _kernel(device_index, *sizes):
    return Kernel(SOURCE, "conv_projection", device_index, **kernel_macros(*sizes))


def kernel_macros(dtype, d_inner: int, width: int, columns: int, x_stride: int, parts: int) -> dict:
    """What conv_projection.cu says that its caller defines."""
    return element_macros(dtype) | {
        "D_INNER": d_inner,
        "WIDTH": width,
        "COLUMNS": columns,
        "X_STRIDE": x_stride,
        "RUN": RUN,
        "SPLIT": parts,
        "WARPS": WARPS,
        "STAGES": STAGES,
        "MIN_BLOCKS": min_blocks(columns),
    }
