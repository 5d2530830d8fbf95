"""Nearest neighbours by sorting all distances: the reference, on any device."""

import torch

MISSING = 1e10  # squared distance of a neighbour that a cloud does not have


def nearest_neighbours(xyz, queries, k):
    """Arguments and result as `cdm.kernels.nearest_neighbours.nearest_neighbours`, float32."""
    found = [_of_cloud(*pair, k) for pair in zip(xyz, queries, strict=True)]
    index, squared = (torch.stack(parts) for parts in zip(*found, strict=True))
    return index, squared.double().sqrt().float()  # torch's float32 root may be off by a bit


def _of_cloud(xyz, queries, k):
    dx, dy, dz = (queries[:, None] - xyz[None]).unbind(-1)
    squared, index = ((dx * dx + dy * dy) + dz * dz).sort(dim=1, stable=True)
    squared, index = squared[:, :k], index[:, :k]
    missing = k - squared.shape[1]
    return (
        torch.nn.functional.pad(index, (0, missing)),
        torch.nn.functional.pad(squared, (0, missing), value=MISSING),
    )
