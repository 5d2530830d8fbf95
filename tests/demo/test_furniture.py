"""Footprints: gaps between rectangles on the floor."""

import itertools

import numpy as np
from footprints import distance_m


def test_gaps_lie_between_overlap_and_distance(scenes):
    for scene in scenes[:8]:
        for a, b in itertools.combinations(scene.room.pieces, 2):
            gap, distance = a.footprint().gaps(b.footprint())[0, 0], distance_m(a, b)
            assert gap - 1e-9 <= distance <= np.sqrt(2) * gap + 0.05
    piece = scenes[0].room.pieces[0].footprint()
    assert piece.gaps(piece)[0, 0] < 0
