"""The built-in demo dataset: procedural rooms in the on-disk layout of HUMANISE (z up, metres).

Every item is a corner of a room with some furniture, and one short motion that uses one piece of
it. All is drawn from `default_rng([seed, item])`: what an item says and holds does not depend on
how many items there are.
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdm.datasets.contact_map import ContactMapDataset
from cdm.datasets.files import COLUMNS, AnnoRow
from cdm.demo.motion import make_motion
from cdm.files import write_bytes

NUM_ITEMS, NUM_POINTS, SEED = 24, 2048, 0
HALF, WALL = 2.0, 2.2  # metres: half the side of the crop, height of the walls
BACKGROUND = 0  # label of floor and walls; piece i has i + 1
ACTIONS = {
    "sit": (("sofa", "chair", "bed"), "sit on the {}", "a person sits down on the {}"),
    "stand up": (("chair", "sofa", "bed"), "stand up from the {}", "someone gets up from the {}"),
    "lie": (("bed", "sofa", "bed"), "lie on the {}", "a person lies down on the {}"),
    "walk": (("table", "cabinet", "chair"), "walk to the {}", "someone walks up to the {}"),
}
SIZES = {  # smallest and largest width, depth, height (of the seat, where there is one)
    "bed": ((1.1, 1.85, 0.42), (1.5, 2.0, 0.5)),
    "sofa": ((1.5, 0.8, 0.38), (1.9, 0.95, 0.44)),
    "chair": ((0.42, 0.42, 0.43), (0.52, 0.5, 0.48)),
    "table": ((0.7, 0.6, 0.68), (1.2, 0.8, 0.78)),
    "cabinet": ((0.7, 0.38, 0.9), (1.1, 0.5, 1.7)),
}


@dataclass(frozen=True)
class Piece:
    """A piece of furniture standing at (x, y), its front along +y of its own frame."""

    kind: str
    size: tuple[float, float, float]  # width, depth, height
    x: float
    y: float
    yaw: float
    color: tuple[float, float, float]  # [-1, 1]

    def boxes(self) -> np.ndarray:
        """(num_boxes, 2, 3) lowest and highest corners, in the piece's frame."""
        w, d, h = self.size[0] / 2, self.size[1] / 2, self.size[2]
        top = [(-w, -d, h - 0.05), (w, d, h)]
        legs = [
            [(x - 0.03, y - 0.03, 0), (x + 0.03, y + 0.03, h - 0.05)]
            for x in (0.04 - w, w - 0.04)
            for y in (0.04 - d, d - 0.04)
        ]
        body, back = [(-w, -d, 0), (w, d, h)], [(-w, -d, h), (w, 0.2 - d, h + 0.4)]
        arms = [[(x, 0.2 - d, h), (x + 0.15, d, h + 0.18)] for x in (-w, w - 0.15)]
        parts = {
            "table": [top, *legs],
            "chair": [top, *legs, [(-w, -d, h), (w, 0.05 - d, h + 0.45)]],
            "cabinet": [body],
            "sofa": [body, back, *arms],
            "bed": [
                *(body, [(-w, -d - 0.06, 0), (w, -d, h + 0.45)]),  # headboard
                [(0.15 - w, 0.1 - d, h), (w - 0.15, 0.45 - d, h + 0.1)],  # pillow
            ],
        }
        return np.array(parts[self.kind], float)

    def to_room(self, xyz: np.ndarray) -> np.ndarray:
        """(..., 3) points of the piece's frame in the room's."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return xyz @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + [self.x, self.y, 0]

    def blocks(self, other: "Piece") -> bool:
        """Whether it stands where the other one or its user would be."""
        w, d, _ = other.size
        grid = np.zeros((8, 12, 3))  # its footprint and 1 m in front of it
        grid[..., 0] = np.linspace(-w / 2, w / 2, 8)[:, None]
        grid[..., 1] = np.linspace(-d / 2, d / 2 + 1, 12)
        place = other.to_room(grid) - [self.x, self.y, 0]
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        across = np.abs(place[..., 0] * c + place[..., 1] * s) < self.size[0] / 2 + 0.12
        along = np.abs(place[..., 1] * c - place[..., 0] * s) < self.size[1] / 2 + 0.12
        return bool((across & along).any())

    def room_ahead(self) -> float:
        """Metres one can walk straight away from it, at most 0.9."""
        steps = np.linspace(0.1, 0.9, 9)
        path = self.to_room(np.stack([0 * steps, self.size[1] / 2 + 0.25 + steps, 0 * steps], -1))
        return float(steps[(np.abs(path[:, :2]) < HALF - 0.2).all(1)].max(initial=0.1))


@dataclass(frozen=True)
class Room:
    """What an item shows: its pieces (the first is the target), the action, the annotation."""

    pieces: list[Piece]
    action: str
    row: AnnoRow


def make_room(item: int, seed: int = SEED) -> Room:
    """Lay out one item; no points yet."""
    rng = np.random.default_rng([seed, item])
    action = list(ACTIONS)[item % len(ACTIONS)]
    kinds, *phrases = ACTIONS[action]
    target = kinds[item // len(ACTIONS) % len(kinds)]
    others = rng.permutation([kind for kind in SIZES if kind != target])[: rng.integers(2, 5)]
    pieces = [place(target, rng)]
    for kind in others:
        for _ in range(20):  # what finds no place is left out
            piece = place(str(kind), rng)
            if not any(piece.blocks(other) or other.blocks(piece) for other in pieces):
                pieces.append(piece)
                break
    texts = [phrase.format(target) for phrase in phrases]
    if len(pieces) > 1:
        x, y = pieces[0].x, pieces[0].y
        nearest = min(pieces[1:], key=lambda piece: math.hypot(piece.x - x, piece.y - y))
        texts.append(f"{texts[0]} near the {nearest.kind}")
    x, y, z = (round(float(offset), 8) for offset in rng.uniform((-3, -3, -0.1), (3, 3, 0.1)))
    utterance = "$$".join(texts[: 1 + item % 3])
    return Room(pieces, action, AnnoRow(f"demo{item:04d}_00", (x, y, z), utterance))


def place(kind: str, rng) -> Piece:
    """A piece of random size: chairs and tables in the room, the rest with its back to a wall."""
    size = tuple(rng.uniform(*SIZES[kind]))
    reach = HALF - 0.1 - max(size[:2]) / 2
    x, y = rng.uniform(-reach, reach, 2)
    yaw = math.atan2(x, -y) + rng.normal(0, 0.4)  # its front to the middle of the room
    if kind not in ("chair", "table"):
        at_wall = size[1] / 2 + 0.1 - HALF
        x, y, yaw = (x, at_wall, 0.0) if rng.random() < 0.5 else (at_wall, y, -math.pi / 2)
        yaw += rng.normal(0, 0.03)
    return Piece(kind, size, x, y, yaw, tuple(rng.uniform(-0.7, 0.7, 3)))


def make_points(room: Room, rng) -> tuple[np.ndarray, np.ndarray]:
    """Sample the surfaces of floor, two walls and furniture.

    Returns:
        (NUM_POINTS, 6) float32, xyz and rgb in [-1, 1]; (NUM_POINTS,) labels.
    """
    corner, side, up = (-HALF, -HALF, 0), 2 * HALF, (0, 0, WALL)
    faces = [  # corner, two edges, color, label
        (corner, (side, 0, 0), (0, side, 0), (0.2, 0.0, -0.25), BACKGROUND),
        (corner, (side, 0, 0), up, (0.75, 0.72, 0.6), BACKGROUND),
        (corner, (0, side, 0), up, (0.6, 0.68, 0.75), BACKGROUND),
    ]
    for label, piece in enumerate(room.pieces, start=1):
        for low, high in piece.boxes():
            for axis in range(3):
                u, v = np.diag(high - low)[[(axis + 1) % 3, (axis + 2) % 3]]
                for start in (low, high - u - v):
                    if axis == 2 and start[2] == 0:
                        continue  # stands on the floor
                    ends = piece.to_room(np.stack([start, start + u, start + v]))
                    faces.append((ends[0], *(ends[1:] - ends[0]), piece.color, label))
    corner, u, v, color, label = (np.array(column) for column in zip(*faces, strict=True))
    # walls and floor would take most points: furniture counts four times its area
    area = np.linalg.norm(np.cross(u, v), axis=1) * np.where(label == BACKGROUND, 1, 4)
    face = rng.choice(len(faces), NUM_POINTS, p=area / area.sum())
    a, b = rng.random((2, NUM_POINTS, 1))
    xyz = corner[face] + a * u[face] + b * v[face] + rng.normal(0, 0.006, (NUM_POINTS, 3))
    rgb = np.clip(color[face] + rng.normal(0, 0.08, (NUM_POINTS, 3)), -1, 1)
    return np.concatenate([xyz, rgb], axis=1).astype(np.float32), label[face]


def make_item(item: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """points (NUM_POINTS, 6) and dist (NUM_POINTS, 22) float32, labels (NUM_POINTS,)."""
    room = make_room(item, seed)
    points, labels = make_points(room, np.random.default_rng([seed, item, 1]))
    target = room.pieces[0]
    motion = make_motion(room.action, target.kind, target.size, target.room_ahead())
    joints = target.to_room(motion).transpose(1, 2, 0)  # (22, 3, frames)
    x, y, z = points[:, :3].T.astype(np.float64)[..., None]  # each (NUM_POINTS, 1)
    squared = [((x - u) ** 2 + (y - v) ** 2 + (z - w) ** 2).min(1) for u, v, w in joints]
    return points, np.sqrt(np.stack(squared, axis=1)).astype(np.float32), labels


def annotations(seed: int = SEED, num_items: int = NUM_ITEMS) -> list[AnnoRow]:
    """Rows of the demo's anno.csv; no file is needed."""
    return [make_room(item, seed).row for item in range(num_items)]


