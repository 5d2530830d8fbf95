"""Which statistics a run uses, which chunks they make again, and what the run left out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import plan_run, run_config, write_dataset, write_dummy_chunk, write_split

from cdm.archive.records import archive_record_path, read_archive_record
from cdm.datasets.statistics import Statistics, save_statistics
from cdm.errors import DataError
from cdm.run.dataset import open_dataset
from cdm.run.inputs import STATISTICS, InputResolver, statistics_name
from cdm.run.merge import merge
from cdm.run.plan import describe_plan
from cdm.run.planning import make_plan


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A data folder without a file of statistics; some of its items are of the split test."""
    monkeypatch.chdir(tmp_path)
    folder = write_dataset(tmp_path / "data", 7, 32, split=range(5))
    (folder / "HUMANISE/test.txt").write_text("000005\n000006\n")
    masks = folder / "HUMANISE/contact_motion/target_mask"
    masks.mkdir()
    for index in (5, 6):
        np.save(masks / f"{index:05}.npy", np.ones(32, bool))
    next(folder.glob("Mean_Std*")).unlink()
    return folder


def planned(**dataset):
    """The plan of a configuration; the demo's weights have no statistics for this sigma."""
    return make_plan(run_config(dataset={"sigma": 0.7} | dataset))[0]


def test_the_sampled_split_changes_neither_the_statistics_nor_their_place():
    train, test = planned(), planned(phase="test")
    assert train.statistics.computed and test.statistics.computed
    assert train.statistics.path == test.statistics.path
    assert train.identity["statistics"] == "computed"  # as ever: names of old chunks stay
    assert test.identity["statistics"] == "computed from train"
    chosen = planned(phase="test", statistics_phase="test")
    assert chosen.identity["statistics"] == "computed"
    assert chosen.statistics.path != test.statistics.path


def test_the_log_of_the_experiment_tells_the_split_unless_the_user_does(data, monkeypatch):
    monkeypatch.setattr("cdm.datasets.base.trained_split", lambda exp_dir: f"{exp_dir}"[-3:])
    (data / "HUMANISE/all.txt").write_text("".join(f"{i:06}\n" for i in range(7)))
    dataset = open_dataset(run_config(dataset={"sigma": 0.7}, exp_dir="outputs/for_all"), 3)
    assert dataset.statistics_phase == "all" and len(dataset.statistics_samples()) == 7
    chosen = run_config(dataset={"statistics_phase": "test"}, exp_dir="outputs/for_all")
    assert open_dataset(chosen, 3).statistics_phase == "test"
    assert open_dataset(run_config(exp_dir="demo"), 3).statistics_phase == "train"


def test_other_data_under_the_same_run_name_has_statistics_of_its_own(data):
    first = planned()
    shutil.copytree(data, data.parent / "other")
    assert planned(data_dir="other").statistics.path != first.statistics.path
    write_split(data, range(4))
    assert planned().statistics.path != first.statistics.path


def test_missing_items_of_the_training_split_are_found_by_the_plan(data):
    (data / "HUMANISE/contact_motion/contacts/00003.npz").unlink()
    with pytest.raises(DataError, match=r"1 of 5 files the samples need are missing"):
        planned(phase="test")
    (data / "HUMANISE/train.txt").unlink()
    with pytest.raises(DataError, match=r"train.txt: no such file.*\n.*dataset.statistics_phase"):
        planned(phase="test")


def resolver(plan):
    return InputResolver(plan.config, [], plan.statistics, {})


def test_chunks_made_with_statistics_of_other_data_are_made_again(data):
    plan = planned()
    save_statistics(plan.statistics.path, Statistics(np.ones((1, 6)), np.ones((1, 6)), ""))
    name = statistics_name(Path(plan.statistics.path))
    then = {"size": Path(plan.statistics.path).stat().st_size, "mtime_ns": 0, "sha256": "?"}
    now = {STATISTICS: {name: then}}
    assert list(resolver(plan).changed(now)) == [name]  # other bytes under the same name
    elsewhere = {STATISTICS: {f"0123456789abcdef/{Path(name).name}": then}}
    assert list(resolver(plan).changed(elsewhere)) == list(elsewhere[STATISTICS])
    old = {STATISTICS: {Path(name).name: then}}  # of a version that kept the file's name only
    assert list(resolver(plan).changed(old)) == [Path(name).name]
    shutil.rmtree("outputs/run/statistics")
    assert list(resolver(plan).changed(now)) == []  # a rule computes it again, alike
    assert list(resolver(plan).changed(old)) == []


def test_a_file_whose_name_contradicts_the_configuration_is_told(data):
    name = "Mean_Std_Cont_HUMANISE_contact_cont_joints_0.5.npz"
    save_statistics(Path("data", name), Statistics(np.ones((1, 6)), np.ones((1, 6)), ""))
    text = describe_plan(planned(statistics=f"data/{name}"))
    assert f"warning         data/{name}: its name says sigma 0.5, dataset.sigma says 0.7" in text
    Path("data", name).rename("data/mine.npz")
    assert "warning" not in describe_plan(planned(statistics="data/mine.npz"))


def test_clips_that_were_left_out_are_in_the_record_and_the_log(tmp_path):
    save_statistics(Path("s.npz"), Statistics(np.ones((1, 6)), np.ones((1, 6)), ""))
    plan, _ = plan_run(tmp_path, dataset={"statistics": "s.npz"})
    plan = replace(plan, dropped={"H3D/a": "NaN in the motion", "H3D/b": "shorter: 3 frames"})
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    lines = []
    record = merge(plan, lines.append)
    assert record.dropped == plan.dropped
    path = archive_record_path(Path(plan.archive), plan.fingerprint)
    assert read_archive_record(path).dropped == plan.dropped
    assert json.loads(path.read_bytes())["dropped"] == plan.dropped
    assert "dropped         2 clip(s) or parts: 1 NaN in the motion, 1 shorter" in lines
