"""Rooms in which a caption means exactly one piece, and a path leads to it."""

import itertools
import re

import numpy as np
from footprints import distance_m, outline_distance

from cdm.datasets.actions import ACTIONS, action_of
from cdm.demo.furniture import COLORS, SIZES
from cdm.demo.scenes import (
    TEST,
    make_row,
)

PELVIS = 0


def meant(caption, pieces):
    """The pieces a caption can mean, as a reader would find them."""
    noun = re.search(r"the (?:(\w+) )?(\w+)(?: (?:near|next to|beside) the (\w+))?$", caption)
    color, kind, near = noun.groups()
    found = [p for p in pieces if p.kind == kind and color in (None, p.color)]
    if near:
        (neighbour,) = (p for p in pieces if p.kind == near)
        found = [p for p in found if distance_m(p, neighbour) < 0.9]
    return found


def test_every_caption_means_exactly_the_target(scenes):
    told_by = {scene.task.told_by for scene in scenes}
    assert told_by == {"kind", "color", "neighbour"}
    for scene in scenes:
        for caption in scene.task.captions:
            assert meant(caption, scene.room.pieces) == [scene.room.pieces[0]], caption
        rivals = [p for p in scene.room.pieces[1:] if p.kind == scene.task.kind]
        assert bool(rivals) == (scene.task.told_by != "kind")


def test_nothing_overlaps_or_stands_in_a_wall(scenes):
    for scene in scenes:
        for a, b in itertools.combinations(scene.room.pieces, 2):
            assert a.footprint().gaps(b.footprint())[0, 0] > 0.05
        for piece in scene.room.pieces:
            assert (np.abs(piece.footprint().corners[0]) < np.array(scene.room.size) / 2).all()
        assert np.abs(scene.joints[..., :2]).max((0, 1)) @ [1, 0] < scene.room.size[0] / 2
        assert np.abs(scene.joints[..., :2]).max((0, 1)) @ [0, 1] < scene.room.size[1] / 2


def test_the_way_keeps_clear_of_other_furniture(scenes):
    for scene in scenes:
        for xy in scene.joints[::4, PELVIS, :2]:
            for piece in scene.room.pieces[1:]:
                assert outline_distance(xy, piece) > 0.2


def test_every_kind_action_and_color_occurs():
    tasks = [make_row(item)[1] for item in TEST]
    kinds = {re.search(r"target=(\w+)", others)[1] for others in tasks}
    assert kinds == set(SIZES) and {action_of(others) for others in tasks} == set(ACTIONS)
    words = " ".join(make_row(item)[0].utterance for item in TEST)
    assert all(color in words for color in COLORS)
