"""The demo's rooms: first the words that ask for something, then a room in which it can be done.

The words come first, so that those of 20,000 items are known in a second. `make_task` draws the
action, the target, and what distinguishes the target from similar pieces. `make_room` places
furniture until the words mean exactly one piece and a path leads to it.
"""

import math
from dataclasses import dataclass

import numpy as np

from cdm.datasets.actions import ACTIONS
from cdm.demo.furniture import COLORS, FREE_STANDING, LOOKALIKES, SIDES, SIZES, Footprints, Piece
from cdm.demo.paths import shortest_paths

NEAR_M, FAR_M = 0.5, 1.1  # gap from the neighbour to the target at most, to its rivals at least
MOST_M = 5.8  # longest side of a room
APPROACH_M = 0.25  # from the edge of the target to a person who stands in front of it
FRONT_M = (1.0, 0.85)  # width and depth of the floor in front of the target that stays free
TARGETS = {
    "sit": ("bed", "sofa", "armchair", "chair", "stool"),
    "lie": ("bed", "sofa"),
    "stand up": ("bed", "sofa", "armchair", "chair", "stool"),
    "walk": tuple(SIZES),
}
WORDINGS = {
    "sit": ("sit on {}", "sit down on {}", "a person sits on {}", "someone takes a seat on {}"),
    "lie": ("lie on {}", "lie down on {}", "a person lies down on {}", "someone lies on {}"),
    "stand up": (
        *("stand up from {}", "get up from {}"),
        *("a person stands up from {}", "someone gets up from {}"),
    ),
    "walk": ("walk to {}", "walk up to {}", "a person walks to {}", "someone goes to {}"),
}
NEAR_WORDS = ("near", "next to", "beside")


@dataclass(frozen=True)
class Task:
    """What is to be done, and the furniture that is needed for it.

    Args:
        told_by: what distinguishes the target from the other pieces of its kind: "kind" (there are
            none), "color", or "neighbour" (it stands near one piece of another kind).
        color: of the target.
        rivals: colors of the other pieces of the target's kind.
        near: kind of the neighbour, or "".
        captions: wordings that all mean the target.
    """

    action: str
    kind: str
    told_by: str
    color: str
    rivals: tuple[str, ...]
    near: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Room:
    """Furniture on a floor whose middle is the origin.

    Args:
        size: width and depth of the floor, metres.
        pieces: the target, its neighbour if the task has one, its rivals, then all others.
        side: of the target that is used, in quarter turns from its front.
        path: (num_corners, 2) on the floor, from a place in the room to that side, metres.
    """

    size: tuple[float, float]
    pieces: list[Piece]
    side: int
    path: np.ndarray


def make_task(item: int, rng: np.random.Generator) -> Task:
    """Draw the task of item number `item`."""
    action = ACTIONS[item % len(ACTIONS)]
    kind = _pick(TARGETS[action], rng)
    told_by = _pick(["kind"] * 3 + ["color"] * 4 + ["neighbour"] * 3, rng)
    colors = [list(COLORS)[i] for i in rng.permutation(len(COLORS))]
    num_rivals = 0 if told_by == "kind" else 1 if SIZES[kind][0][0] > 0.95 else rng.integers(1, 3)
    near = ""
    if told_by == "neighbour":
        near = _pick([other for other in SIZES if not alike(kind, other)], rng)
        rivals = [_pick(colors, rng) for _ in range(num_rivals)]
    else:
        rivals = colors[1 : 1 + num_rivals]

    captions = []
    num_captions = _pick((1, 1, 1, 1, 1, 2, 2, 2, 3, 3), rng)
    for i in rng.permutation(len(WORDINGS[action]))[:num_captions]:
        noun = f"the {kind}"
        if told_by == "color" or (told_by == "kind" and rng.random() < 0.3):
            noun = f"the {colors[0]} {kind}"
        if near:
            noun += f" {_pick(NEAR_WORDS, rng)} the {near}"
        captions.append(WORDINGS[action][i].format(noun))
    return Task(action, kind, told_by, colors[0], tuple(rivals), near, tuple(captions))


def alike(kind: str, other: str) -> bool:
    """Whether people could take one kind for the other."""
    return kind == other or any(kind in pair and other in pair for pair in LOOKALIKES)


def make_room(task: Task, rng: np.random.Generator) -> Room:
    """A room in which the task's captions mean exactly one piece, and a path leads to it."""
    named = [kind for kind in (task.kind, task.near) if kind]
    others = [kind for kind in SIZES if not any(alike(kind, other) for other in named)]
    extras = [_pick(others, rng) for _ in range(rng.integers(2, 6))]
    size = rng.uniform(3.6, 5.2, 2)  # metres; if nothing fits, the room grows and loses pieces
    while True:
        room = _try_room(task, extras, size, rng)
        if room is not None:
            return room
        size, extras = np.minimum(1.03 * size, MOST_M), extras[: max(1, len(extras) - 1)]


