"""The bidirectional scan on CUDA devices: on tensor cores in bfloat16, and in float32."""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from cdm.kernels.nvrtc import Kernel, ints

HERE = Path(__file__).parent
FLOAT32_CHANNELS = 64  # of a block and direction
TILE = 8  # tokens

# By measurement, see benchmarks/README.md.
HALVES = 1  # 16 channels each, of a warp
WARPS_PER_PROCESSOR = 16  # are what hides latencies
POLYNOMIALS = 0x8080  # which of 16 exponentials are polynomials


def bidirectional_scan(u, x_dbl, dt_weight, dt_bias, A, D, z):
    """Arguments and result as `cdm.kernels.bidirectional_scan.bidirectional_scan`."""
    y = u.new_empty(u.shape[1:])
    u, x_dbl, dt_weight = u.contiguous(), x_dbl.contiguous(), dt_weight.contiguous()
    if z.stride(2) != 1 or z.stride(0) != z.stride(1) * z.shape[1] or z.data_ptr() % 16:
        z = z.contiguous()
    scan = _tensor_cores if u.dtype == torch.bfloat16 else _float32
    scan(u, x_dbl, dt_weight, dt_bias, A.contiguous(), D, z, y)
    return y


def num_segments(batch: int, length: int, d_inner: int, device) -> int:
    """Segments a sequence is cut into so that a small batch fills the device.

    Cutting costs a first pass over the states, about as long as the scan itself: it pays where
    the segments together bring what one would leave idle.
    """
    warps = 2 * batch * -(-d_inner // (16 * HALVES))
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    segments = WARPS_PER_PROCESSOR * processors // warps
    tiles = -(-length // TILE)
    return max(1, min(segments, tiles // 16)) if segments >= 4 else 1


def _tensor_cores(u, x_dbl, dt_weight, dt_bias, A, D, z, y):
    _, batch, length, d_inner = u.shape
    d_state = A.shape[1]
    warps = _warps(d_state)
    kernels = _tensor_core_kernels(u.device.index, d_state, dt_weight.shape[1])
    tiles = -(-length // TILE)
    segment_tiles = -(-tiles // num_segments(batch, length, d_inner, u.device))
    segments = -(-tiles // segment_tiles)
    ends = sums = None
    if segments > 1:
        ends = torch.empty(2, batch, segments, d_inner, d_state, device=u.device)
        sums = torch.empty(2, batch, segments, d_inner, device=u.device)
    grid = (-(-d_inner // (16 * HALVES * warps)), segments, batch)
    arguments = (
        u, x_dbl, z, dt_weight, dt_bias, A, D, y, ends, sums,
        *ints(batch, length, d_inner, z.stride(1), segment_tiles),
    )  # fmt: skip
    for kernel in kernels if segments > 1 else kernels[1:]:
        kernel(grid, 64 * warps, *arguments)


def _warps(d_state: int) -> int:
    """Warps of a block and direction: what its shared memory and registers hold."""
    return 2 if d_state <= 16 else 1


@cache
def _tensor_core_kernels(device_index, d_state, dt_rank):
    macros = {
        "D_STATE": d_state,
        "DT_RANK": dt_rank,
        "HALVES": HALVES,
        "WARPS": _warps(d_state),
        "MIN_BLOCKS": 4 if d_state <= 32 else 1,
        "POLY_MASK": POLYNOMIALS,
    }
    source = HERE / "tensor_cores.cu"
    names = "segment_states", "bidirectional_scan"
    return [Kernel(source, name, device_index, **macros) for name in names]


def _float32(u, x_dbl, dt_weight, dt_bias, A, D, z, y):
    _, batch, length, d_inner = u.shape
    (_, dt_rank), d_state = dt_weight.shape, A.shape[1]
    delta = F.linear(x_dbl[..., :dt_rank], dt_weight)
    grid = (-(-d_inner // FLOAT32_CHANNELS), batch)
    _float32_kernel(u.device.index, d_state, dt_rank)(
        grid, 2 * FLOAT32_CHANNELS, u, delta, x_dbl, z, dt_bias, A, D, y,
        *ints(batch, length, d_inner, z.stride(1)),
    )  # fmt: skip


@cache
def _float32_kernel(device_index, d_state, dt_rank):
    macros = {
        "D_STATE": d_state,
        "B_COLUMN": dt_rank,
        "ROW": dt_rank + 2 * d_state,
        "CHANNELS": FLOAT32_CHANNELS,
    }
    return Kernel(HERE / "float32.cu", "bidirectional_scan", device_index, **macros)
