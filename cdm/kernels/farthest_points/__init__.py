"""Farthest point sampling (Qi et al. 2017, PointNet++): a cloud thinned out evenly."""

from cdm.kernels import nvrtc
from cdm.kernels.farthest_points import naive


def farthest_points(xyz, num_samples):
    """Points that are each the farthest from all that were taken before; the first is point 0.

    Squared distances are float32 ((dx*dx + dy*dy) + dz*dz, each operation rounded), and of
    equally far points the lowest index is taken, so every backend gives the same indices.

    Args:
        xyz: (batch, num_points, 3), metres; taken as float32.
        num_samples: at most num_points.
    Returns:
        (batch, num_samples) int64, indices into each cloud.
    """
    xyz = xyz.detach().float().contiguous()
    if xyz.device.type == "cpu":
        from cdm.kernels.farthest_points import cpu

        return cpu.farthest_points(xyz, num_samples)
    if nvrtc.unavailable(xyz.device.index) is None:
        from cdm.kernels.farthest_points import gpu

        return gpu.farthest_points(xyz, num_samples)
    return naive.farthest_points(xyz, num_samples)
