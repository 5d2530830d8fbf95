"""Philox noise as tensors: the numbers of `cdm.noise`."""

import numpy as np
import pytest
import torch

from cdm.kernels import philox
from cdm.kernels.philox import torch_int64
from cdm.noise import normal, philox4x32, stream_key


def keys(batch):
    return np.array([stream_key(2023, "noise", "H3D", i) for i in range(batch)], np.uint32)


def check(device):
    """Words are equal, normals within 2e-6, and neither depends on the place in the batch."""
    for batch, num_points, contact_dim in [(1, 1, 6), (3, 63, 5), (5, 257, 6), (2, 2048, 22)]:
        key, step = keys(batch), 431
        expected = normal(key, step, num_points, contact_dim)
        blocks = -(-num_points * contact_dim // 4)
        counter = np.zeros((blocks, 4), np.uint32)
        counter[:, 0], counter[:, 1] = np.arange(blocks), step
        on_device = philox.device_keys(key, device)
        out = torch.stack(torch_int64.words(on_device, step, blocks), -1).cpu().numpy()
        np.testing.assert_array_equal(out, philox4x32(counter, key[:, None]))

        for sibling in (torch_int64.normal, lambda *a: philox.normal(*a, device=device)):
            out = sibling(on_device, step, num_points, contact_dim)
            assert out.dtype == torch.float32 and out.device.type == torch.device(device).type
            np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=0, atol=2e-6)
            alone = sibling(on_device[-1:], step, num_points, contact_dim)
            assert torch.equal(alone[0], out[-1]), "noise depends on the batch slot"
            swapped = sibling(on_device.flip(0), step, num_points, contact_dim)
            assert torch.equal(swapped.flip(0), out), "noise depends on the batch slot"


def test_noise_of_torch_is_that_of_cdm_noise():
    check("cpu")


@pytest.mark.gpu
def test_noise_on_a_gpu_is_that_of_cdm_noise():
    check("cuda")