def _try_room(task: Task, extras, size, rng) -> Room | None:
    target, side, front = _place_target(task, size, rng)
    pieces, taken = [target], target.footprint()
    if task.near:
        neighbour = _place(task.near, None, size, rng, taken + front, near=taken)
        if neighbour is None:
            return None
        pieces.append(neighbour)
        taken += neighbour.footprint()
    for color in task.rivals:
        far = pieces[1].footprint() if task.near else None
        rival = _place(task.kind, color, size, rng, taken + front, far=far)
        if rival is None:
            return None
        pieces.append(rival)
        taken += rival.footprint()
    for kind in extras:
        piece = _place(kind, None, size, rng, taken + front)
        if piece is not None:  # a piece without a place is left out
            pieces.append(piece)
            taken += piece.footprint()

    # A walk keeps away from other pieces, so that it comes closest to its target.
    away, wall, least, most = (
        (0.6, 0.6, 1.2, 3.5) if task.action == "walk" else (0.3, 0.4, 0.3, 1.6)
    )
    clearance = np.array([APPROACH_M - 0.05] + [away] * (len(pieces) - 1))
    spot = target.to_room(_on_side(side, target.half_depth(side) + APPROACH_M))[:2]
    starts = rng.uniform(-1, 1, (24, 2)) * (size / 2 - wall)
    paths = shortest_paths(spot, starts, taken.grown(clearance), size / 2 - wall)
    for path in paths:
        if least < np.linalg.norm(np.diff(path, axis=0), axis=1).sum() < most:
            return Room(tuple(size), pieces, side, path)
    return None


def _pick(choices, rng):
    return choices[rng.integers(len(choices))]


def _on_side(side: int, away: float) -> tuple[float, float, float]:
    """The floor point `away` metres from a piece's middle on a side, in the piece's frame."""
    angle = side * math.pi / 2
    return (-away * math.sin(angle), away * math.cos(angle), 0.0)


def _proposals(kind: str, size, rng, num: int = 40):
    """Size of a piece, and (num,) x, y, yaw at which it could stand in a room."""
    low, high = SIZES[kind]
    w, d, h = (round(float(value), 3) for value in rng.uniform(low, high))
    if kind in FREE_STANDING:
        reach = size / 2 - max(w, d) / 2 - 0.05
        x, y = rng.uniform(-reach, reach, (num, 2)).T
        turned = rng.integers(0, 4, num) * math.pi / 2 + rng.normal(0, 0.15, num)
        return (w, d, h), x, y, np.where(rng.random(num) < 0.5, turned, rng.uniform(-3, 3, num))
    wall = rng.integers(0, 4, num)  # the wall behind it, in quarter turns from the wall at -y
    away = size[1 - wall % 2] / 2 - d / 2 - 0.06
    along = rng.uniform(-1, 1, num) * (size[wall % 2] / 2 - w / 2 - 0.06)
    yaw = wall * (math.pi / 2)
    c, s = np.cos(yaw), np.sin(yaw)
    return (w, d, h), along * c + away * s, along * s - away * c, yaw + rng.normal(0, 0.03, num)


def _inside(footprints: Footprints, size) -> np.ndarray:
    return (np.abs(footprints.corners) < size / 2).all((1, 2))


def _place_target(task: Task, size, rng) -> tuple[Piece, int, Footprints]:
    """The target, the side from which it is used, and the floor in front of it."""
    while True:
        (w, d, h), x, y, yaw = _proposals(task.kind, size, rng)
        side = int(_pick(SIDES.get(task.kind, (0,)), rng))
        away = (d, w)[side % 2] / 2 + FRONT_M[1] / 2
        out = yaw + side * math.pi / 2
        centers = np.stack([x - away * np.sin(out), y + away * np.cos(out)], axis=1)
        front = Footprints(centers, np.full((len(x), 2), FRONT_M), out)
        places = Footprints(np.stack([x, y], 1), np.full((len(x), 2), (w, d)), yaw)
        good = np.flatnonzero(_inside(places, size) & _inside(front, size))
        if len(good):
            i = good[0]
            piece = Piece(task.kind, task.color, (w, d, h), float(x[i]), float(y[i]), float(yaw[i]))
            return piece, side, Footprints(centers[i : i + 1], [FRONT_M], out[i : i + 1])


def _place(kind, color, size, rng, taken: Footprints, near=None, far=None) -> Piece | None:
    """A piece that overlaps none of `taken`, or None if there is no place for it.

    Args:
        near, far: footprints that the piece is within NEAR_M of, or at least FAR_M away from.
    """
    (w, d, h), x, y, yaw = _proposals(kind, size, rng)
    color = color or _pick(list(COLORS), rng)
    places = Footprints(np.stack([x, y], axis=1), np.full((len(x), 2), (w, d)), yaw)
    good = _inside(places, size) & (places.gaps(taken).min(1) > 0.06)
    if near is not None:
        good &= places.gaps(near).max(1) < NEAR_M
    if far is not None:
        good &= places.gaps(far).min(1) > FAR_M
    if not good.any():
        return None
    i = good.argmax()
    return Piece(kind, color, (w, d, h), float(x[i]), float(y[i]), float(yaw[i]))
