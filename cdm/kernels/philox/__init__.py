"""The noise of one diffusion step as a tensor.

The random words are the same on every device, and the normal numbers are equal to about 1e-6. On
the CPU this is `cdm.noise` itself, in numpy. A compiled form would not be noticed there: per step
on 2 cores, at (4, 2048, 6) and (8, 8192, 6), numpy takes 1.1 and 5.9 ms, torch's int64 1.7 and
5.3 ms and numba 0.3 and 2.9 ms, and the denoising step takes 65 ms and more.
"""

import numpy as np
import torch

from cdm import noise
from cdm.kernels.philox import torch_int64


def normal(keys, step: int, num_points: int, contact_dim: int, device="cpu") -> torch.Tensor:
    """Standard normal noise of one step (`cdm.noise.normal`).

    Args:
        keys: (batch, 2) uint32 array, or `device_keys` of it, which are uploaded only once.
    Returns:
        (batch, num_points, contact_dim) float32 on `device`, the points in their original order.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return torch.from_numpy(noise.normal(np.asarray(keys), step, num_points, contact_dim))
    return torch_int64.normal(device_keys(keys, device), step, num_points, contact_dim)


def device_keys(keys, device) -> torch.Tensor:
    """Keys as (batch, 2) int64 on `device`; returned as they are if they already are that."""
    if not torch.is_tensor(keys):
        keys = torch.from_numpy(np.asarray(keys, np.int64))
    return keys.to(device)
