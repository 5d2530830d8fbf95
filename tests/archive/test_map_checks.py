"""Every map of an archive is read, and what its numbers cannot be is told with its row."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from archives import LAYOUT, SKIPPED_ROW, make_run, quiet

from cdm.archive import map_checks
from cdm.archive.map_checks import read_every_map
from cdm.run.merge import merge


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A merged archive that may be written to; one of its seven rows was skipped."""
    monkeypatch.chdir(tmp_path)
    plan = make_run()
    merge(plan, quiet)
    path = Path(plan.archive)
    for each in [path, *path.rglob("*")]:
        each.chmod(0o755)
    return path


@pytest.fixture(params=[1, 2, 128])
def look(request, archive, monkeypatch):
    """Reads so many rows at a time; gives the number of maps and the problems."""
    monkeypatch.setattr(map_checks, "ROWS_READ", request.param)

    def look():
        group = zarr.open_group(archive, mode="r")
        return read_every_map(archive, group, LAYOUT, group["status"][:], quiet)

    return look


def test_a_whole_archive_is_read_to_its_last_map(look):
    assert look() == (12, [])  # two maps of six samples


def test_numbers_where_the_status_is_skipped_are_found(archive, look):
    zarr.open_array(archive / "points", mode="r+")[SKIPPED_ROW] = 0.5
    told = f"{archive}/points: row {SKIPPED_ROW} holds numbers, its status is skipped"
    assert look() == (12, [told])


def test_a_map_that_is_not_finite_is_found(archive, look):
    array = zarr.open_array(archive / "aug_trans", mode="r+")
    array[6, 3, 3] = np.inf
    told = f"{archive}/aug_trans: row 6 holds NaN or infinity, its status is ok"
    assert look() == (12, [told])


def test_distances_that_are_not_the_samples_are_found(archive, look):
    array = zarr.open_array(archive / "distance", mode="r+")
    array[2] = np.asarray(array[2]) + 0.01
    _, [problem] = look()
    assert "'distance' is not that of 'sample', contacts differ by up to" in problem


def test_a_damaged_shard_is_told_with_its_rows(archive, look):
    path = archive / "points/c.0.0.0"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    _, [problem] = look()
    assert problem.startswith(f"{archive}/points: rows 0 to ") and "checksum" in problem


def test_an_archive_that_does_not_tell_its_statistics_is_told(archive, look):
    group = zarr.open_group(archive, mode="r+")
    del group.attrs["statistics"]
    number, [problem] = look()
    assert number == 0 and "zarr.json: does not tell the statistics (KeyError" in problem
