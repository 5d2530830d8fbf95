"""Interpolation from coarse points against the naive form."""

import pytest
import torch
from clouds import clouds, devices
from golden import assert_close

from cdm.kernels.interpolation import NUM_NEIGHBOURS, interpolate, interpolation_weights, naive
from cdm.kernels.nearest_neighbours import nearest_neighbours


@devices
@pytest.mark.parametrize("num_coarse", [1, 2, 9, 128])
def test_interpolation_matches_naive(num_coarse, device):
    coarse, fine = clouds(num_coarse), clouds(200)
    x = torch.randn(3, num_coarse, 20)
    index, distance = nearest_neighbours(coarse, fine, NUM_NEIGHBOURS)
    weights = interpolation_weights(distance)
    assert_close("sums", torch.ones(3, 200), weights.sum(dim=-1), 1e-6, 0)
    neighbour_idx = index + num_coarse * torch.arange(3)[:, None, None]
    found = interpolate(*(a.to(device) for a in (x, neighbour_idx, weights)))
    expected = naive.interpolate(x.double(), index, weights.double())
    assert_close("interpolation", expected, found.cpu(), 1e-5, 1e-6)


def test_a_coarse_point_keeps_its_feature():
    xyz, x = clouds(50, batch=1), torch.randn(1, 50, 4)
    index, distance = nearest_neighbours(xyz, xyz, 3)
    assert_close("x", x, interpolate(x, index, interpolation_weights(distance)), 1e-5, 1e-5)
