"""The demo's furniture: pieces built of boxes, their sizes, colours and places on the floor."""

import math
from dataclasses import dataclass

import numpy as np

SIZES = {  # smallest and largest width, depth, height (of the seat, where there is one), metres
    "bed": ((1.0, 1.95, 0.42), (1.6, 2.1, 0.52)),
    "sofa": ((1.95, 0.85, 0.38), (2.3, 1.0, 0.46)),
    "armchair": ((0.8, 0.75, 0.38), (0.95, 0.9, 0.46)),
    "chair": ((0.42, 0.42, 0.43), (0.5, 0.48, 0.49)),
    "stool": ((0.34, 0.34, 0.42), (0.42, 0.42, 0.5)),
    "table": ((0.8, 0.7, 0.7), (1.4, 0.95, 0.78)),
    "desk": ((1.1, 0.55, 0.7), (1.5, 0.7, 0.78)),
    "cabinet": ((0.7, 0.4, 0.8), (1.2, 0.5, 1.3)),
    "shelf": ((0.7, 0.28, 1.5), (1.1, 0.36, 2.0)),
}
FREE_STANDING = ("table", "chair", "stool", "armchair")  # all others stand with the back to a wall
# Sides from which a piece is used, in quarter turns from its front; for all others the front.
SIDES = {"bed": (1, 3), "table": (0, 1, 2, 3), "stool": (0, 1, 2, 3)}
LOOKALIKES = (("chair", "armchair"), ("table", "desk"), ("cabinet", "shelf"), ("sofa", "armchair"))
COLORS = {  # rgb in [-1, 1]
    "red": (0.7, -0.75, -0.75),
    "green": (-0.7, 0.35, -0.6),
    "blue": (-0.75, -0.4, 0.75),
    "yellow": (0.9, 0.7, -0.75),
    "purple": (0.1, -0.75, 0.4),
    "brown": (-0.1, -0.5, -0.8),
    "white": (0.9, 0.9, 0.9),
    "black": (-0.85, -0.85, -0.85),
}


@dataclass(frozen=True)
class Piece:
    """A piece of furniture at (x, y). In its own frame its front points along +y."""

    kind: str
    color: str
    size: tuple[float, float, float]  # width, depth, height, metres
    x: float
    y: float
    yaw: float  # radians

    def boxes(self) -> np.ndarray:
        """(num_boxes, 2, 3) lowest and highest corners of its boxes, in the piece's frame."""
        w, d, h = self.size[0] / 2, self.size[1] / 2, self.size[2]
        body, top = [(-w, -d, 0), (w, d, h)], [(-w, -d, h - 0.05), (w, d, h)]
        legs = [
            [(x - 0.03, y - 0.03, 0), (x + 0.03, y + 0.03, h - 0.05)]
            for x in (0.04 - w, w - 0.04)
            for y in (0.04 - d, d - 0.04)
        ]
        back = [(-w, -d, h), (w, 0.2 - d, h + 0.4)]
        arms = [[(x, 0.2 - d, h), (x + 0.12, d, h + 0.2)] for x in (-w, w - 0.12)]
        parts = {
            "table": [top, *legs],
            "stool": [top, *legs],
            "chair": [top, *legs, [(-w, -d, h), (w, 0.05 - d, h + 0.45)]],
            "armchair": [body, back, *arms],
            "sofa": [body, back, *arms],
            "bed": [
                *(body, [(-w, -d, h), (w, 0.06 - d, h + 0.45)]),  # headboard
                [(0.15 - w, 0.1 - d, h), (w - 0.15, 0.45 - d, h + 0.1)],  # pillow
            ],
            "desk": [top, [(-w, -d, 0), (0.04 - w, d, h)], [(w - 0.4, -d, 0), (w, d, h - 0.05)]],
            "cabinet": [body],
            "shelf": [
                *([(-w, -d, 0), (w, 0.03 - d, h)], [(-w, -d, 0), (0.03 - w, d, h)]),
                [(w - 0.03, -d, 0), (w, d, h)],
                *([(-w, -d, z), (w, d, z + 0.03)] for z in np.linspace(0.05, h - 0.03, 5)),
            ],
        }
        return np.array(parts[self.kind], float)

    def to_room(self, xyz) -> np.ndarray:
        """Points (..., 3) of the piece's frame, in the room's frame."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        x, y, z = np.moveaxis(np.asarray(xyz, float), -1, 0)
        return np.stack([x * c - y * s + self.x, x * s + y * c + self.y, z], axis=-1)

    def footprint(self) -> "Footprints":
        return Footprints([(self.x, self.y)], [self.size[:2]], [self.yaw])

    def half_depth(self, side: int) -> float:
        """Metres from its middle to its edge on a side, in quarter turns from the front."""
        return self.size[1 - side % 2] / 2


class Footprints:
    """n rectangles on the floor: centers (n, 2), sizes (n, 2) and yaws (n,)."""

    def __init__(self, centers, sizes, yaws):
        self.centers, self.yaws = np.asarray(centers, float), np.asarray(yaws, float)
        self.halves = np.asarray(sizes, float) / 2
        c, s = np.cos(self.yaws), np.sin(self.yaws)
        self.axes = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], axis=1)  # (n, 2, 2)
        signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        self.corners = self.centers[:, None] + (signs * self.halves[:, None]) @ self.axes

    def __add__(self, other: "Footprints") -> "Footprints":
        pairs = ((self.centers, other.centers), (self.halves, other.halves))
        centers, halves = (np.concatenate(pair) for pair in pairs)
        return Footprints(centers, 2 * halves, np.concatenate([self.yaws, other.yaws]))

    def grown(self, margin) -> "Footprints":
        """The rectangles, wider by a margin (a number or (n,), metres) on every side."""
        return Footprints(self.centers, 2 * (self.halves + np.reshape(margin, (-1, 1))), self.yaws)

    def gaps(self, other: "Footprints") -> np.ndarray:
        """(n, m) metres between each pair of rectangles (separating axis theorem).

        The gap is measured along the edge direction in which it is largest. It is negative where
        the two overlap, and otherwise between 0.7 times their distance and their distance.
        """

        def parted(a, b):  # the largest gap along the axes of a: (n, m)
            own = np.einsum("nij,nkj->nik", a.axes, a.corners)[:, None]
            its = np.einsum("nij,mkj->nmik", a.axes, b.corners)
            return np.maximum(its.min(-1) - own.max(-1), own.min(-1) - its.max(-1)).max(-1)

        return np.maximum(parted(self, other), parted(other, self).T)
