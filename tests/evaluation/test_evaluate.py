"""Evaluation of an archive: every sample measured once, tables that agree, nothing made up."""

import csv
import json
import os
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from evaluations import (
    FEW_DRAWS,
    MASKS,
    evaluation_record,
    make_archive,
    quiet,
    run_evaluate,
)
from helpers import NUM_POINTS, plan_run, write_contacts

from cdm.archive import ContactMaps
from cdm.datasets import FileReader, Sample
from cdm.errors import ArchiveError, DataError
from cdm.evaluation.evaluate import Measured, evaluation_key, measure_archive
from cdm.evaluation.measure import MapMeasures, read_truth
from cdm.evaluation.measure_table import measure_of
from cdm.gallery.gather import gather_items
from cdm.run.dataset import open_dataset

pytestmark = pytest.mark.usefixtures("unpainted")


def test_evaluation_is_the_mean_over_items_of_the_measures_of_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, skipped={1: "bad"})
    summary, record = run_evaluate(plan)
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
        assert not measure_of(name).is_share or 0 <= measure["low"] <= measure["high"] <= 1, name
    assert "found_target" in everything["measures"] and "target/CPLE" in everything["measures"]
    written = json.loads((record.parent / "metrics.json").read_text())
    assert written["groups"] == summary["groups"]
    assert set(json.loads(record.read_text())["files"]) <= {p.name for p in record.parent.iterdir()}
    assert (record.parent / "found_target.png").read_bytes().startswith(b"\x89PNG")


def test_tables_hold_the_numbers_of_the_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    summary, record = run_evaluate(plan)
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


def test_captions_of_one_item_are_one_item_of_the_bootstrap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, dataset={"captions": "all"})
    summary, _ = run_evaluate(plan)
    everything = summary["groups"][0]
    assert everything["num_samples"] == 13 and everything["num_items"] == 7
    assert everything["measures"]["CPLE"]["num_items"] == 7


def test_without_masks_nothing_is_said_of_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, masks=False)
    summary, _ = run_evaluate(plan)
    measures = summary["groups"][0]["measures"]
    assert "CPLE" in measures and not [name for name in measures if "target" in name]
    [sentence] = summary["left_out"]
    assert "HUMANISE: no target masks" in sentence and "(7 samples)" in sentence


def edit_mask(name="00002.npy"):
    """Turn a target mask into that of other points, as an edit does."""
    path = MASKS / name
    np.save(path, ~np.load(path))


def test_an_edited_added_or_removed_mask_is_measured_again(tmp_path, monkeypatch):
    """The record's name is what Snakemake looks for: another one means that the rule runs."""
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    before, record = run_evaluate(plan)
    assert evaluation_record(plan) == record
    seen = {record}
    for change in (
        edit_mask,
        lambda: (MASKS / "00002.npy").unlink(),
        lambda: np.save(MASKS / "00002.npy", np.arange(NUM_POINTS) < 3),
    ):
        change()
        after = evaluation_record(plan)
        assert after not in seen and not after.exists()
        summary, written = run_evaluate(plan)
        assert written == after == evaluation_record(plan)
        assert [path.name for path in record.parent.glob("evaluation-*")] == [written.name]
        assert summary["groups"][0]["measures"] != before["groups"][0]["measures"]
        before = summary
        seen.add(written)


