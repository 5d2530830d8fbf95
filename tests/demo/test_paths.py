"""Shortest ways between obstacles."""

import itertools

import numpy as np

from cdm.demo.furniture import Footprints
from cdm.demo.paths import shortest_paths, sight


def test_sight_matches_points_along_the_line():
    rng = np.random.default_rng(0)
    obstacles = Footprints(rng.uniform(-1, 1, (3, 2)), rng.uniform(0.2, 1, (3, 2)), rng.random(3))
    a, b = rng.uniform(-2, 2, (2, 12, 2))
    t = np.linspace(0, 1, 2001)[:, None]
    for i, j in itertools.product(range(12), repeat=2):
        offset = (a[i] + t * (b[j] - a[i]))[None] - obstacles.centers[:, None]
        local = np.abs(np.einsum("kij,knj->kni", obstacles.axes, offset))
        inside = local - obstacles.halves[:, None]
        deepest = inside.max(-1).min()  # how far the line goes into an obstacle, negative
        if abs(deepest) > 1e-3:
            assert sight(a[i : i + 1], b[j : j + 1], obstacles)[0, 0] == (deepest > 0)


def test_a_path_goes_around_an_obstacle_and_is_the_shortest():
    wall = Footprints([(0, 0)], [(2, 0.2)], [0.0])
    half = np.array([3.0, 3.0])
    (path,) = shortest_paths(np.array([0.3, 1.0]), np.array([[0.3, -1.0]]), wall, half)
    assert path[0].tolist() == [0.3, -1.0] and path[-1].tolist() == [0.3, 1.0]
    length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    around = 2 * np.hypot(0.7, 0.9) + 0.2  # by the nearer end
    assert around < length < around + 0.05
    blocked = shortest_paths(np.array([0.3, 0.0]), np.array([[0.3, -1.0]]), wall, half)
    assert blocked == []
