"""What a study found: the content of summary.json."""

from dataclasses import replace

import numpy as np
import pytest
from evaluations import STUDIED, study_outcome, study_summary

from cdm.evaluation.study_rule import energy_scale, mean_scale
from cdm.evaluation.study_summary import summarise_study

ALL = ("ddpm_3", "dpmpp_2m_3", "ddpm_2", "dpmpp_2m_2")
IN_ROUNDS = replace(STUDIED, compare=replace(STUDIED.compare, first_items=10, detect=1e-3))


def entry(summary, name):
    """What the summary says of a setting that is compared with the full chain."""
    [found] = [
        each
        for each in summary["settings"]
        if f"{each['method']} {each['respacing']}" == name and each["role"] == "compared"
    ]
    return found


def chosen(summary):
    return summary["recommended"]["method"], summary["recommended"]["respacing"]


def test_the_pooled_chains_come_first_then_each_of_them_then_every_other_setting():
    settings = study_summary()["settings"]
    assert [each["role"] for each in settings] == ["full", *["repeat"] * 3, *["compared"] * 4]
    assert settings[0]["diversity_ratio"] == 1 and settings[0]["energy_distance"] is None
    # A pooled value is the mean of the chains' values.
    values = [each["measures"]["CPLE"]["value"] for each in settings[:4]]
    assert values[0] == pytest.approx(np.mean(values[1:]))


def test_the_fewest_steps_that_are_not_told_apart_are_recommended():
    assert study_summary()["recommended"]["steps"] == 2
    worse = {name: {"shift": 3} for name in ("ddpm_2", "dpmpp_2m_2", "ddpm_3")}
    summary = study_summary(**worse)
    assert chosen(summary) == ("dpmpp_2m", "3")
    assert entry(summary, "ddpm 2")["outside"] == ["CPLE"]
    assert entry(summary, "ddpm 2")["farthest"]["measure"] == "CPLE"
    assert "found_target" not in summary["measures"]  # no item has it


@pytest.mark.parametrize("spread", [0.6, 1.6])
def test_diversity_is_told_apart_in_both_directions(spread):
    summary = study_summary(**{name: {"spread": spread} for name in ("ddpm_2", "dpmpp_2m_2")})
    found = entry(summary, "ddpm 2")
    assert "diversity" in found["told_apart_by"] and "energy_distance" in found["told_apart_by"]
    assert (found["diversity_ratio"] < 1) == (spread < 1)
    assert summary["recommended"]["steps"] == 3


def test_where_everything_is_told_apart_the_full_chain_stays():
    summary = study_summary(**{name: {"shift": 3} for name in ALL})
    assert chosen(summary) == ("ddpm", "") and summary["recommended"]["steps"] == 6
    assert summary["reason"].startswith("every other sampler was told apart")


def test_too_few_items_recommend_nothing_and_say_what_would_have_been_seen():
    summary = study_summary(replace(STUDIED, compare=replace(STUDIED.compare, detect=0.01)))
    assert chosen(summary) == ("ddpm", "")
    seen = summary["detectable"]["diversity"]
    assert seen > 0.01 and f"only a difference above {seen:.1%}" in summary["reason"]
    assert "ddpm 2 has the fewest" in summary["reason"] or "dpmpp_2m 2 has" in summary["reason"]


def test_what_was_dropped_early_is_shown_as_it_was_seen_then():
    summary = study_summary(IN_ROUNDS, ddpm_2={"spread": 0.5})
    found = entry(summary, "ddpm 2")
    assert found["num_items"] == 10 and summary["num_items"] == 40
    assert found["measures"]["CPLE"]["num_items"] == 10 and found["diversity_ratio"] < 0.8
    assert "diversity" in found["told_apart_by"]


def test_differences_are_paired_by_item():
    """A shift far smaller than the items' spread shows in the difference to the pool."""
    compared = entry(study_summary(ddpm_2={"shift": 0.3}), "ddpm 2")["measures"]["CPLE"]
    shift = compared["mean_difference"]
    assert 0.25 < shift["low"] < shift["value"] < shift["high"] < 0.35
    assert compared["high"] - compared["low"] > 0.5


def test_each_draw_of_a_setting_is_shown_by_itself():
    found = entry(study_summary(), "dpmpp_2m 2")
    assert len(found["draws"]) == STUDIED.compare.draws == 2
    ratios = [draw["diversity_ratio"] for draw in found["draws"]]
    assert found["diversity_ratio"] == pytest.approx(np.mean(ratios))


def test_without_ground_truth_diversity_and_distance_are_compared():
    outcome = study_outcome()
    draws = {
        setting: [
            replace(each, values={"diversity": each.values["diversity"]}) for each in of_setting
        ]
        for setting, of_setting in outcome.draws.items()
    }
    summary = summarise_study(replace(outcome, draws=draws), STUDIED)
    assert list(summary["measures"]) == ["diversity"] and summary["recommended"]["steps"] == 2


def test_limits_are_those_of_the_rule():
    summary = study_summary()
    assert mean_scale(3, 2) < 1 > energy_scale(3, 2, 4)
    measures = summary["settings"][0]["measures"]
    relative = measures["diversity"]["bound"] / measures["diversity"]["value"]
    # The bound of a measure is of 95 %, the rule's limit of 99 %.
    assert summary["limits"]["diversity"] / relative == pytest.approx(2.576 / 1.96, rel=0.05)
