"""A figure that moves smoothly and comes to rest on the target."""

import numpy as np
from footprints import outline_distance

from cdm.demo.motion import NUM_FRAMES, seat_of
from cdm.demo.scenes import (
    TARGET,
    distances,
)

PELVIS, ANKLES, FEET = 0, [7, 8], [10, 11]


def test_the_pelvis_rests_on_the_target(scenes):
    for scene in scenes:
        joints, pieces = scene.joints, scene.room.pieces
        xyz = scene.points[:, :3].astype(float)
        nearest = distances(xyz, joints)[:, PELVIS].argmin()
        assert scene.labels[nearest] == TARGET
        if scene.task.action == "walk":
            assert outline_distance(joints[-1, PELVIS, :2], pieces[0]) < 0.3
            continue
        rest = joints[0 if scene.task.action == "stand up" else -1]
        assert scene.labels[np.linalg.norm(xyz - rest[PELVIS], axis=1).argmin()] == TARGET
        assert 0 < rest[PELVIS, 2] - pieces[0].size[2] < 0.15
        if scene.task.action != "lie":
            seat = pieces[0].to_room(seat_of(pieces[0], scene.room.side, 1.0))
            assert np.linalg.norm(rest[PELVIS] - seat) < 0.15
            assert (rest[FEET, 2] < 0.05).all() and (rest[ANKLES, 2] < 0.1).all()


def test_motion_is_smooth_and_keeps_its_size(scenes):
    for scene in scenes:
        joints = scene.joints
        assert joints.shape == (NUM_FRAMES, 22, 3) and joints[..., 2].min() >= 0
        assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 0.35  # metres a frame
        reach = np.linalg.norm(joints - joints[:, :1], axis=-1).max()
        assert 0.5 < reach < 1.1
