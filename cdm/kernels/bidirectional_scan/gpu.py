"""The bidirectional scan on CUDA devices: 16-bit numbers on tensor cores, float32 without."""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from cdm.kernels.nvrtc import Kernel, ints

HERE = Path(__file__).parent
FLOAT32_CHANNELS = 64  # channels per block and direction, in float32
TILE = 8  # tokens

# These numbers were measured, see benchmarks/README.md.
# Warps of 16 channels per processor. More of them do not hide more latency.
WARPS_PER_PROCESSOR = 16
# Warps of 32 channels per processor. With at least so many they are faster than warps of 16
# channels, because they have less overhead.
WIDE_WARPS_PER_PROCESSOR = 7
# One bit for each of 16 exponentials; those with a 1 are computed as polynomials.
POLYNOMIALS = 0x8888


def bidirectional_scan(u, x_dbl, dt_weight, dt_bias, A, D, z):
    """Arguments and result as `cdm.kernels.bidirectional_scan.bidirectional_scan`."""
    y = u.new_empty(u.shape[1:])
    u, x_dbl, dt_weight = u.contiguous(), x_dbl.contiguous(), dt_weight.contiguous()
    if z.stride(2) != 1 or z.stride(0) != z.stride(1) * z.shape[1] or z.data_ptr() % 16:
        z = z.contiguous()
    scan = _float32 if u.dtype == torch.float32 else _tensor_cores
    scan(u, x_dbl, dt_weight, dt_bias, A.contiguous(), D, z, y)
    return y


def _tensor_cores(u, x_dbl, dt_weight, dt_bias, A, D, z, y):
    _, batch, length, d_inner = u.shape
    d_state = A.shape[1]
    halves, segments = split(batch, length, d_inner, u.device)
    warps = _warps(d_state)
    kernels = _tensor_core_kernels(u.device.index, u.dtype, d_state, dt_weight.shape[1], halves)
    tiles = -(-length // TILE)
    segment_tiles = -(-tiles // segments)
    segments = -(-tiles // segment_tiles)
    ends = sums = None
    if segments > 1:
        ends = torch.empty(2, batch, segments, d_inner, d_state, device=u.device)
        sums = torch.empty(2, batch, segments, d_inner, device=u.device)
    grid = (-(-d_inner // (16 * halves * warps)), segments, batch)
    arguments = (
        u, x_dbl, z, dt_weight, dt_bias, A, D, y, ends, sums,
        *ints(batch, length, d_inner, z.stride(1), segment_tiles),
    )  # fmt: skip
    for kernel in kernels if segments > 1 else kernels[1:]:
        kernel(grid, 64 * warps, *arguments)


def split(batch: int, length: int, d_inner: int, device) -> tuple[int, int]:
    """How the work is divided into warps so that it fills the device.

    Returns:
        halves: channels of a warp in units of 16; 2, or 1 if the batch is too small for 2.
        segments: number of parts of each sequence. More than one part needs a first pass over
            the states, which takes about as long as the scan itself. So a sequence is divided
            only if most of the device would be idle otherwise.
    """
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    if 2 * batch * -(-d_inner // 32) >= WIDE_WARPS_PER_PROCESSOR * processors:
        return 2, 1
    segments = WARPS_PER_PROCESSOR * processors // (2 * batch * -(-d_inner // 16))
    tiles = -(-length // TILE)
    return 1, max(1, min(segments, tiles // 16)) if segments >= 4 else 1


def _warps(d_state: int) -> int:
    """Warps per block and direction: as many as shared memory and registers hold."""
    return 2 if d_state <= 16 else 1


@cache
def _tensor_core_kernels(device_index, dtype, d_state, dt_rank, halves):
    macros = {
        "FP16": dtype == torch.float16,
        "D_STATE": d_state,
        "DT_RANK": dt_rank,
        "HALVES": halves,
        "WARPS": _warps(d_state),
        "MIN_BLOCKS": 4 // halves if d_state <= 16 else 2 // halves,
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
