"""The outcome of a study in words and tables."""

import csv
import io
import json

from evaluations import study_summary

from cdm.evaluation.study_tables import (
    short_table,
    summary_csv,
    summary_text,
    verdict,
    write_summary,
)


def line(summary, start):
    [found] = [sentence for sentence in verdict(summary) if sentence.startswith(start)]
    return found


def test_the_verdict_names_the_setting_and_how_much_faster_it_is():
    summary = study_summary()
    chosen = summary["recommended"]
    assert chosen["steps"] == 2
    assert line(summary, "Recommended") == (
        f"Recommended: {chosen['method']} with 2 steps, 3.0 times as fast."
    )
    assert summary["rule"] in verdict(summary)


def test_where_nothing_is_as_good_the_verdict_says_so():
    worse = {"shift": 3}
    summary = study_summary(
        dpmpp_2m_6=worse, ddpm_3=worse, dpmpp_2m_3=worse, ddpm_2=worse, dpmpp_2m_2=worse
    )
    expected = "Recommended: the full chain: no setting with fewer steps is as good."
    assert line(summary, "Recommended") == expected


def test_several_devices_and_a_strange_repeat_are_told():
    summary = study_summary(ddpm_6_repeat={"shift": 3})
    assert "CPLE, where chance decides" in line(summary, "Caution")
    assert not [sentence for sentence in verdict(summary) if "several devices" in sentence]
    summary["settings"][2]["device"] = "another"
    assert line(summary, "Seconds per map").endswith("several devices: none, another.")


def test_the_short_table_has_a_row_for_each_setting():
    summary = study_summary(ddpm_2={"shift": 3})
    header, rows = short_table(summary)
    assert {len(row) for row in rows} == {len(header)}
    assert [row[0] for row in rows[:3]] == [
        "ddpm (full chain)",
        "ddpm (second full chain)",
        "dpmpp_2m",
    ]
    [shifted] = [row for row in rows if row[:2] == ["ddpm", "2"]]
    assert shifted[header.index("outside")] == "1 of 2"
    assert "\nddpm, 2 steps: CPLE\n" in summary_text(summary)


def test_the_csv_has_the_numbers_of_the_json():
    summary = study_summary()
    rows = list(csv.DictReader(io.StringIO(summary_csv(summary))))
    # Two measures of each setting, and the energy distance of all but the full chain.
    assert len(rows) == 3 * len(summary["settings"]) - 1
    [row] = [r for r in rows if (r["role"], r["measure"]) == ("repeat", "energy_distance")]
    found = summary["settings"][1]["energy_distance"]
    assert float(row["value"]) == found["value"] and row["mean_difference_value"] == ""


def test_files_that_are_named_are_written(tmp_path):
    names = write_summary(study_summary(), tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    rule = json.loads((tmp_path / "summary.json").read_text())["rule"]
    assert rule in (tmp_path / "summary.txt").read_text()
