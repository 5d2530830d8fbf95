"""Farthest point sampling (Qi et al. 2017, PointNet++), which thins a cloud out evenly."""

from cdm.kernels import nvrtc
from cdm.kernels.farthest_points import naive


def farthest_points(xyz, num_samples):
    """Take points one by one, each the farthest from those taken before; the first is point 0.

    Squared distances are float32: (dx*dx + dy*dy) + dz*dz, every operation rounded. Among equally
    far points the one with the lowest index is taken. So every backend gives the same indices.

    Args:
        xyz: (batch, num_points, 3), metres; converted to float32.
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
