"""A sampling step's update on CUDA devices, its noise drawn where it is added."""

from functools import cache
from pathlib import Path

from cdm.kernels.nvrtc import Kernel, ints

SOURCE = Path(__file__).parent / "sampling_step.cu"
THREADS = 256


def sampling_step(x, pred_xstart, previous, order, keys, table, noise_steps, position):
    """x = a pred_xstart + b x + c previous + sigma noise, in place; noise is `cdm.noise.normal`.

    Args:
        x, pred_xstart: (batch, num_points, contact_dim) float32.
        previous: shaped like them, the prediction of the step before, which this one replaces;
            None for samplers that look back at none.
        order: (batch, num_points) int64, the original point at each place; None: in order.
        keys: (batch, 2) int64, see `cdm.kernels.philox.device_keys`.
        table: (rows, 4) float32: a, b, sigma, c. Terms with a coefficient of 0 are left out.
        noise_steps: (rows,) int64, the step number of the noise.
        position: (1,) int64, the row to use; a tensor, so that a CUDA graph can be replayed.
    """
    batch, num_points, contact_dim = x.shape
    _kernel(x.device.index, contact_dim)(
        (-(-num_points // THREADS), batch), THREADS, x, pred_xstart, previous, order, keys,
        table, noise_steps, position, *ints(num_points),
    )  # fmt: skip


@cache
def _kernel(device_index, contact_dim):
    return Kernel(SOURCE, "sampling_step", device_index, CONTACT_DIM=contact_dim)
