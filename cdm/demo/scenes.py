"""The built-in demo dataset: procedural rooms in the on-disk layout of HUMANISE (z up, metres).

Every item is a room with furniture and one short motion that uses one piece. Item i is row i of
anno.csv. Its random generators are seeded with [seed, i], so it does not depend on the number of
items. Rooms, furniture, words and motion do not depend on the number of points either. The rows of
val and test come first, then those of train. In code, train has 20,000 items; on disk are the first
NUM_WRITTEN of them.
"""

import csv
import io
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdm.config import DEMO_POINTS
from cdm.datasets.contact_map import ContactMapDataset
from cdm.datasets.samples import Sample
from cdm.datasets.tables import COLUMNS, AnnoRow
from cdm.demo.furniture import COLORS
from cdm.demo.motion import make_motion
from cdm.demo.rooms import Room, Task, make_room, make_task
from cdm.files import write_bytes
from cdm.jobs.workers import end_with

NUM_POINTS, SEED = DEMO_POINTS, 0
# Rows of anno.csv.
VAL, TEST, TRAIN = range(0, 24), range(24, 344), range(344, 20344)
NUM_WRITTEN = 64  # items of train that are written; computed statistics are of these
BACKGROUND, TARGET = 0, 1  # labels of points: floor and walls, the target; piece i has i + 1
BLOCK = 1024  # points whose distances are computed together: what the cache holds
BACKGROUND_SHARE = 0.4  # of the points; the others go to furniture by the root of its area
# Of the backdrop, metres: spacing on floor and walls, and on furniture; width of faces left out.
GRID_M, THINNEST_M = (0.09, 0.06), 0.02
UPRIGHT = 0.82  # brightness of upright faces of it
DENSE = 16384  # points of a cloud that is read without a backdrop
FLOORS = ((0.25, 0.12, -0.05), (0.1, 0.1, 0.12), (0.45, 0.35, 0.2), (-0.15, -0.15, -0.1))
WALLS = ((0.7, 0.68, 0.58), (0.6, 0.66, 0.72), (0.72, 0.72, 0.7), (0.62, 0.7, 0.6))


class Scene(NamedTuple):
    """Everything about one item.

    Args:
        task, room: what is to be done, and where.
        points: (num_points, 6) float32, xyz in metres and rgb in [-1, 1].
        labels: (num_points,) int, BACKGROUND, or i + 1 for the points of piece i.
        joints: (frames, 22, 3) float64, metres.
    """

    task: Task
    room: Room
    points: np.ndarray
    labels: np.ndarray
    joints: np.ndarray


def make_scene(item: int, seed: int = SEED, num_points: int = NUM_POINTS) -> Scene:
    """Build one item."""
    task = make_task(item, np.random.default_rng([seed, item]))
    rng = np.random.default_rng([seed, item, 1])  # make_row needs the first one alone
    room = make_room(task, rng)
    surfaces = _surfaces(room, rng)
    points, labels = make_points(surfaces, NUM_POINTS, rng)
    scale = rng.uniform(0.93, 1.05)  # 1.63 m to 1.84 m
    if num_points != NUM_POINTS:
        # From a generator of their own: the height of the person comes out of `rng` after the
        # usual points, and must not depend on how many are asked for.
        points, labels = make_points(surfaces, num_points, np.random.default_rng([seed, item, 2]))
    joints = make_motion(task.action, room.pieces[0], room.side, room.path, scale)
    return Scene(task, room, points, labels, joints)


def make_backdrop(item: int, seed: int = SEED) -> np.ndarray:
    """The surfaces of an item's room as a fine grid of points, so that an eye reads the room.

    Returns:
        (n, 6) float32, xyz in metres and rgb in [-1, 1], darker on upright faces.
    """
    rng = np.random.default_rng([seed, item, 1])  # drawn from as in make_scene
    room = make_room(make_task(item, np.random.default_rng([seed, item])), rng)
    parts = []
    for corner, (a, b), color, label in zip(*_surfaces(room, rng), strict=True):
        lengths = np.linalg.norm((a, b), axis=1)
        if lengths.min() < THINNEST_M:
            continue
        # The middles of equal cells, about one spacing wide.
        cells = np.ceil(lengths / GRID_M[min(label, 1)]).astype(int)
        across, along = ((np.arange(n) + 0.5) / n for n in cells.tolist())
        places = corner + across[:, None, None] * a + along[:, None] * b
        upright = abs(np.cross(a, b)[2]) < 0.5 * lengths.prod()
        shade = (color + 1) * (UPRIGHT if upright else 1) - 1
        shades = np.broadcast_to(np.clip(shade, -1, 1), places.shape)
        parts.append(np.concatenate([places, shades], axis=-1).reshape(-1, 6))
    return np.concatenate(parts).astype(np.float32)


