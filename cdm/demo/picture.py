"""The README's picture: what a contact map is, on a room of the demo.

`python -m cdm.demo.picture` writes overview.png beside this file (needs matplotlib).
"""

from pathlib import Path

import numpy as np

from cdm.datasets.base import contact_from_distance
from cdm.demo.scenes import make_item, make_room

ITEM, PELVIS, LEFT_FOOT, RIGHT_WRIST = 4, 0, 10, 21


def main() -> None:
    """Draw the scene and the ground-truth closeness of three joints."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    points, dist, _ = make_item(ITEM)
    contact = contact_from_distance(dist, use_raw_dist=False, sigma=0.8)
    text = make_room(ITEM).row.captions()[0][1]
    panels = {
        f'scene, and "{text}"': np.clip((points[:, 3:] + 1) / 2, 0, 1),
        "closeness of the pelvis": contact[:, PELVIS],
        "closeness of the left foot": contact[:, LEFT_FOOT],
        "closeness of the right wrist": contact[:, RIGHT_WRIST],
    }
    figure = plt.figure(figsize=(14, 3.9))
    for column, (title, color) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, 4, column, projection="3d")
        colors = matplotlib.colormaps["magma"](color) if color.ndim == 1 else color
        axes.scatter(*points[:, :3].T, c=colors, s=7, linewidths=0, depthshade=False)
        axes.set_title(title, fontsize=10)
        axes.view_init(elev=45, azim=-60)
        axes.set_box_aspect(np.ptp(points[:, :3], axis=0), zoom=1.2)
        axes.set_axis_off()
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.95, wspace=0)
    figure.savefig(Path(__file__).with_name("overview.png"), dpi=90)


if __name__ == "__main__":
    main()
