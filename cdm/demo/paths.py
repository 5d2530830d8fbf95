"""Shortest walking paths between furniture, found in a graph of the corners that see each other."""

import numpy as np

from cdm.demo.furniture import Footprints


def sight(a: np.ndarray, b: np.ndarray, obstacles: Footprints) -> np.ndarray:
    """Whether the straight line from a[i] to b[j] misses all obstacles: (n, m) bool.

    Slab method: a line is inside a rectangle while it is between both pairs of opposite edges.

    Args:
        a, b: (n, 2) and (m, 2), metres.
    """

    def local(points):  # (num_obstacles, n, 2)
        offset = points[None] - obstacles.centers[:, None]
        return np.einsum("kij,knj->kni", obstacles.axes, offset)

    start = local(a)[:, :, None]
    along = local(b)[:, None] - start
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    half = obstacles.halves[:, None, None]
    # Where the line crosses the edges, as fractions of its length.
    first, last = (-half - start) / along, (half - start) / along
    enter = np.minimum(first, last).max(-1)
    leave = np.maximum(first, last).min(-1)
    return ~((enter < leave) & (leave > 0) & (enter < 1)).any(0)


def shortest_paths(spot, starts, obstacles: Footprints, half) -> list[np.ndarray]:
    """The shortest path to the spot from each start that can reach it.

    Args:
        spot: (2,); starts: (n, 2), metres.
        half: (2,) half the sides of the rectangle around the origin that paths stay in.
    Returns:
        Paths (num_corners, 2), from start to spot, metres. Starts without a path are left out.
    """
    # The graph: its nodes, and the lengths of its edges.
    corners = obstacles.grown(0.01).corners.reshape(-1, 2)
    corners = corners[(np.abs(corners) < half).all(1)]
    nodes = np.concatenate([[spot], starts, corners])
    length = np.linalg.norm(nodes[:, None] - nodes[None], axis=-1)
    length[~sight(nodes, nodes, obstacles)] = np.inf

    # Bellman-Ford: after k rounds, `distance` is the shortest of all paths with at most k + 1 legs.
    distance, following = length[0], np.zeros(len(nodes), int)
    while True:
        through = distance[:, None] + length
        best = through.argmin(0)
        shorter = through.min(0) < distance - 1e-9
        if not shorter.any():
            break
        following[shorter] = best[shorter]
        distance = np.where(shorter, through.min(0), distance)

    # Follow each start to the spot.
    paths = []
    for start in 1 + np.flatnonzero(np.isfinite(distance[1 : 1 + len(starts)])):
        path = [start]
        while path[-1] != 0:
            path.append(following[path[-1]])
        paths.append(nodes[path])
    return paths
