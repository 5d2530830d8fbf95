"""Whether an item's numbers can mean what the dataset says they are: metres, distances, colours.

Wrong units pass every check of shape and type, and the maps look plausible. The bounds are ones
that no real scene meets: items are crops of about 4 m.
"""

import numpy as np

from cdm.datasets.files import REBUILD
from cdm.datasets.samples import Sample
from cdm.errors import BadItem, DataError, listed

FARTHEST_M = 100.0  # of a point from the origin, and of a joint from a point
SMALLEST_M = 0.02  # longest side of a scene
SAME_M = 0.001  # by which rounding may move a point near the origin
LONGEST_CAPTION = 100_000  # characters; Python's csv, which reads our tables, stops at 131,072
UNITS = "divide millimetres by 1000 and centimetres by 100"


def check_points(xyz: np.ndarray, place: str) -> None:
    """Refuse points, (num_points, 3), that are not in metres about the origin.

    Raises:
        BadItem: a coordinate beyond 100 m, or all points within 2 cm of each other.
    """
    farthest, longest = float(np.abs(xyz).max()), float(np.ptp(xyz, axis=0).max())
    if farthest > FARTHEST_M:
        raise BadItem(
            f"{place}: 'points' reach to {farthest:.6g}, expected metres about the origin, at most "
            f"{FARTHEST_M:g}; {UNITS}, and subtract the scene's centre, or {REBUILD}"
        )
    if len(xyz) > 1 and longest < SMALLEST_M:
        raise BadItem(
            f"{place}: all 'points' lie within {longest:.3g}, expected a scene in metres of at "
            f"least {SMALLEST_M:g}; multiply kilometres by 1000, or {REBUILD}"
        )


def check_same_points(xyz: np.ndarray, sampled: np.ndarray, place: str) -> None:
    """Refuse an item whose points, (num_points, 3), are not those that its map was made for.

    Args:
        xyz: as the item has them now.
        sampled: as the archive has them, in the same frame; float16 and turns round them.
    Raises:
        BadItem: the item was edited or replaced since, or is of another data folder.
    """
    # float16 moves a point by 2^-11 of its distance from the origin at most, whatever the turn.
    apart = np.linalg.norm(xyz - sampled, axis=1)
    moved = apart > SAME_M + 2.0**-10 * np.linalg.norm(sampled, axis=1)
    if moved.any():
        raise BadItem(
            f"{place}: {np.count_nonzero(moved)} of its {len(xyz)} points are not "
            "those that its map was made for, so its files were edited or replaced since, or are "
            "of another data folder"
        )


def check_distances(distance: np.ndarray, place: str) -> None:
    """Refuse distances, (num_points, num_joints), that are negative or not in metres.

    Raises:
        BadItem: with the smallest or largest.
    """
    low, high = float(distance.min()), float(distance.max())
    if low < 0:
        raise BadItem(f"{place}: 'dist' goes down to {low:.6g}, expected 0 and above; {REBUILD}")
    if high > FARTHEST_M:
        raise BadItem(
            f"{place}: 'dist' goes up to {high:.6g}, expected metres, at most {FARTHEST_M:g}; "
            f"{UNITS}, or {REBUILD}"
        )


def as_mask(array: np.ndarray, place: str) -> np.ndarray:
    """A target mask (num_points,) as bool, of 0 and one other number, such as 1 or 255.

    Raises:
        BadItem: negative numbers, or several others than 0: labels or probabilities, of which not
            all can mean the target.
    """
    others = np.unique(array[array != 0])
    if len(others) > 1 or (others < 0).any():
        found = listed((f"{value:g}" for value in others), 4, ", ")
        raise BadItem(
            f"{place}: holds {found} beside 0, expected a mask of 0 and 1 (1: the points of the "
            f"target object); {REBUILD}"
        )
    return array.astype(bool)


def check_colors(rgb: np.ndarray, place: str, low: float, high: float) -> None:
    """Refuse colours, (num_points, 3), outside the range the dataset has.

    Raises:
        BadItem: a colour outside [low, high], or colours of 0 to 1 in another dataset's place.
    """
    darkest, brightest, slack = float(rgb.min()), float(rgb.max()), 1e-3 * high
    outside = darkest < low - slack or brightest > high + slack
    from_0_to_1 = 0 < brightest <= 1 and (low == 0 or _are_bytes_from_0_to_1(rgb, darkest))
    if outside or from_0_to_1:
        raise BadItem(
            f"{place}: colours in 'points' go from {darkest:.4g} to {brightest:.4g}, expected "
            f"{low:g} to {high:g} in this dataset; scale them (the model would see another room), "
            f"set dataset.use_color: false for a model without colours, or {REBUILD}"
        )


def _are_bytes_from_0_to_1(rgb: np.ndarray, darkest: float) -> bool:
    """Whether colours are bytes divided by 255, and not bytes brought to [-1, 1].

    The latter are (2 byte - 255) / 255: odd multiples of 1 / 255. The former are even ones too. A
    bright room of [-1, 1] may have no colour below 0 either, so that alone tells nothing.
    """
    steps = np.rint(rgb * np.float32(255))
    if darkest < 0 or np.abs(rgb * np.float32(255) - steps).max() > 0.01:
        return False
    return bool((steps % 2 == 0).any() and steps.min() < steps.max())


def checked_captions(samples: list[Sample], place: str) -> list[Sample]:
    """The samples, if no caption is longer than a table can hold.

    Raises:
        DataError: names the first one that is.
    """
    for sample in samples:
        if len(sample.text) > LONGEST_CAPTION:
            raise DataError(
                f"{place}: {sample} has {len(sample.text):,} characters ({sample.text[:40]!r}...), "
                f"expected at most {LONGEST_CAPTION:,}; shorten it in its file, or look there for "
                "many captions that became one"
            )
    return samples
