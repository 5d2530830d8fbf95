"""Nearest neighbours by sorting all distances, on any device."""

import torch

MISSING = 1e10  # squared distance of a neighbour that does not exist
QUERIES = 1024  # how many are computed at a time, which bounds the memory


def nearest_neighbours(xyz, queries, k):
    """Arguments and result as `cdm.kernels.nearest_neighbours.nearest_neighbours`, float32."""
    found = [
        _of_cloud(cloud, part, k)
        for cloud, of_cloud in zip(xyz, queries, strict=True)
        for part in of_cloud.split(QUERIES)
    ]
    index, squared = (
        torch.cat(parts).view(*queries.shape[:2], k) for parts in zip(*found, strict=True)
    )
    # In float64, because torch's float32 square root may be off by one bit.
    return index, squared.double().sqrt().float()


def _of_cloud(xyz, queries, k):
    dx, dy, dz = (queries[:, None] - xyz[None]).unbind(-1)
    squared, index = ((dx * dx + dy * dy) + dz * dz).sort(dim=1, stable=True)
    squared, index = squared[:, :k], index[:, :k]
    missing = k - squared.shape[1]
    return (
        torch.nn.functional.pad(index, (0, missing)),
        torch.nn.functional.pad(squared, (0, missing), value=MISSING),
    )
