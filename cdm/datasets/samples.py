"""A row of the plan, and what is read for it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the plan: an item and the caption a map is made for."""

    set: str
    index: str  # row number ("12"), or the clip's name (H3D)
    caption_idx: int
    text: str
    scene_id: str = ""
    scene_trans: tuple[float, float, float] = (0.0, 0.0, 0.0)  # metres

    def __str__(self) -> str:
        """As messages name it: `HUMANISE/12 caption 0`."""
        return f"{self.set}/{self.index} caption {self.caption_idx}"


@dataclass(frozen=True)
class Item:
    """What is read for a sample; names are afford-motion's.

    Args:
        c_pc_xyz: (num_points, 3) float32, metres.
        c_pc_feat: (num_points, point_feat_dim) float32; no columns where no feature is used.
        distance: (num_points, contact_dim) float32, metres; None without ground truth.
        x: like distance, the normalised contact map; None without ground truth or statistics.
        info_scene_trans, info_aug_trans: (4, 4) float32.
        info_obj_mask: (num_points,) bool, points of the target object, or None.
        info_scene_mesh: path of the scene's mesh relative to the data folder, or "".
    """

    sample: Sample
    c_pc_xyz: np.ndarray
    c_pc_feat: np.ndarray
    distance: np.ndarray | None
    info_scene_trans: np.ndarray
    info_scene_mesh: str = ""
    info_obj_mask: np.ndarray | None = None
    info_aug_trans: np.ndarray | None = None
    x: np.ndarray | None = None
