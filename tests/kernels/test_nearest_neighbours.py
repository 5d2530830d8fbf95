"""Nearest neighbours: every backend gives the indices and bits of the naive form."""

import numpy as np
import pytest
import torch
from clouds import clouds, devices, duplicates, sizes
from emulator import emulate
from golden import assert_close, load_arrays
from helpers import poison

from cdm.kernels.farthest_points import farthest_points
from cdm.kernels.nearest_neighbours import gpu, naive, nearest_neighbours


def check_nearest_neighbours(xyz, queries, k, device):
    index, distance = naive.nearest_neighbours(xyz, queries, k)
    found = nearest_neighbours(xyz.to(device), queries.to(device), k)
    assert torch.equal(found[0].cpu(), index)
    assert torch.equal(found[1].cpu(), distance)  # the same bits everywhere


@devices
@sizes
@duplicates
@pytest.mark.parametrize("k", [1, 3, 8, 16])
def test_nearest_neighbours_match_naive(num_points, duplicates, k, device, monkeypatch):
    poison(monkeypatch)
    xyz = clouds(num_points, duplicates)
    for queries in (xyz, xyz[:, ::4], clouds(200)):
        check_nearest_neighbours(xyz, queries, k, device)


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


@duplicates
@pytest.mark.parametrize(("num_points", "k"), [(2, 3), (300, 16)])
def test_the_kernel_run_on_the_cpu_matches_naive(num_points, k, duplicates, monkeypatch):
    emulate(gpu, monkeypatch)
    xyz, queries = clouds(num_points, duplicates, batch=2), clouds(150, batch=2)
    expected = naive.nearest_neighbours(xyz, queries, k)
    poison(monkeypatch)
    found = gpu.nearest_neighbours(xyz, queries, k)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.gpu
@duplicates
@pytest.mark.parametrize("num_points", [8192, 20000])
def test_whole_rooms_match_the_cpu(num_points, duplicates):
    xyz = clouds(num_points, duplicates, batch=2)
    for k in (3, 8, 16):
        expected = nearest_neighbours(xyz, xyz[:, ::4], k)
        found = nearest_neighbours(xyz.cuda(), xyz[:, ::4].cuda(), k)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
