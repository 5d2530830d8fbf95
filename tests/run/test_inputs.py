"""What a chunk read is what its record says."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import plan_run, write_contacts

from cdm.datasets import FileReader
from cdm.errors import ArchiveError, BadItem
from cdm.files import FileContent, hash_file
from cdm.run.dataset import open_dataset
from cdm.run.inputs import (
    ITEMS,
    STATISTICS,
    TEXT_MODEL,
    InputResolver,
    content_fingerprint,
    fingerprint_allows,
    read_file_hashes,
    read_inputs,
    shared_states,
    statistics_name,
)
from cdm.run.plan import PlannedStatistics

HASHES = {ITEMS: {"a.npz": "1" * 64}, TEXT_MODEL: {}, STATISTICS: {"s.npz": "2" * 64}}
CONTENTS = {
    group: {name: {"size": 1, "mtime_ns": 2, "sha256": sha256} for name, sha256 in files.items()}
    for group, files in HASHES.items()
}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)[0]


def computing(plan, path):
    """The plan with statistics that a rule computes."""
    return replace(plan, statistics=PlannedStatistics(str(path), None))


def test_a_base_fingerprint_allows_any_content_and_another_only_its_own():
    assert fingerprint_allows("base", "base", CONTENTS)
    assert fingerprint_allows(content_fingerprint("base", HASHES), "base", CONTENTS)
    unknown = HASHES | {STATISTICS: {"s.npz": None}}  # computed after the name was chosen
    assert fingerprint_allows(content_fingerprint("base", unknown), "base", CONTENTS)
    other = HASHES | {ITEMS: {"a.npz": "3" * 64}}
    assert not fingerprint_allows(content_fingerprint("base", other), "base", CONTENTS)


def test_a_missing_file_has_a_fingerprint_too():
    contents = CONTENTS | {ITEMS: {"a.npz": None}}
    hashes = HASHES | {ITEMS: {"a.npz": None}}
    assert fingerprint_allows(content_fingerprint("base", hashes), "base", contents)


def read(plan, before=None):
    dataset, reader = open_dataset(plan.config, 3), FileReader(plan.config.data_dir)
    sample = dataset.samples()[0]
    dataset.load(sample, reader)
    states = shared_states(plan) if before is None else before
    return read_inputs(plan, dataset, [sample], reader, states), dataset.files(sample)[0]


def test_items_are_recorded_as_they_were_read(plan):
    dataset, reader = open_dataset(plan.config, 3), FileReader(plan.config.data_dir)
    sample = dataset.samples()[0]
    dataset.load(sample, reader)
    (name,) = dataset.files(sample)
    before = hash_file(f"data/{name}")
    write_contacts(Path("data", name), 32, seed=99)  # after it was read
    found = read_inputs(plan, dataset, [sample], reader, {})[ITEMS][name]
    assert found["sha256"] == before != hash_file(f"data/{name}")
    assert sorted(found) == ["ctime_ns", "inode", "mtime_ns", "sha256", "size"]


@pytest.mark.parametrize("read_again", [False, True])
def test_an_item_that_came_after_it_was_looked_for_is_a_change(plan, read_again):
    """It was still being copied when its sample was skipped; another caption may have found it."""
    dataset, reader = open_dataset(plan.config, 3), FileReader(plan.config.data_dir)
    sample = dataset.samples()[0]
    (name,) = dataset.files(sample)
    there = Path("data", name)
    there.rename("elsewhere")
    with pytest.raises(BadItem, match="cannot be read"):
        dataset.load(sample, reader)
    Path("elsewhere").rename(there)
    if read_again:
        dataset.load(sample, reader)
    contents = read_inputs(plan, dataset, [sample], reader, shared_states(plan))
    assert contents[ITEMS] == {name: None}
    assert list(resolver(plan).changed(contents)) == [name]


def test_computed_statistics_are_recorded_and_may_not_change_meanwhile(plan, tmp_path):
    path = tmp_path / "Mean_Std.npz"
    path.write_bytes(b"one")
    plan = computing(plan, path)
    states = shared_states(plan)
    found, _ = read(plan, states)
    assert found[STATISTICS][statistics_name(path)]["sha256"] == hash_file(path)
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)  # same size and mtime
    other.replace(path)
    with pytest.raises(ArchiveError, match=r"Mean_Std\.npz: was replaced while this chunk"):
        read(plan, states)


def test_a_file_that_was_not_there_before_is_no_input(plan, tmp_path):
    path = tmp_path / "Mean_Std.npz"
    plan = computing(plan, path)
    states = shared_states(plan)
    assert read(plan, states)[0][STATISTICS] == {statistics_name(path): None}
    path.write_bytes(b"one")
    with pytest.raises(ArchiveError, match="was replaced while"):
        read(plan, states)


def resolver(plan):
    return InputResolver(plan.config, [], plan.statistics, states={})


def test_only_edits_count_as_changes(plan):
    contents, name = read(plan)
    path = Path("data", name)
    assert list(resolver(plan).changed(contents)) == []
    os.utime(path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)  # another inode
    assert list(resolver(plan).changed(contents)) == []
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert list(resolver(plan).changed(contents)) == [name]
    path.unlink()
    assert list(resolver(plan).changed(contents)) == [name]


def test_a_file_that_appears_where_none_was_is_a_change(plan):
    contents, name = read(plan)
    missing = contents | {ITEMS: {name: None, "HUMANISE/nothing.npz": None}}
    assert list(resolver(plan).changed(missing)) == [name]


def test_without_a_memory_every_hash_is_unknown(tmp_path):
    assert read_file_hashes(tmp_path) == {}


def test_content_of_a_file_is_its_state_and_its_hash(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    content = FileContent.read(path)
    assert content.state.size == 3 and content.sha256 == hash_file(path)
    assert content.as_dict() == content.state._asdict() | {"sha256": content.sha256}
    assert content.state.agrees_with(content.as_dict())
    with pytest.raises(OSError):
        FileContent.read(tmp_path / "b")
