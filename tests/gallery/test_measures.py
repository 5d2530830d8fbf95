"""What an evaluation said of each sample."""

import pytest
from evaluations import make_archive, run_evaluate

from cdm.errors import ArchiveError
from cdm.gallery import Measured
from cdm.gallery.measures import find_measured, measured_of, read_measured

ROW = {"set": "S", "index": "3", "caption_idx": "1", "found_target": "", "CPLE": "0.25"}


def test_the_pelvis_counts_and_without_it_the_closest_point():
    assert measured_of([ROW]) == {("S", "3", 1): Measured(None, 0.25)}
    row = ROW | {"pelvis_point_error": "1.5", "found_target": "0.5"}
    assert measured_of([row]) == {("S", "3", 1): Measured(0.5, 1.5)}
    assert measured_of([ROW | {"CPLE": "nan"}]) == {("S", "3", 1): Measured(None, None)}


def test_a_file_that_is_no_table_is_told(tmp_path):
    path = tmp_path / "items.csv"
    with pytest.raises(ArchiveError, match="not the items of an evaluation"):
        read_measured(path)
    path.write_text("set,index\nS,1\n")
    with pytest.raises(ArchiveError, match="run snakemake evaluate again"):
        read_measured(path)
    path.write_text(f"set,index\nS,{'1' * 200_000}\n")  # more than Python's csv takes
    with pytest.raises(ArchiveError, match="field larger than field limit"):
        read_measured(path)


def test_measures_of_another_plan_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    _, record = run_evaluate(plan)
    run = tmp_path / "outputs/run"
    found = find_measured(run, plan.fingerprint)
    assert found == read_measured(record.parent / "items.csv") and len(found) == 7
    assert find_measured(run, "0" * 16) == {}
