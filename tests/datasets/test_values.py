"""Numbers in wrong units are refused; those of real scenes never are."""

import io
import itertools

import numpy as np
import pytest

from cdm.datasets import Sample
from cdm.datasets.values import (
    LONGEST_CAPTION,
    as_mask,
    check_colors,
    check_distances,
    check_points,
    check_same_points,
    checked_captions,
)
from cdm.errors import BadItem, DataError
from cdm.run.table import read_rows, table_rows

ROOM = np.random.default_rng(0).uniform(-2, 2, (64, 3)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_scenes_of_every_real_size_pass(scale):
    check_points(ROOM * scale, "room")
    check_distances(np.abs(ROOM) * scale, "room")
    check_points(ROOM[:1], "one point")


@pytest.mark.parametrize(
    "xyz, text",
    [
        (ROOM * 1000, "reach to 1.* expected metres about the origin.*divide millimetres by 1000"),
        (ROOM * 100, "centimetres by 100"),
        (ROOM + np.float32(500_000), "subtract the scene's centre"),
        (ROOM / 1000, "lie within 0.00.* multiply kilometres by 1000"),
    ],
)
def test_points_far_from_metres_are_refused(xyz, text):
    with pytest.raises(BadItem, match=f"room: .*{text}"):
        check_points(xyz.astype(np.float32), "room")


def test_distances_are_metres_from_zero():
    with pytest.raises(BadItem, match=r"'dist' goes down to -0.5, expected 0 and above"):
        check_distances(np.array([[1, -0.5]]), "room")
    with pytest.raises(BadItem, match=r"'dist' goes up to 1500, expected metres.*millimetres"):
        check_distances(np.array([[1, 1500.0]]), "room")
    check_distances(np.array([[0.0, -0.0]]), "room")


@pytest.mark.parametrize(
    "colours, low, high",
    [([0, 255], 0, 255), ([0, 0], 0, 255), ([3, 40], 0, 255), ([-1, 1], -1, 1), ([0.9, 1], -1, 1)],
)
def test_colours_of_the_dataset_pass(colours, low, high):
    check_colors(np.array([colours]), "room", low, high)


@pytest.mark.parametrize(
    "colours, low, high",
    [
        *[([0, 1], 0, 255), ([0.2, 0.5], 0, 255), ([-1, 1], 0, 255), ([0, 65535], 0, 255)],
        *[([0, 255], -1, 1), ([-2, 0], -1, 1)],
    ],
)
def test_colours_of_another_range_are_refused(colours, low, high):
    with pytest.raises(BadItem, match=f"colours in 'points' go from .* expected {low} to {high}"):
        check_colors(np.array([colours]), "room", low, high)


BYTES = np.random.default_rng(1).integers(0, 256, (64, 3))


def test_colours_from_0_to_1_in_place_of_minus_1_to_1_are_refused():
    with pytest.raises(BadItem, match=r"colours in 'points' go from 0.*expected -1 to 1"):
        check_colors((BYTES / 255).astype(np.float32), "room", -1, 1)


@pytest.mark.parametrize(
    "colours",
    [
        BYTES / 127.5 - 1,
        np.maximum(BYTES, 128) / 127.5 - 1,  # a bright room
        (np.maximum(BYTES, 128) / 255 - 0.5) / 0.5,
        np.random.default_rng(2).uniform(0, 1, (64, 3)),  # no bytes: it cannot be known
        *(np.full((64, 3), value) for value in (0, 0.5, 1)),  # points without colours of their own
    ],
)
def test_bright_rooms_and_plain_ones_pass(colours):
    check_colors(colours.astype(np.float32), "room", -1, 1)


@pytest.mark.parametrize("other", [1, 255, 0.5])
def test_a_mask_marks_points_by_any_one_number(other):
    marked = np.array([False, True, True])
    assert as_mask((marked * other).astype(np.float32), "mask").tolist() == marked.tolist()
    assert not as_mask(np.zeros(3, np.float32), "mask").any()


@pytest.mark.parametrize(
    "values, found", [([0, 3, 17], "3, 17 beside 0"), ([-1, 1], "-1, 1"), ([0, -1], "-1 beside 0")]
)
def test_labels_and_probabilities_are_no_mask(values, found):
    with pytest.raises(BadItem, match=f"room: holds {found}.*expected a mask"):
        as_mask(np.array(values, np.float32), "room")


def test_an_item_has_the_points_that_its_map_was_made_for():
    for turn, scale in itertools.product(np.linspace(0, 6, 20), (1, 2, 10)):
        cos, sin = np.cos(turn), np.sin(turn)
        turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
        kept = (ROOM * scale @ turned).astype(np.float16)  # as an archive may have them
        check_same_points(ROOM * scale, kept.astype(np.float32) @ turned.T, "a")
    other = ROOM.copy()
    other[5] += 0.05
    with pytest.raises(BadItem, match="a: 1 of its 64 points are not those that its map was made"):
        check_same_points(other, ROOM, "a")


def test_a_caption_that_no_table_can_hold_is_refused_by_its_name():
    usual = [Sample("H3D", "000012", 0, "sits"), Sample("H3D", "000013", 1, "x" * LONGEST_CAPTION)]
    assert checked_captions(usual, "data") is usual
    too_long = Sample("H3D", "000014", 2, "x" * 200_000)
    with pytest.raises(DataError) as error:
        checked_captions([*usual, too_long], "data")
    assert "data: H3D/000014 caption 2 has 200,000 characters" in str(error.value)
    assert "at most 100,000; shorten it" in str(error.value)


def test_what_passes_is_read_back_from_every_table():
    longest = Sample("H3D", "1", 0, '"' * LONGEST_CAPTION)
    table = io.BytesIO(table_rows(0, [longest]))
    assert read_rows(table, 2) == [longest]
