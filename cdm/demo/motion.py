"""The demo's human: a stick figure of 22 SMPL joints, blended between key poses.

Its joints come close to the right things at plausible heights. It does not replace motion capture.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from cdm.demo.furniture import Piece

NUM_FRAMES = 60
PELVIS_M = 0.92  # height of a standing pelvis
SPEED, TURN = 1.2, 3.0  # walking, metres per second; turning, radians per second

# SMPL joints around a pelvis at the origin: x to the right, y ahead, z up, metres. A pair is a left
# and a right joint; the right one's place is listed, and the left one mirrors it in x.
JOINTS: list[Any]
JOINTS = [0, (1, 2), 3, (4, 5), 6, (7, 8), 9, (10, 11), 12, (13, 14), 15, (16, 17), (18, 19)]
JOINTS += [(20, 21)]  # pelvis, hip, spine, knee, spine, ankle, spine, foot, neck, ... wrist
STAND = [
    *((0, 0, 0), (0.09, 0, -0.08), (0, 0, 0.11), (0.1, 0.01, -0.45), (0, 0, 0.24)),
    *((0.1, -0.03, -0.85), (0, 0, 0.3), (0.11, 0.1, -0.9), (0, 0, 0.5), (0.08, 0, 0.42)),
    *((0, 0.03, 0.6), (0.18, 0, 0.43), (0.24, -0.02, 0.17), (0.26, 0.08, -0.06)),
]
SIT = [
    *((0, 0, 0), (0.09, 0.03, -0.03), (0, -0.01, 0.11), (0.12, 0.42, 0.0), (0, -0.02, 0.24)),
    *((0.12, 0.46, -0.42), (0, -0.02, 0.3), (0.13, 0.58, -0.47), (0, 0, 0.5), (0.08, 0, 0.42)),
    *((0, 0.03, 0.6), (0.18, 0, 0.43), (0.23, 0.08, 0.18), (0.16, 0.3, 0.08)),
]
SIT_UP = [  # sitting with the legs stretched out ahead
    *((0, 0, 0), (0.09, 0.05, -0.03), (0, -0.01, 0.11), (0.1, 0.44, 0.04), (0, -0.02, 0.24)),
    *((0.1, 0.85, -0.02), (0, -0.02, 0.3), (0.11, 0.9, 0.1), (0, 0, 0.5), (0.08, 0, 0.42)),
    *((0, 0.03, 0.6), (0.18, 0, 0.43), (0.23, 0.08, 0.18), (0.16, 0.3, 0.08)),
]
KNEES, ANKLES, FEET = [4, 5], [7, 8], [10, 11]
SWING = {7: 0.25, 10: 0.25, 20: -0.25, 4: 0.12, 18: -0.12}  # of left joints in a step, metres
SWING |= {8: -0.25, 11: -0.25, 21: 0.25, 5: -0.12, 19: 0.12}  # right joints swing against them


class Key(NamedTuple):
    """Where the figure is at one time, and in which pose."""

    time: float  # seconds
    pelvis: tuple[float, float, float]  # metres
    heading: float  # radians; 0 looks along +y
    pose: np.ndarray  # (22, 3) joints around the pelvis, metres


def make_pose(rows) -> np.ndarray:
    """(22, 3) joints of a symmetric pose, from rows like STAND."""
    pose = np.zeros((22, 3))
    for joint, xyz in zip(JOINTS, rows, strict=True):
        if isinstance(joint, tuple):
            pose[joint[0]], pose[joint[1]] = np.array(xyz) * [-1, 1, 1], xyz
        else:
            pose[joint] = xyz
    return pose


STANDING, SITTING = make_pose(STAND), make_pose(SIT)
SITTING_UP = make_pose(SIT_UP)
LYING = STANDING[:, [0, 2, 1]] * [1, -1, 1]  # on the back: up becomes -y, ahead becomes up


def sitting_pose(pelvis_m: float, scale: float) -> np.ndarray:
    """(22, 3) joints of a person who sits with the pelvis at pelvis_m and the feet on the floor."""
    pose = SITTING * scale
    pose[ANKLES, 2], pose[FEET, 2] = 0.08 - pelvis_m, 0.03 - pelvis_m
    pose[KNEES, 2] = min(0.0, 0.08 + 0.47 * scale - pelvis_m)
    return pose


def seat_of(piece: Piece, side: int, scale: float) -> np.ndarray:
    """Pelvis (3,) of a person who sits on a side of a piece, in the piece's frame."""
    edge = piece.half_depth(side)
    # The knees are just over the edge. On a shallow piece the pelvis stays near the middle, so that
    # it is not inside the back.
    ahead = max(edge - 0.35 * scale, -0.08 if piece.kind == "chair" else -0.02)
    angle = side * math.pi / 2
    along = 0.15 if piece.kind == "bed" else 0.0  # towards the foot of a bed
    height = piece.size[2] + 0.09
    return np.array([-ahead * math.sin(angle), ahead * math.cos(angle) + along, height])


