"""A sampling step's update on CUDA devices, one pass over memory."""

from functools import cache
from pathlib import Path

from cdm.kernels.nvrtc import Kernel, ints

SOURCE = Path(__file__).parent / "sampling_step.cu"
THREADS = 256


def sampling_step(x, pred_xstart, previous, order, keys, table, noise_steps, position):
    """Arguments and result as `cdm.kernels.sampling_step.sampling_step`."""
    batch, num_points, contact_dim = x.shape
    _kernel(x.device.index, contact_dim)(
        (-(-num_points // THREADS), batch), THREADS, x, pred_xstart, previous, order, keys,
        table, noise_steps, position, *ints(num_points),
    )  # fmt: skip


@cache
def _kernel(device_index, contact_dim):
    return Kernel(SOURCE, "sampling_step", device_index, CONTACT_DIM=contact_dim)