def make_row(item: int, seed: int = SEED) -> tuple[AnnoRow, str]:
    """An item's row of anno.csv and its column `others`, found without building the room."""
    rng = np.random.default_rng([seed, item])
    task = make_task(item, rng)
    x, y, z = (round(float(u), 8) for u in (2 * rng.uniform(size=3) - 1) * (3, 3, 0.1))
    row = AnnoRow(f"demo{item:05d}_00", (x, y, z), "$$".join(task.captions))
    return row, f"action={task.action};target={task.kind};told_by={task.told_by}"


def make_points(surfaces, num_points: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Sample points on the surfaces of a room (`_surfaces`): points and labels, as in Scene."""
    corners, edges, colors, labels = surfaces
    # By area alone, walls and floor would take nearly all points and a chair almost none.
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    of_thing = np.bincount(labels, area)
    weight = np.sqrt(of_thing)
    weight[BACKGROUND] = weight[TARGET:].sum() * BACKGROUND_SHARE / (1 - BACKGROUND_SHARE)
    chance = area * (weight / of_thing)[labels]
    face = rng.choice(len(area), num_points, p=chance / chance.sum())
    share = rng.random((num_points, 2, 1))
    xyz = corners[face] + (share * edges[face]).sum(1) + rng.normal(0, 0.006, (num_points, 3))
    rgb = np.clip(colors[face] + rng.normal(0, 0.08, (num_points, 3)), -1, 1)
    return np.concatenate([xyz, rgb], axis=1).astype(np.float32), labels[face]


def _surfaces(room: Room, rng) -> tuple[np.ndarray, ...]:
    """Rectangles of floor, two to four walls and furniture.

    Returns:
        Corners (n, 3), pairs of edges (n, 2, 3), colors (n, 3) and labels (n,).
    """
    width, depth = room.size
    height = rng.uniform(1.6, 2.4)
    flat = [([-width / 2, -depth / 2, 0.0], [width / 2, depth / 2, 0.0])]  # floor, then walls
    for side in rng.permutation(4)[: rng.integers(2, 5)]:
        low, high = [-width / 2, -depth / 2, 0.0], [width / 2, depth / 2, height]
        if side < 2:
            low[side] = high[side]
        else:
            high[side - 2] = low[side - 2]
        flat.append((low, high))
    floor, wall = FLOORS[rng.integers(len(FLOORS))], WALLS[rng.integers(len(WALLS))]
    corners, edges = _faces(np.array(flat, float))
    colors = np.array([floor, *[wall] * (len(flat) - 1)]).repeat(3, axis=0)
    parts = [(corners, edges, colors, np.full(len(corners), BACKGROUND))]
    for label, piece in enumerate(room.pieces, start=TARGET):
        corners, edges = _faces(piece.boxes(), all_six=True)
        shade = np.array(COLORS[piece.color]) + rng.normal(0, 0.07)
        parts.append(
            (
                piece.to_room(corners),
                piece.to_room(edges) - (piece.x, piece.y, 0),
                np.broadcast_to(shade, corners.shape),
                np.full(len(corners), label),
            )
        )
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _faces(boxes: np.ndarray, all_six: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Faces of (n, 2, 3) boxes as corners (m, 3) and pairs of edges (m, 2, 3).

    The three faces at the lowest corner of each box. With all_six, all faces that are not on the
    floor.
    """
    low, size = boxes[:, 0], boxes[:, 1] - boxes[:, 0]
    edge = size[:, None] * np.eye(3)  # (n, 3, 3)
    edges = np.stack([edge[:, [1, 2]], edge[:, [2, 0]], edge[:, [0, 1]]], axis=1)  # (n, 3, 2, 3)
    corners = low[:, None].repeat(3, axis=1)  # (n, 3, 3)
    corners, far = corners.reshape(-1, 3), (corners + edge).reshape(-1, 3)
    edges = edges.reshape(-1, 2, 3)
    if not all_six:
        return corners, edges
    raised = ~((corners[:, 2] == 0) & (np.arange(len(corners)) % 3 == 2))
    return np.concatenate([corners[raised], far]), np.concatenate([edges[raised], edges])


def distances(points: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """The smallest distance from each joint to each point during a motion.

    Args:
        points: (num_points, 3); joints: (frames, 22, 3), metres.
    Returns:
        (num_points, 22) float32, metres; computed in float64.
    """
    # |p - q|^2 = |p|^2 + (-2 q, |q|^2) . (p, 1): one matrix product and one minimum per joint.
    points = points.astype(np.float64)
    ahead = np.concatenate([points, np.ones((len(points), 1))], axis=1).T  # (4, num_points)
    squares = (joints**2).sum(-1, keepdims=True)
    path = np.concatenate([-2 * joints, squares], axis=-1).transpose(1, 0, 2)  # (22, frames, 4)
    nearest = np.empty((len(points), len(path)))
    for start in range(0, len(points), BLOCK):
        block = slice(start, start + BLOCK)
        for joint, frames in enumerate(path):
            nearest[block, joint] = (frames @ ahead[:, block]).min(0)
    nearest += (points**2).sum(1, keepdims=True)
    return np.sqrt(np.maximum(nearest, 0)).astype(np.float32)


def make_item(
    item: int, seed: int = SEED, num_points: int = NUM_POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """points (num_points, 6) and dist (num_points, 22), float32; the target's mask, bool."""
    scene = make_scene(item, seed, num_points)
    dist = distances(scene.points[:, :3], scene.joints)
    return scene.points, dist, scene.labels == TARGET


def splits(num_train: int = NUM_WRITTEN) -> dict[str, range]:
    """Row numbers in each split file."""
    train = TRAIN[:num_train]
    return {"val": VAL, "test": TEST, "train": train, "all": range(train.stop)}


def write_demo(
    data_dir,
    phase: str = "all",
    num_train: int = NUM_WRITTEN,
    seed: int = SEED,
    num_points: int = NUM_POINTS,
    processes: int = 1,
):
    """Write the index files, and the arrays of a phase and of train.

    The bytes are the same every time, with any number of processes.
    """
    folder, split = Path(data_dir) / "HUMANISE", splits(num_train)
    for name, ids in split.items():
        write_bytes(folder / f"{name}.txt", "".join(f"{i:06d}\n" for i in ids).encode())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*COLUMNS, "others"])
    for item in split["all"]:
        row, others = make_row(item, seed)
        writer.writerow([row.scene_id, *row.scene_trans, row.utterance, others])
    write_bytes(folder / "contact_motion/anno.csv", table.getvalue().encode())
    items = sorted({*split[phase], *split["train"]})
    write = partial(_write_items, folder / "contact_motion", seed, num_points)
    if processes == 1:
        write(items)
    else:
        with ProcessPoolExecutor(processes, initializer=end_with, initargs=(os.getpid(),)) as pool:
            list(pool.map(write, [items[i::processes] for i in range(processes)]))


def _write_items(folder: Path, seed: int, num_points: int, items: Iterable[int]) -> None:
    """Write the arrays of some items."""
    for item in items:
        points, dist, target = make_item(item, seed, num_points)
        contacts, mask = io.BytesIO(), io.BytesIO()
        np.savez(contacts, points=points, mask=np.arange(len(points)), dist=dist)
        np.save(mask, target)
        write_bytes(folder / f"contacts/{item:05d}.npz", contacts.getvalue())
        write_bytes(folder / f"target_mask/{item:05d}.npy", mask.getvalue())


class DemoDataset(ContactMapDataset):
    """The demo as a dataset. Its samples are known before its files are written.

    In phase train no file is read: its 20,000 items are built when they are needed.
    """

    def read_rows(self, set_name):
        last = TRAIN.stop if self.config.phase == "train" else splits()["all"].stop
        return [make_row(item)[0] for item in range(last)]

    def read_split(self, set_name):
        return set(TRAIN if self.config.phase == "train" else splits()[self.config.phase])

    def statistics_samples(self):
        """The written items of train, whatever the phase."""
        return [Sample("HUMANISE", str(item), 0, "") for item in splits()["train"]]

    def statistics_origin(self):
        return "computed"

    def files(self, sample):
        return [] if self.config.phase == "train" else super().files(sample)

    def read_backdrop(self, sample):
        return make_backdrop(int(sample.index)) if self.config.num_points < DENSE else None

    def read_arrays(self, sample, reader, shapes):
        if self.config.phase != "train":
            return super().read_arrays(sample, reader, shapes)
        points, dist, _ = make_item(int(sample.index), num_points=self.config.num_points)
        return {"points": points, "dist": dist}

    def read_motion(self, sample, reader):
        return make_scene(int(sample.index)).joints.astype(np.float32)
