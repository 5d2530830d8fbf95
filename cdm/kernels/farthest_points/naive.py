"""Farthest point sampling as torch operations, on any device."""

import torch

NONE_YET = 1e10  # squared distance to the taken points while none is taken


def farthest_points(xyz, num_samples):
    """Arguments and result as `cdm.kernels.farthest_points.farthest_points`, xyz float32."""
    batch, num_points, _ = xyz.shape
    places = torch.arange(num_points, device=xyz.device)
    nearest = xyz.new_full((batch, num_points), NONE_YET)  # squared distance to the taken points
    taken = [places.new_zeros(batch)]
    for _ in range(num_samples - 1):
        last = xyz.gather(1, taken[-1][:, None, None].expand(-1, 1, 3))
        dx, dy, dz = (xyz - last).unbind(-1)
        nearest = torch.minimum(nearest, (dx * dx + dy * dy) + dz * dz)
        farthest = nearest == nearest.amax(dim=1, keepdim=True)
        taken.append(torch.where(farthest, places, num_points).amin(dim=1))
    return torch.stack(taken, dim=1)[:, :num_samples]
