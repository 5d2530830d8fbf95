"""The maps of a run that are there."""

import numpy as np
import pytest
from helpers import NUM_POINTS, plan_run, write_dummy_chunk

from cdm.errors import ArchiveError
from cdm.gallery.maps import RunMaps
from cdm.run.merge import merge

NAMES = ("sample", "points")


def test_rows_of_finished_chunks_are_those_of_the_archive_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path)
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk, {1: "bad"} if chunk.number == 0 else None)
    maps = RunMaps(tmp_path / "outputs/run")
    early = maps.maps
    assert list(early.samples) == [0, 2, 3, 4, 5, 6] and not maps.complete
    merge(plan, lambda line: None)
    late = maps.look()
    assert maps.complete and list(late.samples) == list(early.samples)
    for row in early.samples:
        then, now = early.read(row, NAMES)[0], late.read(row, NAMES)[0]
        assert then["points"].shape == (NUM_POINTS, 3)
        for name in NAMES:
            np.testing.assert_array_equal(then[name], now[name])
        assert early.samples[row].text == late.samples[row].text


def test_a_folder_without_plan_and_archive_is_an_error(tmp_path):
    with pytest.raises(ArchiveError, match=r"plan\.json: no such file"):
        RunMaps(tmp_path)
    (tmp_path / "contact_maps.zarr").mkdir()
    with pytest.raises(ArchiveError, match="no archive here"):
        RunMaps(tmp_path)
