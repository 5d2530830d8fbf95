"""The study of few steps: its settings, and a rule that can say no."""

from dataclasses import replace

import pytest
from evaluations import (
    ITEMS,
    STUDIED,
    TINY,
    setting_result,
    study_results,
    study_summary,
)
from helpers import run_config

from cdm.errors import ArchiveError
from cdm.evaluation.study import read_result, study_settings, summarise_study, write_result
from cdm.evaluation.study_tables import write_summary


def test_settings_are_the_full_chain_twice_and_every_other_sampler_once():
    names = [setting.name for setting in study_settings(run_config(**TINY))]
    assert names == ["ddpm-6", "ddpm-6-repeat", "dpmpp_2m-6", "ddpm-3", "dpmpp_2m-3"]


def entry(summary, name):
    """What the summary says of a setting that is compared with the full chain."""
    [found] = [
        each
        for each in summary["settings"]
        if f"{each['method']}-{each['steps']}" == name and each["role"] == "compared"
    ]
    return found


def test_the_fewest_steps_as_good_as_the_full_chain_are_recommended():
    summary = study_summary()
    assert summary["recommended"]["steps"] == 2
    repeat = summary["settings"][1]
    assert repeat["role"] == "repeat" and not repeat["outside"] and not repeat["beyond_noise_floor"]
    assert "found_target" not in summary["measures"]  # no item has it
    summary = study_summary(ddpm_2={"shift": 3}, dpmpp_2m_2={"shift": 3}, ddpm_3={"shift": 3})
    assert summary["recommended"] | {"seconds_per_map": 0} == {
        "method": "dpmpp_2m",
        "steps": 3,
        "seconds_per_map": 0,
    }
    assert entry(summary, "ddpm-2")["outside"] == ["CPLE"]


def test_other_diversity_or_another_distribution_is_not_as_good():
    summary = study_summary(**{name: {"spread": 2.0} for name in ("ddpm_2", "dpmpp_2m_2")})
    assert entry(summary, "ddpm-2")["outside"] == ["diversity"]
    assert entry(summary, "ddpm-2")["beyond_noise_floor"] == ["energy_distance", "diversity"]
    assert summary["recommended"]["steps"] == summary["not_worse"]["steps"] == 3


def test_the_noise_floor_is_finer_than_the_intervals():
    """Each item's diversity a little lower, far within the spread of the items."""
    summary = study_summary(**{name: {"spread": 0.97} for name in ("ddpm_2", "dpmpp_2m_2")})
    assert (
        entry(summary, "ddpm-2")["outside"] == []
        and "diversity" in entry(summary, "ddpm-2")["beyond_noise_floor"]
    )
    assert summary["recommended"]["steps"] == 3 and summary["within_intervals"]["steps"] == 2


def test_better_values_are_outside_too_but_not_worse():
    summary = study_summary(**{name: {"shift": -3} for name in ("ddpm_2", "dpmpp_2m_2")})
    assert summary["within_intervals"]["steps"] == 3 and summary["not_worse"]["steps"] == 2


def test_where_nothing_is_as_good_the_full_chain_stays():
    names = [each.name.replace("-", "_") for each in study_settings(STUDIED)[2:]]
    summary = study_summary(**{name: {"shift": 3} for name in names})
    assert summary["recommended"]["method"] == "ddpm" and summary["recommended"]["steps"] == 6


def test_without_ground_truth_diversity_and_distance_are_compared(tmp_path):
    results = [replace(r, values={"diversity": r.values["diversity"]}) for r in study_results()]
    summary = summarise_study(results, STUDIED)
    assert list(summary["measures"]) == ["diversity"]
    write_summary(summary, tmp_path)
    table = (tmp_path / "summary.md").read_text()
    assert table.count("| dpmpp_2m |") == 3 and "energy distance" in table


def test_differences_are_paired():
    """A shift far smaller than the items' spread shows in the paired difference."""
    summary = study_summary(ddpm_2={"shift": 0.01})
    compared = entry(summary, "ddpm-2")
    shift = compared["measures"]["CPLE"]["mean_difference"]
    assert shift["low"] == pytest.approx(0.01) == shift["high"]
    assert compared["measures"]["CPLE"]["high"] - compared["measures"]["CPLE"]["low"] > 0.5


def test_a_damaged_result_says_how_to_draw_it_again(tmp_path):
    path = tmp_path / "ddpm-6.json"
    write_result(path, setting_result())
    assert read_result(path).items == ITEMS
    path.write_bytes(path.read_bytes().replace(b"HUMANISE", b"HUMANISF", 1))
    with pytest.raises(ArchiveError, match="to draw it again: rm"):
        read_result(path)
    assert read_result(tmp_path / "none.json") is None


def test_a_setting_of_all_steps_is_that_of_the_full_chain():
    full = study_settings(STUDIED)[0]
    assert full.configure(STUDIED).diffusion.timestep_respacing == ""
    assert replace(full, steps=3).configure(STUDIED).diffusion.timestep_respacing == 3
