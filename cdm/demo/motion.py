"""The demo's human: a stick figure of 22 SMPL joints, blended between key poses.

It is meant to come close to the right things at plausible heights, not to be motion capture.
"""

import math

import numpy as np

NUM_FRAMES = 60
PELVIS_M = 0.92  # height of a standing pelvis

# SMPL joints in front of a pelvis at the origin, x to the right, y ahead, z up, metres. A pair
# names the left and the right joint, whose x mirror each other.
JOINTS = [0, (1, 2), 3, (4, 5), 6, (7, 8), 9, (10, 11), 12, (13, 14), 15, (16, 17), (18, 19)]
JOINTS += [(20, 21)]  # pelvis, hip, spine, knee, spine, ankle, spine, foot, neck, ... wrist
STAND = [
    *((0, 0, 0), (0.09, 0, -0.08), (0, 0, 0.11), (0.1, 0.01, -0.45), (0, 0, 0.24)),
    *((0.1, -0.03, -0.85), (0, 0, 0.3), (0.11, 0.1, -0.9), (0, 0, 0.5), (0.08, 0, 0.42)),
    *((0, 0.03, 0.6), (0.18, 0, 0.43), (0.24, -0.02, 0.17), (0.26, 0.08, -0.06)),
]
SIT = [
    *((0, 0, 0), (0.09, 0.03, -0.05), (0, -0.01, 0.11), (0.12, 0.42, 0.0), (0, -0.02, 0.24)),
    *((0.12, 0.44, -0.4), (0, -0.02, 0.3), (0.13, 0.57, -0.45), (0, 0, 0.5), (0.08, 0, 0.42)),
    *((0, 0.03, 0.6), (0.18, 0, 0.43), (0.23, 0.08, 0.18), (0.16, 0.3, 0.08)),
]
SWING = {7: 0.25, 10: 0.25, 20: -0.25, 4: 0.12, 18: -0.12}  # of left joints in a step, metres
SWING |= {8: -0.25, 11: -0.25, 21: 0.25, 5: -0.12, 19: 0.12}  # the right ones go the other way


def make_pose(rows) -> np.ndarray:
    """(22, 3) joints of a symmetric pose."""
    pose = np.zeros((22, 3))
    for joint, xyz in zip(JOINTS, rows, strict=True):
        if isinstance(joint, tuple):
            pose[joint[0]], pose[joint[1]] = np.array(xyz) * [-1, 1, 1], xyz
        else:
            pose[joint] = xyz
    return pose


def key_poses(action: str, kind: str, size, room_ahead: float) -> list:
    """(time in [0, 1], pelvis, heading, pose) of an action, in the frame of a piece of furniture.

    Args:
        kind, size: of the piece: width, depth, height of the seat; its front is along +y.
        room_ahead: metres one can walk in front of it.
    """
    _, depth, height = size
    stand, sit = make_pose(STAND), make_pose(SIT)
    lie = stand[:, [0, 2, 1]] * [1, -1, 1]  # on the back: up becomes -y, ahead becomes up
    front = np.array([0, depth / 2 + 0.25, PELVIS_M])
    start = front + np.array([0, room_ahead, 0])
    seat = np.array([0, min(depth / 2 - 0.15, 0.05 if kind == "chair" else 1), height + 0.1])
    # along the width of a sofa; along the depth of a bed, the head at its back
    bed = np.array([0.15, 0.1, height + 0.12] if kind == "sofa" else [0, -0.15, height + 0.12])
    turn = math.pi / 2 if kind == "sofa" else 0.0
    away, towards = 0.0, math.pi
    return {
        "walk": [(0.0, start, towards, stand), (0.9, front, towards, stand)],
        "sit": [
            *((0.0, start, towards, stand), (0.45, front, towards, stand)),
            *((0.65, front, away, stand), (0.9, seat, away, sit)),
        ],
        "stand up": [(0.1, seat, away, sit), (0.45, front, away, stand), (1.0, start, away, stand)],
        "lie": [
            *((0.0, front, away, stand), (0.35, seat, away, sit)),
            *((0.55, seat * [1, 0.7, 1], turn / 2, sit), (0.85, bed, turn, lie)),
        ],
    }[action]


def make_motion(action: str, kind: str, size, room_ahead: float) -> np.ndarray:
    """(NUM_FRAMES, 22, 3) joints in the frame of the piece, metres."""
    times, *keys = zip(*key_poses(action, kind, size, room_ahead), strict=True)
    time = np.linspace(0, 1, NUM_FRAMES)

    def blend(values):  # piecewise linear over the keys
        columns = np.array(values, float).reshape(len(times), -1).T
        return np.stack([np.interp(time, times, column) for column in columns], axis=1)

    pelvis, heading, pose = map(blend, keys)
    pose = pose.reshape(NUM_FRAMES, 22, 3)

    # While an upright pelvis travels, feet and hands swing against each other.
    travel = np.linalg.norm(np.diff(pelvis[:, :2], axis=0, prepend=pelvis[:1, :2]), axis=1)
    stepping = (pelvis[:, 2] > 0.9 * PELVIS_M) & (travel > 0)
    phase = np.where(stepping, np.sin(np.cumsum(travel) * math.pi / 0.6), 0)
    for joint, swing in SWING.items():
        pose[:, joint, 1] += swing * phase

    c, s = np.cos(heading), np.sin(heading)
    x, y, z = np.moveaxis(pose, -1, 0)
    joints = np.stack([x * c - y * s, x * s + y * c, z], axis=-1) + pelvis[:, None]
    joints[..., 2] = np.maximum(joints[..., 2], 0.02)  # nobody sinks into the floor
    return joints