def splits(num_items: int = NUM_ITEMS) -> dict[str, list[int]]:
    """Row numbers in each split file."""
    test = range(4, num_items, 5)
    train = [item for item in range(num_items) if item not in test]
    return {"all": list(range(num_items)), "train": train, "test": list(test)}


def write_demo(data_dir, seed: int = SEED, num_items: int = NUM_ITEMS) -> None:
    """Write the whole dataset; the same bytes every time."""
    folder = Path(data_dir) / "HUMANISE"
    for name, ids in splits(num_items).items():
        write_bytes(folder / f"{name}.txt", "".join(f"{i:06d}\n" for i in ids).encode())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*COLUMNS, "others"])
    for row in annotations(seed, num_items):
        writer.writerow([row.scene_id, *row.scene_trans, row.utterance, ""])
    write_bytes(folder / "contact_motion/anno.csv", table.getvalue().encode())
    for item in range(num_items):
        points, dist, labels = make_item(item, seed)
        contacts, mask = io.BytesIO(), io.BytesIO()
        np.savez(contacts, points=points, mask=np.arange(len(points)), dist=dist)
        np.save(mask, labels == 1)
        name = f"{item:05d}"
        write_bytes(folder / f"contact_motion/contacts/{name}.npz", contacts.getvalue())
        write_bytes(folder / f"contact_motion/target_mask/{name}.npy", mask.getvalue())


class DemoDataset(ContactMapDataset):
    """The demo as a dataset whose samples are known before its files are written."""

    def read_rows(self, set_name):
        return annotations()

    def read_split(self, set_name):
        return set(splits()[self.config.phase])
