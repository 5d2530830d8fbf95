"""Numbers with the digits that their interval warrants, and captions that say what is there."""

import pytest

from cdm.evaluation.words import (
    decimals,
    errors_caption,
    found_caption,
    overlap_caption,
    plural,
    shown,
)


def measured(value, low, high, unit="", num_items=12):
    return {"value": value, "low": low, "high": high, "unit": unit, "num_items": num_items}


@pytest.mark.parametrize(
    ("low", "high", "places"),
    [
        (58, 92, 0),  # 17: no decimal
        (88.8, 94.7, 1),  # 2.95: two digits
        (87, 95, 0),  # 4: one digit
        (0.19, 0.47, 2),  # 0.14
        (0.2, 1.2, 1),  # 0.5
        (0.0324, 0.0454, 3),
        (0.1, 0.1 + 1e-9, 4),  # never more than four
        (0.5, 0.5, 2),  # no width
        (float("nan"), float("nan"), 2),
    ],
)
def test_an_interval_warrants_so_many_decimals(low, high, places):
    assert decimals(low, high) == places


def test_shares_are_percent_and_lengths_metres():
    assert shown("found_target", measured(0.75, 0.5833, 0.9167)) == ("75", "58", "92", "%")
    assert shown("CPLE", measured(1.0993, 0.8422, 1.3856, "m")) == ("1.10", "0.84", "1.39", "m")
    assert shown("found_target", measured(1.0, 1.0, 1.0)).text == "100 %"
    assert shown("CPLE", measured(float("nan"), float("nan"), float("nan"), "m")).text == "-"


def test_numbers_and_nouns_agree():
    assert (plural(1, "map"), plural(1200, "map")) == ("1 map", "1,200 maps")


def group(name, kind="action", found=(0.8, 0.7, 0.9), chance=(0.1, 0.05, 0.15)):
    measures = {"found_target": measured(*found), "found_target_chance": measured(*chance)}
    return {"kind": kind, "name": name, "measures": measures}


def test_the_caption_tells_whether_maps_find_the_object():
    text = found_caption([group("all", "all")], 0.3)
    assert "80 %" in text and "interval 70 to 90 %" in text and "10 %" in text
    assert text.endswith("So the maps find the object.")
    unsure = found_caption([group("all", "all", found=(0.2, 0.1, 0.4))], 0.3)
    assert "With 12 items, this is not told from chance." in unsure


def test_an_action_is_called_better_only_where_the_intervals_are_apart():
    worse, better = group("sit", found=(0.3, 0.2, 0.4)), group("lie", found=(0.8, 0.7, 0.9))
    assert "most often for “lie”, and least often for “sit”" in found_caption(
        [group("all", "all"), worse, better], 0.3
    )
    close = group("sit", found=(0.6, 0.4, 0.8))
    assert "intervals of the actions overlap" in found_caption(
        [group("all", "all"), close, better], 0.3
    )


def test_the_caption_of_errors_has_its_half_and_its_nine_tenths():
    text = errors_caption([0.1 * step for step in range(11)])
    assert "Of 11 samples, half lie within 0.5 m" in text and "nine in ten within 0.9 m" in text


def test_the_caption_of_an_overlap_names_the_last_parameter():
    measures = {f"TKCO@{k}": measured(0.2, 0.1, 0.3) for k in (10, 100)}
    measures |= {"target/IoU@0.2": measured(0.4, 0.3, 0.5)}
    assert overlap_caption(measures, "TKCO").startswith(
        "Of the 100 points closest to a joint, 20 %"
    )
    assert "within 0.2 m of a joint in map or truth, 40 % are so in both" in overlap_caption(
        measures, "IoU"
    )
