"""What a plan is: names, paths, and its description."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import plan_run

from cdm.errors import ArchiveError
from cdm.run.dataset import open_dataset
from cdm.run.plan import Chunk, PlannedStatistics, base_fingerprint, describe_plan
from cdm.run.plan_files import read_samples


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)[0]


def test_a_chunk_is_named_by_its_number_and_fingerprint():
    chunk = Chunk(7, start=21, stop=23, base="a", fingerprint="b", offset=0)
    assert chunk.name == "00007-b" and chunk.num_samples == 2


def test_a_plan_tells_all_paths_of_its_run(plan):
    names = [chunk.name for chunk in plan.chunks]
    assert plan.archive == "outputs/run/contact_maps.zarr"
    assert plan.archive_record == f"outputs/run/contact_maps-{plan.fingerprint}.json"
    assert plan.chunk_records() == [f"outputs/run/chunks/{name}.json" for name in names]
    assert plan.folder == Path("outputs/run/plan")
    assert plan.num_samples == 7 and plan.num_steps == 2


def test_the_fingerprint_of_a_plan_is_that_of_its_chunks_names(plan):
    renamed = replace(plan.chunks[2], fingerprint="0")
    other = replace(plan, chunks=(*plan.chunks[:2], renamed))
    assert other.fingerprint != plan.fingerprint
    moved = replace(plan, chunks=tuple(replace(c, offset=c.offset + 1) for c in plan.chunks))
    assert moved.fingerprint == plan.fingerprint


def test_a_chunk_is_found_by_name_and_an_unknown_one_is_told(plan):
    assert plan.find_chunk(plan.chunks[1].name) is plan.chunks[1]
    with pytest.raises(ArchiveError, match="00009-ab is not in the present plan of outputs/run"):
        plan.find_chunk("00009-ab")


def test_statistics_without_values_are_computed_by_the_workflow():
    assert PlannedStatistics("a.npz", None).computed
    assert not PlannedStatistics("a.npz", {"mean": [[0.0]], "std": [[1.0]]}).computed


def test_a_base_fingerprint_hashes_settings_rows_and_file_names(plan):
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    rows = read_samples(plan, plan.chunks[0], dataset)
    files = [dataset.files(sample) for sample in rows]
    usual = base_fingerprint("a", rows, files)
    others = {
        base_fingerprint("b", rows, files),
        base_fingerprint("a", rows[:2], files),
        base_fingerprint("a", [replace(rows[0], text="other"), *rows[1:]], files),
        base_fingerprint("a", rows, files[::-1]),
    }
    assert len(others | {usual}) == 5 and base_fingerprint("a", list(rows), files) == usual


def test_what_a_run_samples_is_described_for_people(plan):
    text = Path("outputs/run/checkpoint_info.txt").read_text()
    assert text == describe_plan(plan)
    assert "2 of 500 steps" in text and "7 in 3 chunks of 3" in text and "dropped" not in text
