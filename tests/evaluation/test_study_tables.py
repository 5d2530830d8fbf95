"""The outcome of a study in words, tables, and a file of settings."""

import csv
import io
import json
from dataclasses import replace

import pytest
import yaml
from evaluations import STUDIED, study_summary
from helpers import raw_config

from cdm.commands.config_files import overlay
from cdm.config import load_config
from cdm.evaluation.study_tables import (
    recommended_yaml,
    short_table,
    summary_csv,
    summary_markdown,
    summary_text,
    verdict,
    write_summary,
)

IN_ROUNDS = replace(STUDIED, compare=replace(STUDIED.compare, first_items=10, detect=1e-3))


@pytest.fixture(scope="module")
def summary():
    return study_summary(ddpm_2={"shift": 3})


def line(summary, start):
    [found] = [sentence for sentence in verdict(summary) if sentence.startswith(start)]
    return found


def test_the_verdict_names_the_setting_and_how_much_faster_it_is(summary):
    assert line(summary, "Recommended") == (
        "Recommended: dpmpp_2m 2 (2 steps), 3.0 times as fast; it has the fewest steps of those "
        "not told apart from the full chain."
    )
    assert summary["rule"] in verdict(summary)


def test_the_verdict_says_what_would_have_been_seen(summary):
    seen = summary["detectable"]
    assert line(summary, "Not told apart means") == (
        "Not told apart means: by 40 items x 4 maps x 2 draw(s), against 3 draws of the full "
        f"chain (6 steps). A difference of {seen['diversity']:.1%} in diversity, or of "
        f"{seen['energy_distance']:.5f} in energy distance, would have been seen in 80 of 100 such "
        "studies."
    )


def test_too_few_items_are_told_instead_of_a_recommendation():
    found = study_summary(IN_ROUNDS, ddpm_2={"spread": 0.5})
    assert line(found, "Recommended").startswith("Recommended: the full chain; not enough items: ")
    assert line(found, "Told apart after 10 samples").endswith("drawn no further: ddpm 2.")
    settings = yaml.safe_load(recommended_yaml(found))
    assert settings == {
        "diffusion": {"timestep_respacing": ""},
        "sampling": {"method": "ddpm", "eta": 0},
    }
    assert "# Recommended: the full chain; not enough items" in recommended_yaml(found)


def test_several_devices_are_told(summary):
    assert not [sentence for sentence in verdict(summary) if "several devices" in sentence]
    first, *others = summary["settings"]
    several = summary | {"settings": [first | {"device": "another"}, *others]}
    assert line(several, "Seconds per map").endswith("several devices: another, none.")


def test_the_short_table_has_a_row_for_each_setting(summary):
    header, rows = short_table(summary)
    assert {len(row) for row in rows} == {len(header)} and len(rows) == 8
    labels = [row[0] for row in rows]
    assert labels[:2] == ["ddpm (full chains, pooled)", "ddpm (one full chain)"]
    shifted = rows[labels.index("ddpm 2")]
    assert shifted[header.index("outside")] == "1 of 2"
    assert "farthest measure" in shifted[header.index("told apart by")]
    assert "\nddpm 2: CPLE\n" in summary_text(summary)
    assert "| dpmpp_2m 2 | 2 |" in summary_markdown(summary)


def test_the_csv_has_the_numbers_of_the_json(summary):
    rows = list(csv.DictReader(io.StringIO(summary_csv(summary))))
    # Two measures of each setting, and the energy distance of all but the pooled chains.
    assert len(rows) == 3 * len(summary["settings"]) - 1
    [row] = [
        r for r in rows if (r["respacing"], r["method"], r["measure"]) == ("2", "ddpm", "CPLE")
    ]
    found = summary["settings"][-2]["measures"]["CPLE"]
    assert float(row["value"]) == found["value"] and row["outside"] == "True"
    assert float(row["bound"]) == summary["settings"][0]["measures"]["CPLE"]["bound"]


def test_files_that_are_named_are_written(summary, tmp_path):
    names = write_summary(summary, tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    rule = json.loads((tmp_path / "summary.json").read_text())["rule"]
    assert rule in (tmp_path / "summary.txt").read_text()


@pytest.mark.parametrize(
    ("method", "respacing"), [("dpmpp_2m_sde", "snr18"), ("ddim", "50"), ("ddpm", "")]
)
def test_the_recommended_settings_are_a_configfile(summary, method, respacing):
    chosen = summary["recommended"] | {"method": method, "respacing": respacing}
    text = recommended_yaml(summary | {"recommended": chosen})
    noisy = raw_config(sampling={"method": "ddim", "eta": 1.0})
    config = load_config(overlay(noisy, yaml.safe_load(text)))
    assert config.sampling.method == method
    assert str(config.diffusion.timestep_respacing) == respacing
    assert config.sampling.eta == 0
    assert "checkpoint 0123456789ab;" in text and "40 items x 4 maps x 2 draw(s)" in text


def test_a_summary_of_the_rule_before_is_still_read(summary):
    """It had neither time grids nor pooled chains."""
    measure = {"value": 1.0, "low": 0.9, "high": 1.1, "num_items": 3}
    old = {
        "rule": "the old rule",
        "recommended": {"method": "ddim", "steps": 50, "seconds_per_map": 1.0},
        "num_items": 3,
        "measures": {"CPLE": {}, "diversity": {}},
        "settings": [
            {
                **{"method": "ddpm", "steps": 100, "role": role, "outside": ["CPLE"]},
                **{"beyond_noise_floor": ["diversity"], "seconds_per_map": 1.0},
                **{"diversity_ratio": 1.0, "energy_distance": None, "device": "none"},
                "measures": {"CPLE": measure, "diversity": measure},
            }
            for role in ("full", "repeat", "compared")
        ],
    }
    assert "Recommended then: ddim with 50 steps." in verdict(old)
    header, rows = short_table(old)
    assert rows[2][:2] == ["ddpm", "100"] and rows[2][header.index("told apart by")] == "diversity"
