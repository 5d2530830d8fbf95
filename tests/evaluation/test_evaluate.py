"""Evaluation of an archive: every sample measured once, tables that agree, nothing made up."""

import csv
import json

import numpy as np
import pytest
from helpers import NUM_POINTS, plan_run, write_dataset, write_dummy_chunk

from cdm.archive import ContactMaps
from cdm.datasets import FileReader
from cdm.errors import ArchiveError
from cdm.evaluation.evaluate import evaluate, evaluation_key, measure_archive
from cdm.evaluation.measure import MapMeasures, describe, is_share, read_truth
from cdm.evaluation.report import write_report
from cdm.run.dataset import open_dataset
from cdm.run.merge import merge

FAST = {"evaluation": {"resamples": 100}}


def quiet(line):
    pass


def make_archive(folder, skipped=None, masks=True, **changes):
    """A merged archive of random maps over random items, with target masks."""
    write_dataset(folder / "data", 7, NUM_POINTS)
    if masks:
        (folder / "data/HUMANISE/contact_motion/target_mask").mkdir()
        for index in range(7):
            mask = np.arange(NUM_POINTS) % 8 == index
            np.save(folder / f"data/HUMANISE/contact_motion/target_mask/{index:05}.npy", mask)
    plan, _ = plan_run(folder, **(FAST | changes))
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk, skipped if chunk.number == 0 else None)
    merge(plan, quiet)
    return plan


def run(plan, folder):
    record = folder / "report" / f"evaluation-{evaluation_key(plan)}.json"
    return evaluate(plan, record, quiet, threads=2), record


def test_evaluation_is_the_mean_over_items_of_the_measures_of_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, skipped={1: "bad"})
    summary, record = run(plan, tmp_path)
    maps, dataset = ContactMaps(plan.archive), open_dataset(plan.config, None)
    measures = MapMeasures(plan.config, maps.attributes["statistics"])
    reader = FileReader(plan.config.data_dir)
    values = []
    for row, key in enumerate(maps.keys):
        if row != 1:
            sample = next(s for s in dataset.samples() if (s.set, s.index, s.caption_idx) == key)
            values.append(measures(maps.sample(*key), read_truth(dataset, sample, reader)))
    everything = summary["groups"][0]
    assert summary["skipped"] == 1 and everything["num_items"] == 6
    for name, measure in everything["measures"].items():
        column = [value[name] for value in values]
        expected = np.nanmedian(column) if measure["statistic"] == "median" else np.nanmean(column)
        assert measure["value"] == pytest.approx(expected), name
        assert measure["low"] <= measure["value"] <= measure["high"], name
        assert not is_share(name) or 0 <= measure["low"] <= measure["high"] <= 1, name
    assert "found_target" in everything["measures"] and "target/CPLE" in everything["measures"]
    written = json.loads((tmp_path / "report/metrics.json").read_text())
    assert written["groups"] == summary["groups"]
    assert set(json.loads(record.read_text())["files"]) <= {p.name for p in record.parent.iterdir()}
    assert (tmp_path / "report/found_target.png").read_bytes().startswith(b"\x89PNG")


def test_tables_hold_the_numbers_of_the_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    summary, record = run(plan, tmp_path)
    rows = list(csv.DictReader((record.parent / "metrics.csv").open()))
    assert len(rows) == sum(len(group["measures"]) for group in summary["groups"])
    found = summary["groups"][0]["measures"]["CPLE"]
    [row] = [r for r in rows if (r["kind"], r["measure"]) == ("all", "CPLE")]
    assert float(row["value"]) == found["value"] and float(row["high"]) == found["high"]
    text = (record.parent / "metrics.txt").read_text()
    assert f"{found['value']:.4f}" in text and "by action" in text and "\nwalk" not in text
    items = list(csv.DictReader((record.parent / "items.csv").open()))
    assert [row["index"] for row in items] == [str(i) for i in range(7)]
    assert np.mean([float(row["CPLE"]) for row in items]) == pytest.approx(found["value"])
    assert {group["name"] for group in summary["groups"] if group["kind"] == "action"} == {
        row["action"] for row in items
    }


def test_the_report_is_one_page_with_everything_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, skipped={0: "bad"})
    summary, record = run(plan, tmp_path)
    write_report(plan, record.parent, record.parent / "report.html", quiet)
    page = (record.parent / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 4
    assert "http" not in page and "1 skipped" in page
    for name, measure in summary["groups"][0]["measures"].items():
        assert name in page and f"{measure['value']:.4f}" in page


def test_captions_of_one_item_are_one_item_of_the_bootstrap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, dataset={"captions": "all"})
    summary, _ = run(plan, tmp_path)
    everything = summary["groups"][0]
    assert everything["num_samples"] == 13 and everything["num_items"] == 7
    assert everything["measures"]["CPLE"]["num_items"] == 7


def test_without_masks_nothing_is_said_of_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, masks=False)
    summary, _ = run(plan, tmp_path)
    measures = summary["groups"][0]["measures"]
    assert "CPLE" in measures and not [name for name in measures if "target" in name]
    [sentence] = summary["left_out"]
    assert "HUMANISE: no target masks" in sentence and "(7 samples)" in sentence


def test_evaluation_needs_the_archive_of_the_present_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    other, _ = plan_run(tmp_path, seed=5, **FAST)
    with pytest.raises(ArchiveError, match="does not hold the present plan; merge first"):
        measure_archive(other, quiet)
    assert evaluation_key(plan) != evaluation_key(other)


def test_every_measure_is_described():
    for name in ("best/target/TKCO@10", "CPLE_joint_12", "dist_to_target_0.3", "diversity"):
        assert all(isinstance(word, str) for word in describe(name))
    assert describe("CPLE_pelvis")[0] == "m" and "best of" in describe("best/WDE@0.2")[1]
    assert all(map(is_share, ("best/found_target", "dist_to_target_0.3", "target/IoU@0.1")))
    assert not any(map(is_share, ("diversity", "CPLE", "dist_to_target_average")))