def test_an_edit_that_keeps_size_and_mtime_is_seen_and_a_touch_is_not_an_edit(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    _, record = run_evaluate(plan)
    path = MASKS / "00002.npy"
    stat = path.stat()
    path.touch()
    assert evaluation_record(plan) == record
    edit_mask()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and evaluation_record(plan) != record


def test_a_table_that_is_gone_or_a_damaged_record_is_made_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    _, record = run_evaluate(plan)
    (record.parent / "items.csv").unlink()
    assert not evaluation_record(plan).exists()
    _, record = run_evaluate(plan)
    assert evaluation_record(plan) == record
    record.unlink()
    _, record = run_evaluate(plan)
    record.write_bytes(record.read_bytes()[:50])
    assert not evaluation_record(plan).exists()


def test_an_item_edited_after_its_maps_were_sampled_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    write_contacts(tmp_path / "data/HUMANISE/contact_motion/contacts/00004.npz", NUM_POINTS, 99)
    with pytest.raises(DataError, match=r"00004\.npz: was edited after the maps of chunk 00001-"):
        measure_archive(plan, quiet)
    assert list(tmp_path.glob("outputs/run/report/*")) == []


def test_items_are_watched_where_their_chunks_were_removed_after_the_merge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    shutil.rmtree(tmp_path / "outputs/run/chunks")
    _, record = run_evaluate(plan)
    assert evaluation_record(plan) == record
    write_contacts(tmp_path / "data/HUMANISE/contact_motion/contacts/00004.npz", NUM_POINTS, 99)
    assert not evaluation_record(plan).exists()
    with pytest.raises(DataError) as error:
        run_evaluate(plan)
    assert "HUMANISE/4 caption" in str(error.value) and "are not those" in str(error.value)
    assert f"rm {plan.archive_record}, then run the same command again" in str(error.value)


def test_a_lost_shard_ends_the_evaluation_and_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    [shard] = tmp_path.glob("outputs/run/contact_maps.zarr/sample/c.1.*")
    shard.unlink()
    with pytest.raises(
        ArchiveError, match=r"contact_maps\.zarr/sample/c\.1\.0\.0\.0: No such file"
    ):
        run_evaluate(plan)
    assert not evaluation_record(plan).exists()


def test_a_foreign_shard_of_the_same_size_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    first, second = sorted(tmp_path.glob("outputs/run/contact_maps.zarr/sample/c.[01].*"))
    content = first.read_bytes()
    second.unlink()
    second.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"c\.1\.0\.0\.0: corrupt"):
        run_evaluate(plan)


def test_an_archive_of_skipped_samples_only_is_not_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reasons = dict.fromkeys(range(7), "bad")
    plan = make_archive(tmp_path, skipped=reasons, workflow={"chunk_size": 7})
    with pytest.raises(ArchiveError, match=r"all of its 7 samples were skipped.*cdm status"):
        run_evaluate(plan)
    assert not evaluation_record(plan).parent.exists()


def test_a_set_of_skipped_samples_only_is_told():
    measured = Measured(
        samples=[Sample("HUMANISE", "0", 0, "sit")],
        rows=[{"CPLE": 1.0}],
        skipped=Counter(PROX=3, HUMANISE=1),
    )
    assert measured.sentences() == [
        "PROX: all of its 3 samples were skipped, hence nothing is measured"
    ]


def test_where_nothing_can_be_measured_the_tables_say_why(tmp_path, monkeypatch):
    """One map of each item, no ground truth, no masks."""
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, masks=False)
    monkeypatch.setattr(
        "cdm.evaluation.evaluate.read_truth",
        lambda dataset, sample, reader, whole=read_truth: replace(
            whole(dataset, sample, reader), distance=None
        ),
    )
    summary, record = run_evaluate(plan)
    assert summary["groups"][0]["measures"] == {}
    assert [sentence.split(",")[0] for sentence in summary["left_out"]] == [
        "HUMANISE: no ground truth",
        "HUMANISE: no target masks (target_mask/*.npy)",
    ]
    text = (record.parent / "metrics.txt").read_text()
    assert "left out: HUMANISE: no ground truth" in text and "nan" not in text
    assert (record.parent / "metrics.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("look", [measure_archive, gather_items], ids=["evaluate", "report"])
def test_a_mask_that_cannot_be_read_is_not_said_to_be_skipped(tmp_path, monkeypatch, look):
    """Its sample has a map, so `on_bad_item` does not help."""
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, dataset={"on_bad_item": "skip"})
    np.save(MASKS / "00002.npy", np.ones(3))
    told = r"00002\.npy: the array is \(3,\), expected \(\d+,\); restore or rebuild the file$"
    with pytest.raises(DataError, match=told):
        look(plan, quiet if look is measure_archive else 8)


def test_statistics_of_a_damaged_archive_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    path = tmp_path / "outputs/run/contact_maps.zarr/zarr.json"
    path.chmod(0o644)
    content = json.loads(path.read_text())
    content["attributes"]["statistics"]["std"][0][2] = 0.0
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="expected finite numbers and positive std"):
        run_evaluate(plan)


def test_evaluation_needs_the_archive_of_the_present_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    other, _ = plan_run(tmp_path, seed=5, **FEW_DRAWS)
    with pytest.raises(ArchiveError, match="does not hold the present plan; merge first"):
        measure_archive(other, quiet)
    assert evaluation_key(plan) != evaluation_key(other)
