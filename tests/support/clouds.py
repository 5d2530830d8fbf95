"""Point clouds, and how tests of operators on them are parametrized."""

import pytest
import torch

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
devices = pytest.mark.parametrize("device", ["cpu", GPU])
sizes = pytest.mark.parametrize("num_points", [1, 3, 5, 37, 129, 512])
duplicates = pytest.mark.parametrize("duplicates", [False, True])


def clouds(num_points, duplicates=False, batch=3):
    """Rooms of 4 metres; duplicates lie on a grid with many equal distances."""
    generator = torch.Generator().manual_seed(num_points)
    xyz = 4 * torch.rand(batch, num_points, 3, generator=generator) - 1
    return xyz.round() if duplicates else xyz
