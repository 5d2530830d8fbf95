"""Every measure of a map in one table: its unit, its meaning, and how it is summed up (no torch).

A measured value has a name. It is an entry's name, followed by a parameter where that name ends
in `@` or `_` (`TKCO@100`, `CPLE_joint_12`), and preceded by TARGET or BEST or both.
"""

from collections.abc import Iterable
from dataclasses import dataclass

TARGET = "target/"  # measured on the points of the target object alone
BEST = "best/"  # the best of an item's maps


@dataclass(frozen=True)
class Measure:
    """One measure, or one family of them.

    Attributes:
        name: of the measure; a family's name ends in `@` or `_`, and the parameter follows.
        unit: "m" for metres, "" for a number without a unit.
        meaning: what it says of a map.
        better: "higher" or "lower"; "neither" where no direction means a better map.
        statistic: "mean" or "median", over items.
        is_share: whether every value lies between 0 and 1.
    """

    name: str
    unit: str
    meaning: str
    better: str
    statistic: str = "mean"
    is_share: bool = False


MEASURES: tuple[Measure, ...] = (  # tables list measures in this order
    Measure(
        "found_target",
        unit="",
        meaning="share of maps whose pelvis point lies within found_radius of the target",
        better="higher",
        is_share=True,
    ),
    Measure(
        "found_target_chance",
        unit="",
        meaning="share of all scene points that lie so close to the target",
        better="neither",
        is_share=True,
    ),
    Measure(
        "pelvis_point_error",
        unit="m",
        meaning="median distance of generated and true pelvis point",
        better="lower",
        statistic="median",
    ),
    Measure(
        "dist_to_target_",
        unit="",
        meaning="share of maps in which a joint comes closer to the target than this",
        better="higher",
        is_share=True,
    ),
    Measure(
        "dist_to_target_average",
        unit="m",
        meaning="distance to the target, averaged over its points and the joints",
        better="lower",
    ),
    Measure(
        "dist_to_target_min_average",
        unit="m",
        meaning="distance of the closest joint, averaged over the target's points",
        better="lower",
    ),
    Measure(
        "dist_to_target_pelvis_average",
        unit="m",
        meaning="distance of the pelvis to the target, averaged over the target's points",
        better="lower",
    ),
    Measure("CPLE", "m", "distance of generated and true closest point", "lower"),
    Measure(
        "CPLE_pelvis", "m", "distance of generated and true closest point of the pelvis", "lower"
    ),
    Measure(
        "CPLE_joint_", "m", "distance of generated and true closest point of one joint", "lower"
    ),
    Measure(
        "TKCO@",
        unit="",
        meaning="overlap of the k closest points, generated and true",
        better="higher",
        is_share=True,
    ),
    Measure("WDE@", "m", "error of the distances, weighted towards true contact", "lower"),
    Measure(
        "IoU@",
        unit="",
        meaning="overlap of the points in contact, generated and true",
        better="higher",
        is_share=True,
    ),
    Measure(
        "SoftLoc@",
        unit="",
        meaning="nearness of the generated closest point to true contact",
        better="higher",
        is_share=True,
    ),
    Measure("min_dist_error", "m", "error of the smallest distance", "lower"),
    Measure("diversity", "", "mean RMS difference in contact of two maps of an item", "neither"),
    Measure(
        "pelvis_point_spread",
        unit="m",
        meaning="mean distance of the pelvis points of two maps of an item",
        better="neither",
    ),
)
HEADLINES = (  # what short tables and figures show, where it was measured
    "found_target",
    "pelvis_point_error",
    "dist_to_target_average",
    "CPLE",
    "TKCO@100",
    "WDE@0.2",
    "IoU@0.2",
    "SoftLoc@0.1",
    "diversity",
)
_PLACE = {measure.name: place for place, measure in enumerate(MEASURES)}


def measure_of(name: str) -> Measure:
    """The table's entry for the name of a measured value.

    Raises:
        KeyError: the table has none.
    """
    bare = name.removeprefix(BEST).removeprefix(TARGET)
    families = bare.partition("@")[0] + "@", bare.rpartition("_")[0] + "_"
    for candidate in (bare, *families):
        if candidate in _PLACE:
            return MEASURES[_PLACE[candidate]]
    raise KeyError(name)


def unit_and_meaning(name: str) -> tuple[str, str]:
    """Unit and meaning of a measured value, with what its prefixes add."""
    measure = measure_of(name)
    meaning = measure.meaning
    if name.startswith(BEST):
        meaning += "; best of an item's maps"
    if TARGET in name:
        meaning += "; on the target's points"
    return measure.unit, meaning


def headlines(names: Iterable[str]) -> list[str]:
    """Those of the names that short tables and figures show, in the order of HEADLINES."""
    names = set(names)
    return [name for name in HEADLINES if name in names]


def sort_names(names: Iterable[str]) -> list[str]:
    """Names in the order of the tables.

    Values over the whole scene come first, then those on the target's points, then the best of
    several maps. Members of one family stay in the order in which they were given.
    """

    def key(name: str) -> tuple[bool, bool, int]:
        return name.startswith(BEST), TARGET in name, _PLACE[measure_of(name).name]

    return sorted(names, key=key)