def couch_of(piece: Piece, side: int, scale: float) -> tuple[np.ndarray, float]:
    """Pelvis (3,) and heading of a person who lies on a bed or sofa, in the piece's frame."""
    width, depth, height = piece.size
    if piece.kind == "bed":  # the head on the pillow, near the side the person came from
        reach = min(width / 2 - 0.4, 0.3) * (-1 if side == 1 else 1)
        return np.array([reach, 0.3 + 0.6 * scale - depth / 2, height + 0.11]), 0.0
    inner = width / 2 - 0.12  # the head at one arm
    return np.array([inner - 0.14 - 0.6 * scale, 0.1, height + 0.11]), math.pi / 2


def key_poses(action: str, piece: Piece, side: int, path: np.ndarray, scale: float) -> list[Key]:
    """The key poses of an action, in the room's frame.

    Args:
        side: of the piece that is used, in quarter turns from its front.
        path: (num_corners, 2) on the floor, leading to that side, metres.
        scale: of the body; 1 is 1.75 m tall.
    """
    # Poses and places.
    standing = STANDING * scale
    seat = piece.to_room(seat_of(piece, side, scale))
    sitting = sitting_pose(seat[2], scale)
    away = piece.yaw + side * math.pi / 2
    keys: list[Key] = []

    def then(seconds, pelvis, heading, pose):
        """Add a key so many seconds later. The figure turns the shorter way."""
        if keys:
            before = keys[-1].heading
            heading = before + (heading - before + math.pi) % (2 * math.pi) - math.pi
            seconds = max(seconds, abs(heading - before) / TURN)
        keys.append(Key((keys[-1].time if keys else 0) + seconds, tuple(pelvis), heading, pose))

    def follow(path):
        """Walk along a path, turning on the spot at its corners."""
        for start, end in itertools.pairwise(path):
            ahead = math.atan2(start[0] - end[0], end[1] - start[1])
            then(0, (*start, PELVIS_M * scale), ahead, standing)
            length = math.hypot(*(end - start))
            then(length / SPEED, (*end, PELVIS_M * scale), ahead, standing)

    # Standing up comes before the way, and all other actions after it.
    spot = (*path[-1], PELVIS_M * scale)
    if action == "stand up":
        then(0, seat, away, sitting)
        then(0.6, seat, away, sitting)
        then(1.0, spot, away, standing)
        follow(path[::-1])
        return keys
    follow(path)
    if action == "walk":
        then(0, spot, away + math.pi, standing)
        then(0.5, spot, away + math.pi, standing)
        return keys
    then(0, spot, away, standing)
    then(1.0, seat, away, sitting)
    then(0.6, seat, away, sitting)
    if action == "lie":
        pelvis, heading = couch_of(piece, side, scale)
        pelvis, heading = piece.to_room(pelvis), piece.yaw + heading
        then(0.5, seat, away, SITTING_UP * scale)
        then(0.7, pelvis, heading, SITTING_UP * scale)
        then(0.8, pelvis, heading, LYING * scale)
        then(0.6, pelvis, heading, LYING * scale)
    return keys


def make_motion(action: str, piece: Piece, side: int, path, scale: float = 1.0) -> np.ndarray:
    """(NUM_FRAMES, 22, 3) joints in the room's frame, metres, evenly spaced in time."""
    times, *keys = zip(*key_poses(action, piece, side, path, scale), strict=True)
    time = np.linspace(0, times[-1], NUM_FRAMES)

    # Linear blends between the keys.
    before = np.clip(np.searchsorted(times, time, side="right") - 1, 0, len(times) - 2)
    begin, end = np.take(times, before), np.take(times, before + 1)
    weight = (time - begin) / np.maximum(end - begin, 1e-9)

    def blend(values):
        values = np.array(values, float)
        share = weight.reshape(-1, *[1] * (values.ndim - 1))
        return values[before] * (1 - share) + values[before + 1] * share

    pelvis, heading, pose = map(blend, keys)

    # Feet and hands swing against each other while an upright pelvis travels, less at both ends.
    upright = pelvis[:, 2] > 0.99 * PELVIS_M * scale
    travel = np.linalg.norm(np.diff(pelvis[:, :2], axis=0, prepend=pelvis[:1, :2]), axis=1)
    walked = np.cumsum(travel * upright)
    reach = np.clip(np.minimum(walked, walked[-1] - walked) / 0.4, 0, 1)
    phase = upright * reach * np.sin(walked * math.pi / 0.6)
    for joint, swing in SWING.items():
        pose[:, joint, 1] += swing * phase

    # From the pelvis to the room.
    c, s = np.cos(heading)[:, None], np.sin(heading)[:, None]
    x, y, z = np.moveaxis(pose, -1, 0)
    joints = np.stack([x * c - y * s, x * s + y * c, z], axis=-1) + pelvis[:, None]
    joints[..., 2] = np.maximum(joints[..., 2], 0.02)  # nobody sinks into the floor
    return joints
