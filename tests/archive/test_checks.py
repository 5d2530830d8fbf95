"""Files of a store, by their names, kinds and sizes, and by every byte."""

import os
import shutil
from pathlib import Path

import pytest
from archives import make_run, quiet, record_to_store

from cdm.archive.checks import checksum_files, file_problem, lost_files, verify_file
from cdm.archive.records import read_record
from cdm.run.merge import merge


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run()


def test_a_file_is_held_against_kind_size_and_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    known = checksum_files(tmp_path)["file"]
    assert known[0] == 3 and file_problem(path, 3) is None and verify_file(path, known) is None
    assert "corrupt (3 bytes, expected 4)" in file_problem(path, 4)
    path.write_bytes(b"abd")
    assert file_problem(path, 3) is None and "contents changed" in verify_file(path, known)
    assert "No such file" in file_problem(tmp_path / "missing", None)
    assert "not a file" in file_problem(tmp_path, None)
    (tmp_path / "link").symlink_to(path)
    assert "a symbolic link" in verify_file(tmp_path / "link", known)
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in verify_file(tmp_path / "pipe", known)


def test_a_whole_store_has_lost_nothing(plan):
    record = merge(plan, quiet)
    assert lost_files(Path(plan.archive), record.files) == []
    for path in map(Path, plan.chunk_records()):
        assert lost_files(record_to_store(path), read_record(path).files) == []


LOSSES = {
    "is missing": lambda shard: shard.unlink(),
    "has 100 bytes, expected": lambda shard: replace_file(shard, shard.read_bytes()[:100]),
    "is a symbolic link": lambda shard: link_away(shard),
    "is not one of the files": lambda shard: shutil.copy(shard, shard.with_name("c.5.0.0.0")),
}


def replace_file(path, content):
    path.unlink()  # the shard is read-only, and shared with the chunk by a hard link
    path.write_bytes(content)


def link_away(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("words", LOSSES)
def test_a_lost_foreign_linked_or_truncated_shard_is_named_without_reading_it(plan, words):
    record = merge(plan, quiet)
    archive = Path(plan.archive)
    LOSSES[words](archive / "distance/c.1.0.0.0")
    problems = [p for p in lost_files(archive, record.files) if "/elsewhere" not in p]
    assert len(problems) == 1 and words in problems[0] and f"{archive}/distance/c." in problems[0]


def test_a_store_that_is_gone_or_a_link_is_lost_and_hidden_files_are_not_foreign(plan):
    path = Path(plan.chunk_records()[0])
    store, files = record_to_store(path), read_record(path).files
    (store / "sample/.nfs0001").write_text("")
    assert lost_files(store, files) == []
    store.rename("elsewhere")
    assert lost_files(store, files) == [f"{store}: No such file or directory"]
    store.symlink_to(Path("elsewhere").resolve())
    assert lost_files(store, files) == [f"{store}: is a symbolic link, expected a folder"]
