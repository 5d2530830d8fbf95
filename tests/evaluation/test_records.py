"""Records whose names tell whether the files behind them are as they were."""

import os
import shutil
from types import SimpleNamespace

import pytest

from cdm.datasets import FileReader
from cdm.errors import ArchiveError
from cdm.evaluation.records import (
    drop_records,
    inputs_read,
    read_record,
    record_key,
    verify_outputs,
    write_record,
)


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_bytes(b"one")
    config = SimpleNamespace(data_dir=str(tmp_path / "data"), is_demo_data=False)
    return SimpleNamespace(config=config, fingerprint="f")


def write(plan, folder, base="base"):
    """Read the data, and write a table with its record; returns the record's key."""
    key = record_key(folder, "evaluation", base, plan)
    reader = FileReader(plan.config.data_dir)
    for name in ("a", "b"):
        if reader.path(name).exists():
            reader.read(name)
    folder.mkdir(exist_ok=True)
    drop_records(folder, "evaluation")
    (folder / "table").write_bytes(b"0.5")
    inputs = inputs_read(reader, ["b", "a"])
    write_record(folder / f"evaluation-{key}.json", base, plan, inputs, ["table"])
    return key


def test_without_a_record_the_key_is_the_base(plan, tmp_path):
    assert record_key(tmp_path / "none", "evaluation", "base", plan) == "base"


def test_a_record_keeps_its_key_until_an_input_or_a_table_changes(plan, tmp_path):
    folder, data = tmp_path / "report", tmp_path / "data"
    keys = [write(plan, folder)]
    for change in (
        lambda: (data / "a").write_bytes(b"two"),
        lambda: (data / "b").write_bytes(b"new"),
        lambda: (data / "b").unlink(),
        lambda: (data / "a").unlink(),
        lambda: (folder / "table").write_bytes(b"longer"),
        lambda: (folder / "table").unlink(),
    ):
        assert record_key(folder, "evaluation", "base", plan) == keys[-1]
        change()
        key = record_key(folder, "evaluation", "base", plan)
        assert key not in keys
        assert key == record_key(folder, "evaluation", "base", plan)  # a job finds the same one
        assert write(plan, folder) == key
        keys.append(key)
    assert [path.name for path in folder.glob("*.json")] == [f"evaluation-{keys[-1]}.json"]


def test_a_file_that_was_only_touched_or_copied_is_the_same(plan, tmp_path):
    folder, path = tmp_path / "report", tmp_path / "data/a"
    key = write(plan, folder)
    path.unlink()
    path.write_bytes(b"one")
    assert record_key(folder, "evaluation", "base", plan) == key


def test_other_settings_have_their_own_record(plan, tmp_path):
    folder = tmp_path / "report"
    write(plan, folder)
    assert record_key(folder, "evaluation", "other", plan) == "other"
    assert record_key(folder, "summary", "base", plan) == "base"


def test_the_demos_files_may_be_away_because_a_rule_writes_them_again(plan, tmp_path):
    folder = tmp_path / "report"
    key = write(plan, folder)
    (tmp_path / "data/a").unlink()
    plan.config.is_demo_data = True
    assert record_key(folder, "evaluation", "base", plan) == key


def test_a_damaged_record_is_written_anew(plan, tmp_path):
    folder = tmp_path / "report"
    key = write(plan, folder)
    path = folder / f"evaluation-{key}.json"
    path.write_bytes(path.read_bytes().replace(b"table", b"tablf"))
    with pytest.raises(ArchiveError, match=f"not the record of an evaluation.*rm .*{path.name}"):
        read_record(path)
    again = record_key(folder, "evaluation", "base", plan)
    assert again != key and write(plan, folder) == again


def test_a_pipe_or_a_folder_in_place_of_a_record_makes_nobody_wait(plan, tmp_path):
    folder = tmp_path / "report"
    for make in (os.mkfifo, os.mkdir):
        folder.mkdir()
        make(folder / "evaluation-base.json")
        assert record_key(folder, "evaluation", "base", plan) != "base"
        shutil.rmtree(folder)


def test_looking_for_the_key_changes_no_file(plan, tmp_path):
    folder = tmp_path / "report"
    key = write(plan, folder)
    (tmp_path / "data/a").write_bytes(b"two")
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    assert record_key(folder, "evaluation", "base", plan) != key
    assert {path: path.stat() for path in tmp_path.rglob("*")} == before


def test_a_changed_table_is_named(plan, tmp_path):
    folder = tmp_path / "report"
    path = folder / f"evaluation-{write(plan, folder)}.json"
    verify_outputs(path)
    (folder / "table").write_bytes(b"0.6")
    with pytest.raises(ArchiveError, match=r"table: corrupt .*; to have it made again: rm"):
        verify_outputs(path)
