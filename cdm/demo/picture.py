"""A picture of the demo's rooms and motions (needs matplotlib).

`python -m cdm.demo.picture sheet.png 24 25 26` draws the rooms of these items, one a line. README's
picture is made by gallery/overview.py from a report.
"""

import sys

import numpy as np

from cdm.contact import contact_from_distance
from cdm.demo.scenes import TARGET, Scene, distances, make_scene

PELVIS = 0
BONES = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (3, 6), (4, 7), (5, 8), (6, 9), (7, 10), (8, 11)]
BONES += [(9, 12), (9, 13), (9, 14), (12, 15), (13, 16), (14, 17), (16, 18), (17, 19)]
BONES += [(18, 20), (19, 21)]
SHADES = ("#bbbbbb", "#888888", "#555555", "#e6007e")  # of the figure, from start to end


def contact(scene: Scene) -> np.ndarray:
    """(NUM_POINTS, 22) closeness of every joint."""
    dist = distances(scene.points[:, :3], scene.joints)
    return contact_from_distance(dist, use_raw_dist=False, sigma=0.8)


def draw_points(axes, scene: Scene, color, size: float = 7) -> None:
    """The room in 3D. color: (NUM_POINTS,) closeness, or (NUM_POINTS, 3) rgb in [-1, 1]."""
    import matplotlib

    colors = matplotlib.colormaps["magma"](color) if color.ndim == 1 else (color + 1) / 2
    axes.scatter(*scene.points[:, :3].T, c=colors, s=size, linewidths=0, depthshade=False)
    axes.view_init(elev=45, azim=-60)
    axes.set_box_aspect(np.ptp(scene.points[:, :3], axis=0), zoom=1.2)
    axes.set_axis_off()


def draw_figure(axes, scene: Scene) -> None:
    """The skeleton at four moments; axes in 3D or, seen from above, in 2D."""
    frames = np.linspace(0, len(scene.joints) - 1, len(SHADES)).round().astype(int)
    dims = 3 if hasattr(axes, "get_zlim") else 2
    for frame, shade in zip(frames, SHADES, strict=True):
        for bone in BONES:
            ends = scene.joints[frame][list(bone), :dims]
            axes.plot(*ends.T, color=shade, linewidth=1.4, zorder=10)


def draw_sheet(path, items) -> None:
    """Rooms with the motion from above and in 3D, the target, and the pelvis's closeness."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(17, 4.2 * len(items)))
    for row, item in enumerate(items):
        scene = make_scene(item)
        points, target = scene.points, scene.labels == TARGET
        top = figure.add_subplot(len(items), 4, 4 * row + 1, aspect="equal")
        order = points[:, 2].argsort()
        colors = (points[order, 3:] + 1) / 2
        top.scatter(points[order, 0], points[order, 1], c=colors, s=5, linewidths=0)
        for piece in scene.room.pieces:
            outline = piece.footprint().corners[0]
            top.fill(*outline.T, fill=False, edgecolor="k", linewidth=0.8)
            top.text(piece.x, piece.y, f"{piece.color} {piece.kind}", fontsize=7, ha="center")
        top.plot(*scene.joints[:, 0, :2].T, color="#e6007e", linewidth=1)
        draw_figure(top, scene)
        top.set_title(f"{item}: " + "\n".join(scene.task.captions), fontsize=9)
        panels = (points[:, 3:], np.where(target[:, None], (1, -1, -1), (0.6, 0.6, 0.6)))
        for column, color in enumerate((*panels, contact(scene)[:, PELVIS]), start=2):
            axes = figure.add_subplot(len(items), 4, 4 * row + column, projection="3d")
            draw_points(axes, scene, color)
            if column == 2:
                draw_figure(axes, scene)
    figure.subplots_adjust(left=0.02, right=1, bottom=0.01, top=0.98, wspace=0)
    figure.savefig(path, dpi=60)


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    draw_sheet(sys.argv[1], [int(word) for word in sys.argv[2:]])
