"""Farthest points: every backend gives the indices of the naive form."""

import pytest
import torch
from clouds import clouds, devices, duplicates, sizes
from emulator import emulate
from helpers import poison

from cdm.kernels.farthest_points import farthest_points, gpu, naive


def check_farthest_points(xyz, num_samples, device):
    expected = naive.farthest_points(xyz, num_samples)
    found = farthest_points(xyz.to(device), num_samples)
    assert found.dtype == torch.int64
    assert torch.equal(found.cpu(), expected)


@devices
@sizes
@duplicates
def test_farthest_points_match_naive(num_points, duplicates, device, monkeypatch):
    poison(monkeypatch)
    for num_samples in {1, max(1, num_points // 4), num_points}:
        check_farthest_points(clouds(num_points, duplicates), num_samples, device)


@duplicates
@pytest.mark.parametrize("num_points", [1, 37, 600])
def test_the_kernel_run_on_the_cpu_matches_naive(num_points, duplicates, monkeypatch):
    emulate(gpu, monkeypatch)
    poison(monkeypatch)
    xyz, num_samples = clouds(num_points, duplicates, batch=2), min(num_points, 20)
    expected = naive.farthest_points(xyz, num_samples)
    assert torch.equal(gpu.farthest_points(xyz, num_samples), expected)


@pytest.mark.gpu
@duplicates
@pytest.mark.parametrize("num_points", [8192, 20000])
def test_whole_rooms_match_the_cpu(num_points, duplicates):
    xyz = clouds(num_points, duplicates, batch=2)
    taken = farthest_points(xyz, num_points // 4)
    assert torch.equal(farthest_points(xyz.cuda(), num_points // 4).cpu(), taken)
