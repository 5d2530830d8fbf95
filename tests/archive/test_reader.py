"""`ContactMaps`: right values, and an error wherever a value would not be right."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from archives import MEAN, SKIPPED_ROW, STD, make_run, quiet, whole_arrays
from helpers import REPO

import cdm.archive.store
from cdm.archive import ContactMaps
from cdm.errors import ArchiveError
from cdm.files import whole
from cdm.run.merge import merge

ARRAYS = ("sample", "distance", "points", "scene_trans", "aug_trans")


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A folder with a merged run; sample 4 was skipped."""
    folder = tmp_path_factory.mktemp("merged")
    with contextlib.chdir(folder):
        merge(make_run(), quiet)
    return folder


@pytest.fixture
def archive(merged, tmp_path, monkeypatch):
    """A copy that a test may change, under the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(merged / "outputs", "outputs")
    return Path("outputs/run/contact_maps.zarr")


def without_record(archive):
    for record in archive.parent.glob("contact_maps-*.json"):
        record.unlink()


def shard(archive, array, number):
    (path,) = (archive / array).glob(f"c.{number}.*")
    return path


def test_samples_are_found_by_set_index_and_caption(archive):
    maps, arrays = ContactMaps(archive), whole_arrays()
    assert len(maps) == 7 and maps.keys[3] == ("HUMANISE", "3", 0)
    np.testing.assert_array_equal(maps.distance("HUMANISE", 3), arrays["distance"][3])
    np.testing.assert_array_equal(maps.sample("HUMANISE", "3", 0), arrays["sample"][3])
    np.testing.assert_array_equal(maps.points("HUMANISE", 6), arrays["points"][6])
    expected = np.clip(arrays["sample"][3] * np.float32(STD) + np.float32(MEAN), 1e-20, 1)
    np.testing.assert_allclose(maps.contact("HUMANISE", 3), expected, rtol=1e-6)
    with pytest.raises(ArchiveError, match="no sample"):
        maps.distance("PROX", 3)


@pytest.mark.parametrize("checksums", [False, True])
def test_every_row_reads_as_it_was_written(archive, checksums):
    maps, arrays = ContactMaps(archive, checksums), whole_arrays()
    for name in ARRAYS:
        for row in range(7):
            np.testing.assert_array_equal(maps.read(name, row), arrays[name][row])
    assert maps.rows_with_maps() == [row for row in range(7) if row != SKIPPED_ROW]
    assert maps.column("text").tolist() == [f"sít {i}" for i in range(7)]


def test_skipped_rows_read_as_nan(archive):
    assert np.isnan(ContactMaps(archive).distance("HUMANISE", SKIPPED_ROW)).all()


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("record", [True, False])
def test_a_lost_shard_is_an_error_with_its_name(archive, array, record):
    if not record:
        without_record(archive)
    lost = shard(archive, array, 1)
    lost.unlink()
    maps = ContactMaps(archive)
    with pytest.raises(ArchiveError, match=rf"{lost}.*No such file.*to merge again"):
        maps.read(array, 5)
    assert np.isfinite(maps.read(array, 2)).all()  # the other shards are still there


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_emptied(path):
    path.write_bytes(b"")


def damage_flipped_bits(path):
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), 50):
        content[position] ^= 1
    path.write_bytes(content)


def damage_link_to_the_right_bytes(path):
    elsewhere = Path("elsewhere").absolute()
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def damage_folder(path):
    path.unlink()
    path.mkdir()


def damage_fifo(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("record", [True, False])
def test_a_damaged_shard_is_an_error_with_its_name(archive, damage, record):
    if not record:
        without_record(archive)
    path = shard(archive, "distance", 1)
    path.chmod(0o644)
    damage(path)
    with pytest.raises(ArchiveError, match=str(path)):
        ContactMaps(archive).distance("HUMANISE", 5)


def test_numbers_that_are_not_finite_are_an_error_though_every_checksum_is_right(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arrays = whole_arrays()
    arrays["distance"][5, 0, 3, 1] = np.inf
    monkeypatch.setattr(cdm.archive.store, "_check_values", lambda *_: None)
    plan = make_run(arrays=arrays)
    merge(plan, quiet)
    maps = ContactMaps(plan.archive)
    assert np.isfinite(maps.sample("HUMANISE", 5)).all()
    with pytest.raises(ArchiveError, match=r"distance/c.1.0.0.0: row 5 holds NaN or infinity"):
        maps.distance("HUMANISE", 5)


def test_a_shard_of_other_rows_is_found_by_size_or_by_checksum(archive):
    shard(archive, "sample", 0).unlink()
    shutil.copyfile(shard(archive, "sample", 1), archive / "sample/c.0.0.0.0")
    with pytest.raises(ArchiveError, match=r"c.0.0.0.0: corrupt"):
        ContactMaps(archive).sample("HUMANISE", 0)  # two maps, three expected: another size

    first = shard(archive, "points", 0)
    whole = first.read_bytes()
    first.unlink()
    first.write_bytes(whole[::-1])
    with pytest.raises(ArchiveError, match=r"points/c.0.0.0: corrupt \(contents changed"):
        ContactMaps(archive, checksums=True).points("HUMANISE", 0)


@pytest.mark.parametrize("name", ["set", "index", "status"])
@pytest.mark.parametrize("record", [True, False])
def test_a_lost_column_is_an_error_with_its_name(archive, name, record):
    if not record:
        without_record(archive)
    (archive / name / "c/0").unlink()
    with pytest.raises(ArchiveError, match=rf"{name}/c/0: No such file"):
        ContactMaps(archive).column(name)


def test_no_archive_says_which_path_and_how_to_make_one(tmp_path):
    with pytest.raises(ArchiveError, match=r"no archive here.*snakemake --cores"):
        ContactMaps(tmp_path / "contact_maps.zarr")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"zarr_format": 3}', "[" * 100_000])
def test_metadata_of_any_other_shape_is_told_in_one_line(archive, content):
    (archive / "zarr.json").write_text(content)
    with pytest.raises(ArchiveError, match="no archive here"):
        ContactMaps(archive)


def test_an_archive_of_a_newer_version_says_what_to_do(archive):
    group = zarr.open_group(archive, mode="r+")
    group.attrs["archive_version"] = 99
    with pytest.raises(ArchiveError, match=r"version 99.*written by a newer one, so update"):
        ContactMaps(archive)


def test_an_archive_that_is_replaced_while_open_is_told(archive):
    maps = ContactMaps(archive)
    assert np.isfinite(maps.sample("HUMANISE", 0)).all()
    shutil.copytree(archive, "copy.zarr")
    shutil.move(archive, "old.zarr")
    for _ in range(2):
        with pytest.raises(ArchiveError, match="replaced or removed while it was open"):
            maps.sample("HUMANISE", 0)
        if not archive.exists():
            shutil.move("copy.zarr", archive)
    ContactMaps(archive).sample("HUMANISE", 0)


@pytest.mark.parametrize("checksums", [True, False])
def test_the_archive_of_another_run_is_not_read_beside_this_ones_record(archive, checksums):
    """Without its own record, none of its files could be held against a checksum."""
    (record,) = archive.parent.glob("contact_maps-*.json")
    shutil.move(archive.parent, "first")
    merge(make_run(first=10), quiet)
    shutil.copytree(archive, "other.zarr")
    shutil.rmtree(archive.parent)
    shutil.move("first", archive.parent)
    shutil.rmtree(archive)
    shutil.move("other.zarr", archive)
    with pytest.raises(ArchiveError, match=f"{record}: is the record of another archive than"):
        ContactMaps(archive, checksums).distance("HUMANISE", 0)
    record.unlink()  # as an archive that was copied alone
    assert np.isfinite(ContactMaps(archive, checksums).distance("HUMANISE", 0)).all()


LOOK = """
import collections, json, os, sys
from cdm.archive import ContactMaps
from cdm.errors import ArchiveError
shifts = json.loads(sys.argv[1])
found = collections.Counter()
while not os.path.exists("stop") or found["right"] < int(sys.argv[2]):
    try:
        maps = ContactMaps("outputs/run/contact_maps.zarr")
        open("reading", "w").close()
        shift = shifts[maps.attributes["plan"]]
        for row in maps.rows_with_maps():
            points = maps.read("points", row)
            right = (points == shift + row).all()
            found["right" if right else f"row {row} of {shift} is {points.flat[0]}"] += 1
    except ArchiveError as error:
        told = "was replaced or removed while it was open" in str(error)
        found["told" if told else str(error)] += 1
