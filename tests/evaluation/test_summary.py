"""Values per item summed up, and tables as text."""

import csv
import io
import math

import numpy as np
import pytest
from helpers import run_config

from cdm.evaluation.bootstrap import Interval, bootstrap
from cdm.evaluation.summary import (
    as_json,
    by_item,
    csv_text,
    intervals,
    number,
    text_table,
)

CONFIG = run_config(evaluation={"resamples": 100}).evaluation


def test_captions_of_an_item_are_averaged_before_items_are():
    keys = [("A", "0"), ("A", "1"), ("A", "0"), ("B", "0")]
    rows = [{"x": 1.0, "y": 5.0}, {"x": 2.0}, {"x": 3.0, "y": math.nan}, {"x": 8.0, "y": 7.0}]
    found = by_item(keys, rows, ["x", "y"])
    np.testing.assert_array_equal(found, [[2, 5], [2, np.nan], [8, 7]])


def test_one_caption_an_item_is_passed_on():
    np.testing.assert_array_equal(by_item(["a", "b"], [{"x": 1.0}, {}], ["x"]), [[1], [np.nan]])


def test_each_measure_is_summed_up_by_its_own_statistic():
    values = np.random.default_rng(0).gamma(2, size=(30, 2))
    found = intervals(values, ["CPLE", "pelvis_point_error"], CONFIG)
    assert found["CPLE"].value == pytest.approx(np.mean(values[:, 0]))
    assert found["pelvis_point_error"].value == np.median(values[:, 1])
    expected = bootstrap(values, medians=[1], resamples=100, seed=CONFIG.seed)
    assert list(found.values()) == expected


def test_a_share_that_all_items_have_gets_an_exact_interval_and_a_distance_does_not():
    found = intervals(np.ones((20, 2)), ["found_target", "CPLE"], CONFIG)
    assert found["found_target"].low < 1 == found["found_target"].high
    assert found["CPLE"].low == found["CPLE"].high == 1


def test_json_tells_what_a_number_is():
    content = as_json("best/TKCO@10", Interval(0.5, 0.4, 0.6, 9))
    assert content["better"] == "higher" and content["statistic"] == "mean"
    assert content["unit"] == "" and "best of an item's maps" in content["meaning"]
    assert (content["value"], content["low"], content["high"]) == (0.5, 0.4, 0.6)
    assert as_json("diversity", Interval(0, 0, 0, 1))["better"] == "neither"


def test_csv_reads_back_and_leaves_empty_what_a_row_lacks():
    text = csv_text(["a", "b"], [{"a": 'x, "y"\nz', "b": 1}, {"a": "only"}])
    assert list(csv.reader(io.StringIO(text))) == [
        ["a", "b"],
        ['x, "y"\nz', "1"],
        ["only", ""],
    ]
    assert csv_text(["a", "b"], []) == "a,b\n"


def test_tables_align_numbers_to_the_right():
    assert text_table(["name", "v"], [["a", "1.0"], ["long one", "10.0"]]) == (
        "name         v\na          1.0\nlong one  10.0\n"
    )


def test_what_is_missing_is_a_dash():
    assert [number(v) for v in (None, math.nan, 0.12345)] == ["-", "-", "0.1235"]
