"""The k nearest neighbours of every point of a batch of clouds."""

from cdm.kernels import nvrtc
from cdm.kernels.nearest_neighbours import naive


def nearest_neighbours(xyz, queries, k):
    """The k points nearest to each query, by ascending distance.

    Squared distances are float32: (dx*dx + dy*dy) + dz*dz, every operation rounded. Among equally
    near points the one with the lowest index comes first. So every backend gives the same indices.
    If a cloud has fewer than k points, the missing neighbours are its first point at distance
    1e5, as in afford-motion.

    Args:
        xyz: (batch, num_points, 3), metres; converted to float32.
        queries: (batch, num_queries, 3), metres.
        k: number of neighbours per query.
    Returns:
        index: (batch, num_queries, k) int64, into each cloud.
        distance: (batch, num_queries, k) float32, metres.
    """
    xyz, queries = (points.detach().float().contiguous() for points in (xyz, queries))
    if xyz.device.type == "cpu":
        from cdm.kernels.nearest_neighbours import cpu

        return cpu.nearest_neighbours(xyz, queries, k)
    if nvrtc.unavailable(xyz.device.index) is None:
        from cdm.kernels.nearest_neighbours import gpu

        return gpu.nearest_neighbours(xyz, queries, k)
    return naive.nearest_neighbours(xyz, queries, k)