print(json.dumps(found))
"""


@pytest.mark.parametrize("turns", [20, pytest.param(60, marks=pytest.mark.long)])
@pytest.mark.parametrize("exchange", [True, False])
def test_a_reader_beside_many_merges_reads_right_numbers_or_is_told(
    tmp_path, monkeypatch, exchange, turns
):
    monkeypatch.chdir(tmp_path)
    if not exchange:  # as on file systems that cannot swap two folders
        monkeypatch.setattr(whole, "RENAME_EXCHANGE", 1 << 20)
    shifts = {}
    plans = []
    for shift in (0, 1000):
        arrays = whole_arrays()
        for row in set(range(7)) - {SKIPPED_ROW}:
            arrays["points"][row] = shift + row
        plans.append(make_run(arrays=arrays, first=shift))
        shifts[plans[-1].fingerprint] = shift
    merge(plans[0], quiet)
    reader = subprocess.Popen(
        [sys.executable, "-c", LOOK, json.dumps(shifts), str(turns)],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not Path("reading").exists():  # on a busy machine, Python takes a while to start
        assert reader.poll() is None
        time.sleep(0.01)
    for turn in range(turns):
        merge(plans[turn % 2], quiet)
    Path("stop").touch()
    found = json.loads(reader.communicate()[0])
    assert set(found) <= {"right", "told"} and found["right"] >= turns, found
