"""Distances of furniture, measured along its outline: slow and plain."""

import numpy as np


def outline(piece):
    """Points on the edge of a piece's footprint."""
    corners = piece.footprint().corners[0]
    t = np.linspace(0, 1, 60)[:, None, None]
    return (corners + t * (np.roll(corners, 1, axis=0) - corners)).reshape(-1, 2)


def distance_m(piece, other):
    """Metres between the outlines of two pieces."""
    gaps = outline(piece)[:, None] - outline(other)[None]
    return np.linalg.norm(gaps, axis=-1).min()


def outline_distance(xy, piece):
    """Metres from a point to the outline of a piece."""
    return np.linalg.norm(outline(piece) - xy, axis=1).min()
