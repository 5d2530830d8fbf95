"""The table of measures: every name that is measured has exactly one entry."""

import numpy as np
import pytest
from helpers import raw_config

from cdm.config import load_config
from cdm.evaluation.measure import GroundTruth, MapMeasures
from cdm.evaluation.measure_table import (
    BEST,
    HEADLINES,
    MEASURES,
    TARGET,
    headlines,
    measure_of,
    sort_names,
    unit_and_meaning,
)


@pytest.fixture(scope="module")
def measured_names():
    """Every name that an item with ground truth, a target and two maps gives."""
    rng = np.random.default_rng(0)
    config = load_config(raw_config(exp_dir="exp"))
    statistics = {"mean": np.zeros((1, 6)), "std": np.ones((1, 6))}
    truth = GroundTruth(rng.random((200, 3)), rng.random((200, 6)), np.arange(200) < 150)
    x = rng.random((2, 200, 6), np.float32)
    return list(MapMeasures(config, statistics)(x, truth))


def test_everything_that_is_measured_is_in_the_table_and_nothing_else(measured_names):
    assert {measure_of(name).name for name in measured_names} == {m.name for m in MEASURES}
    with pytest.raises(KeyError):
        measure_of("dist_to_nothing")


def test_names_in_the_table_are_unique_and_directions_known():
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
    assert {measure.better for measure in MEASURES} == {"higher", "lower", "neither"}
    assert {measure.unit for measure in MEASURES} == {"", "m"}
    assert not [measure for measure in MEASURES if measure.is_share and measure.unit]


@pytest.mark.parametrize(
    ("name", "entry", "better"),
    [
        ("dist_to_target_0.3", "dist_to_target_", "higher"),
        ("dist_to_target_1e-05", "dist_to_target_", "higher"),
        ("dist_to_target_average", "dist_to_target_average", "lower"),
        ("best/dist_to_target_min_average", "dist_to_target_min_average", "lower"),
        ("best/target/TKCO@10", "TKCO@", "higher"),
        ("target/CPLE", "CPLE", "lower"),
        ("CPLE_joint_12", "CPLE_joint_", "lower"),
        ("CPLE_joint_farthest", "CPLE_joint_", "lower"),
        ("CPLE_pelvis", "CPLE_pelvis", "lower"),
        ("found_target", "found_target", "higher"),
        ("found_target_chance", "found_target_chance", "neither"),
        ("diversity", "diversity", "neither"),
    ],
)
def test_a_name_finds_its_own_entry(name, entry, better):
    assert measure_of(name).name == entry and measure_of(name).better == better


def test_prefixes_are_part_of_the_meaning():
    assert unit_and_meaning("CPLE_pelvis") == (
        "m",
        "distance of generated and true closest point of the pelvis",
    )
    unit, meaning = unit_and_meaning(BEST + TARGET + "WDE@0.2")
    assert unit == "m" and meaning.endswith("; best of an item's maps; on the target's points")


def test_shares_lie_between_0_and_1():
    for name in ("best/found_target", "dist_to_target_0.3", "target/IoU@0.1"):
        assert measure_of(name).is_share
    for name in ("diversity", "CPLE", "dist_to_target_average"):
        assert not measure_of(name).is_share


def test_tables_list_the_whole_scene_then_the_target_then_the_best(measured_names):
    rng = np.random.default_rng(1)
    ordered = sort_names(rng.permutation(measured_names).tolist())
    assert sorted(ordered) == sorted(measured_names)
    assert ordered[0] == "found_target" and ordered[-1].startswith(BEST + TARGET)
    groups = [(name.startswith(BEST), TARGET in name) for name in ordered]
    assert groups == sorted(groups)
    family = ["TKCO@50", "TKCO@10", "CPLE", "TKCO@100"]
    assert sort_names(family) == ["CPLE", "TKCO@50", "TKCO@10", "TKCO@100"]


def test_headlines_are_those_that_were_measured(measured_names):
    assert headlines(measured_names) == list(HEADLINES)
    assert headlines(["CPLE", "target/CPLE", "found_target"]) == ["found_target", "CPLE"]
