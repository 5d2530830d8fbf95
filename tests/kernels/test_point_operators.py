"""Farthest points, nearest neighbours and interpolation against naive forms and golden numbers."""

import numpy as np
import pytest
import torch
from golden import assert_close, load_arrays
from helpers import poison

from cdm.kernels import farthest_points as farthest
from cdm.kernels import nearest_neighbours as nearest
from cdm.kernels.farthest_points import farthest_points
from cdm.kernels.interpolation import NUM_NEIGHBOURS, interpolate, interpolation_weights, naive
from cdm.kernels.nearest_neighbours import nearest_neighbours

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
devices = pytest.mark.parametrize("device", ["cpu", GPU])
sizes = pytest.mark.parametrize("num_points", [1, 3, 5, 37, 129, 512])
duplicates = pytest.mark.parametrize("duplicates", [False, True])


def clouds(num_points, duplicates=False, batch=3):
    """Rooms of 4 metres; duplicates lie on a grid with many equal distances."""
    generator = torch.Generator().manual_seed(num_points)
    xyz = 4 * torch.rand(batch, num_points, 3, generator=generator) - 1
    return xyz.round() if duplicates else xyz


def check_farthest_points(xyz, num_samples, device):
    expected = farthest.naive.farthest_points(xyz, num_samples)
    found = farthest_points(xyz.to(device), num_samples)
    assert found.dtype == torch.int64
    assert torch.equal(found.cpu(), expected)


def check_nearest_neighbours(xyz, queries, k, device):
    index, distance = nearest.naive.nearest_neighbours(xyz, queries, k)
    found = nearest_neighbours(xyz.to(device), queries.to(device), k)
    assert torch.equal(found[0].cpu(), index)
    assert torch.equal(found[1].cpu(), distance)  # the same bits everywhere


@devices
@sizes
@duplicates
def test_farthest_points_match_naive(num_points, duplicates, device, monkeypatch):
    poison(monkeypatch)
    for num_samples in {1, max(1, num_points // 4), num_points}:
        check_farthest_points(clouds(num_points, duplicates), num_samples, device)


@devices
@sizes
@duplicates
@pytest.mark.parametrize("k", [1, 3, 8, 16])
def test_nearest_neighbours_match_naive(num_points, duplicates, k, device, monkeypatch):
    poison(monkeypatch)
    xyz = clouds(num_points, duplicates)
    for queries in (xyz, xyz[:, ::4], clouds(200)):
        check_nearest_neighbours(xyz, queries, k, device)


@pytest.mark.gpu
@duplicates
@pytest.mark.parametrize("num_points", [8192, 20000])
def test_whole_rooms_match_the_cpu(num_points, duplicates):
    xyz = clouds(num_points, duplicates, batch=2)
    taken = farthest_points(xyz, num_points // 4)
    assert torch.equal(farthest_points(xyz.cuda(), num_points // 4).cpu(), taken)
    for k in (3, 8, 16):
        expected = nearest_neighbours(xyz, xyz[:, ::4], k)
        found = nearest_neighbours(xyz.cuda(), xyz[:, ::4].cuda(), k)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


@duplicates
@pytest.mark.parametrize("k", [3, 8, 16])
def test_blocks_of_points_match_naive(duplicates, k):
    check_nearest_neighbours(clouds(1500, duplicates), clouds(100), k, "cpu")


def test_missing_neighbours_are_the_first_point_far_away():
    xyz = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    index, distance = nearest_neighbours(xyz, xyz, 4)
    assert index.tolist() == [[[0, 1, 0, 0], [1, 0, 0, 0]]]
    assert distance.tolist() == [[[0, 1, 1e5, 1e5], [0, 1, 1e5, 1e5]]]


@devices
@pytest.mark.parametrize("num_coarse", [1, 2, 9, 128])
def test_interpolation_matches_naive(num_coarse, device):
    coarse, fine = clouds(num_coarse), clouds(200)
    x = torch.randn(3, num_coarse, 20)
    index, distance = nearest_neighbours(coarse, fine, NUM_NEIGHBOURS)
    weights = interpolation_weights(distance)
    assert_close("sums", torch.ones(3, 200), weights.sum(dim=-1), 1e-6, 0)
    rows = index + num_coarse * torch.arange(3)[:, None, None]
    found = interpolate(*(a.to(device) for a in (x, rows, weights)))
    expected = naive.interpolate(x.double(), index, weights.double())
    assert_close("interpolation", expected, found.cpu(), 1e-5, 1e-6)


def test_a_coarse_point_keeps_its_feature():
    xyz, x = clouds(50, batch=1), torch.randn(1, 50, 4)
    index, distance = nearest_neighbours(xyz, xyz, 3)
    assert_close("x", x, interpolate(x, index, interpolation_weights(distance)), 1e-5, 1e-5)


@devices
def test_indices_of_all_levels_are_those_of_afford_motion(parity, device):
    """All levels of the scene model: exact indices, distances within afford-motion's rounding."""
    arrays = load_arrays(parity / "07_scene_model" / "forward_c6.npz")
    xyz = [arrays["c_pc_xyz"]]
    offset = torch.arange(len(xyz[0]))[:, None]

    def check(points, queries, k):
        name = f"knn_m{queries.shape[:2].numel()}_k{k}"
        index, distance = nearest_neighbours(points.to(device), queries.to(device), k)
        index = index.cpu() + points.shape[1] * offset[..., None]
        assert np.array_equal(index.flatten(0, 1), arrays[name + "_idx"]), name
        assert_close(name, arrays[name + "_dist"], distance.flatten(0, 1).cpu(), 1e-6, 1e-6)

    check(xyz[0], xyz[0], 8)
    for level in range(4):
        fine = xyz[-1]
        taken = farthest_points(fine.to(device), fine.shape[1] // 4).cpu()
        rows = (taken + fine.shape[1] * offset).flatten()
        assert np.array_equal(rows, arrays[f"fps_idx_{level}"])
        xyz.append(fine.gather(1, taken[..., None].expand(-1, -1, 3)))
        check(fine, xyz[-1], 16)
        check(xyz[-1], fine, 3)
