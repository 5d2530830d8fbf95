"""One item of the gallery: its points, its maps, and what is known of it (no torch)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

JOINTS = (  # of SMPL, in its order
    *("pelvis", "left hip", "right hip", "lower spine", "left knee", "right knee", "spine"),
    *("left ankle", "right ankle", "upper spine", "left foot", "right foot", "neck"),
    *("left collar", "right collar", "head", "left shoulder", "right shoulder", "left elbow"),
    *("right elbow", "left wrist", "right wrist"),
)


class Measured(NamedTuple):
    """What an evaluation says of a sample, for sorting and filters.

    Args:
        found: share of its maps whose pelvis point is at the target object; None without one.
        error: metres from the generated to the true closest point; None without ground truth.
    """

    found: float | None = None
    error: float | None = None


UNMEASURED = Measured()


@dataclass(frozen=True)
class GalleryItem:
    """What the gallery shows of one sample. Distances and places are metres.

    Attributes:
        set, index, caption_idx: name the sample.
        caption: that the maps were made for.
        action: that the caption asks for, or "".
        xyz: (n, 3) points.
        generated: (k, n, joints) distances.
        closest: (k, joints) positions of each joint's closest point in the cloud.
        truth: (n, joints) distances, or None without ground truth.
        target: (n,) bool, the points of the target object, or None where it is not known.
        colors: (n, 3) uint8 of the scene, or None.
        motion: (frames, 22, 3) joints of the true motion, or None.
        backdrop: (m, 6) more points of the scene, which have no map: xyz as of the points, and red,
            green and blue from -1 to 1; or None.
        measured: by the evaluation.
        pick: why the item is shown: "even" (spread evenly over the archive), "worst", or "".
    """

    set: str
    index: str
    caption_idx: int
    caption: str
    action: str
    xyz: np.ndarray
    generated: np.ndarray
    closest: np.ndarray
    truth: np.ndarray | None = None
    target: np.ndarray | None = None
    colors: np.ndarray | None = None
    motion: np.ndarray | None = None
    backdrop: np.ndarray | None = None
    measured: Measured = UNMEASURED
    pick: str = ""

    @property
    def key(self) -> str:
        """The item's name in links: set/index/caption."""
        return item_key(self.set, self.index, self.caption_idx)


def item_key(set: str, index: str, caption_idx: int) -> str:
    """The name of a sample in links."""
    return f"{set}/{index}/{caption_idx}"


def joint_label(column: str) -> str:
    """What people call a column of a map.

    Args:
        column: number of an SMPL joint, or "farthest" for maps of one column.
    """
    number = int(column) if column.isdecimal() else -1
    return JOINTS[number] if 0 <= number < len(JOINTS) else f"{column} joint"
