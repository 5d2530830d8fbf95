"""`cdm verify`: whatever is wrong with an archive is found, and named."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import zarr
from archives import as_version_1
from helpers import merged_run, plan_run

from cdm.__main__ import main
from cdm.archive import ContactMaps
from cdm.archive.records import archive_record_path, read_archive_record, read_record
from cdm.commands.verify import verify
from cdm.errors import ArchiveError
from cdm.files import checksum, seal
from cdm.run.merge import merge
from cdm.run.plan_files import read_plan, save_plan

RUN = Path("outputs/run")
ARCHIVE = RUN / "contact_maps.zarr"


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A folder with a merged run of dummy chunks; sample 4 was skipped."""
    folder = tmp_path_factory.mktemp("merged")
    before = os.getcwd()
    os.chdir(folder)
    try:
        merged_run(folder, {1: {1: "NaN"}})
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(merged, tmp_path, monkeypatch):
    """A copy that a test may change, as the working directory."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", merged, copy], check=True)
    monkeypatch.chdir(copy)
    return copy


def change(path, content):
    path = Path(path)
    path.chmod(0o644)
    path.write_bytes(content)


def without_record():
    for record in RUN.glob("contact_maps-*.json"):
        record.unlink()


def test_a_whole_archive_is_well(folder, capsys):
    for path in (RUN, ARCHIVE):
        report = verify(path, deep=True)
        assert report.problems == [] and report.notes == []
        assert (report.num_samples, report.num_skipped, report.num_maps_read) == (7, 1, 6)
        assert report.num_files > 20
    assert main(["verify", str(RUN)]) == 0
    assert "all is well" in capsys.readouterr().out


def test_one_chunk_can_be_verified(folder, capsys):
    store = next((RUN / "chunks").glob("00001-*.zarr"))
    assert main(["verify", str(store)]) == 0
    shard = store / "sample/c.0.0.0.0"
    change(shard, shard.read_bytes()[:-1])
    assert main(["verify", str(store)]) == 1
    assert "to rebuild this chunk" in capsys.readouterr().out


FLIPS = 1  # of each file; tests/faults/test_corruption.py flips more


@pytest.mark.parametrize("deep_only", [False, True])
def test_every_flipped_bit_is_found(folder, deep_only):
    """By whole-file checksums; without the record, by reading (metadata is not covered then)."""
    if deep_only:
        without_record()
    pick = random.Random(1)
    files = sorted(path for path in ARCHIVE.rglob("*") if path.is_file())
    for path in files:
        if deep_only and path.name == "zarr.json":
            continue
        content = path.read_bytes()
        for position in pick.sample(range(len(content)), min(FLIPS, len(content))):
            flipped = bytearray(content)
            flipped[position] ^= 1 << pick.randrange(8)
            change(path, bytes(flipped))
            try:
                problems = verify(ARCHIVE).problems
            except ArchiveError as error:  # of the group's own metadata
                problems = [error]
            assert problems, f"{path} byte {position}"
            change(path, content)
    assert verify(ARCHIVE).problems == []


def test_swapped_and_missing_shards_are_named(folder):
    a, b = ARCHIVE / "sample/c.0.0.0.0", ARCHIVE / "sample/c.1.0.0.0"
    contents = a.read_bytes(), b.read_bytes()
    change(a, contents[1])
    change(b, contents[0])
    problems = verify(ARCHIVE).problems
    assert [str(a) in problems[0], str(b) in problems[1]] == [True, True]
    b.unlink()
    assert any(f"{b}: is missing" in problem for problem in verify(ARCHIVE).problems)


def test_a_damaged_archive_says_how_to_have_it_rebuilt_and_the_way_works(folder, capsys):
    shard = ARCHIVE / "sample/c.1.0.0.0"  # a hard link of its chunk's, so both are damaged
    content = bytearray(shard.read_bytes())
    content[9] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    report = verify(ARCHIVE, deep=True)
    assert any("corrupt" in problem for problem in report.problems)
    assert any("rows 3 to 5" in problem for problem in report.problems)
    command = re.search(r"merge again from the chunks: (rm \S+), then", report.notes[-1])[1]
    subprocess.run(command, shell=True, check=True)
    with pytest.raises(ArchiveError, match=r"(?s)1 of 3 chunks .*00001-.*to rebuild this chunk"):
        merge(read_plan(RUN), lambda line: None)


def test_a_missing_shard_cannot_pass_for_skipped_samples(folder):
    without_record()
    (ARCHIVE / "distance/c.2.0.0.0").unlink()
    problems = verify(ARCHIVE).problems
    assert any("row 6 holds NaN" in problem for problem in problems)


@pytest.mark.parametrize("record", [True, False])
def test_a_file_that_does_not_belong_there_is_named(folder, record):
    if not record:
        without_record()
    (ARCHIVE / "sample/c.9.0.0.0").write_bytes(b"x")
    (ARCHIVE / ".snakemake_timestamp").touch()  # Snakemake's, at the top, is harmless
    (problem,) = verify(ARCHIVE).problems
    words = "is not one of the files that were written" if record else "no chunk has this shard"
    assert f"c.9.0.0.0: {words}" in problem


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("array", ["sample", "distance", "points", "scene_trans", "aug_trans"])
def test_a_lost_shard_is_named_also_without_a_deep_look(folder, record, array):
    if not record:
        without_record()
    (shard,) = (ARCHIVE / array).glob("c.1.*")
    shard.unlink()
    assert any(f"{shard}: is missing" in problem for problem in verify(ARCHIVE).problems)


def test_a_shard_that_is_a_link_to_the_right_bytes_is_named(folder):
    shard = ARCHIVE / "sample/c.1.0.0.0"
    shard.rename(folder / "elsewhere")
    shard.symlink_to(folder / "elsewhere")
    problems = verify(ARCHIVE).problems
    assert len(problems) == 1 and f"{shard}: is a symbolic link" in problems[0]


def test_a_shard_where_all_samples_were_skipped_is_named(folder):
    """Sound in itself, and with a right checksum; but the statuses say that it is not there."""
    for path in [ARCHIVE, *ARCHIVE.rglob("*")]:
        path.chmod(0o755)
    group = zarr.open_group(ARCHIVE, mode="r+")
    group["status"][6] = "skipped"
    record = archive_record_path(ARCHIVE, group.attrs["plan"])
    known = asdict(read_archive_record(record)) | {"num_skipped": 2}
    known["files"]["status/c/0"] = checksum(ARCHIVE / "status/c/0")
    record.write_bytes(seal(known))
    problems = verify(ARCHIVE).problems
    assert len(problems) == 5 and all(
        "c.2." in each and "no chunk has" in each for each in problems
    )


def test_looking_changes_no_file(folder):
    def state():
        found = {path: os.lstat(path) for path in sorted(folder.rglob("*"))}
        return {path: (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}

    before = state()
    for arguments in ([str(RUN)], ["--deep", str(ARCHIVE)]):
        assert main(["verify", *arguments]) == 0
    assert state() == before


@pytest.mark.parametrize("place", ["zarr.json", "sample/zarr.json", "status/zarr.json"])
@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"zarr_format": 3}', "[" * 100_000])
@pytest.mark.parametrize("record", [True, False])
def test_metadata_of_another_shape_is_told_without_a_traceback(folder, place, text, record):
    if not record:
        without_record()
    change(ARCHIVE / place, text.encode())
    try:
        assert verify(ARCHIVE, deep=True).problems
    except ArchiveError as error:
        assert place == "zarr.json" and "no archive here" in str(error)


def test_chunks_of_different_versions_are_noted(folder):
    paths = sorted((RUN / "chunks").glob("*.json"))
    for path, version in zip(paths, ("2.5", "2.5", "2.6"), strict=True):
        content = asdict(read_record(path))
        content["provenance"]["versions"] = {"torch": version}
        path.write_bytes(seal(content))
    merge(read_plan(RUN), lambda line: None)
    report = verify(ARCHIVE)
    assert report.problems == [] and "versions of torch: 2.5 (2), 2.6 (1)" in report.notes[0]


def test_an_archive_of_an_earlier_version_is_well(folder):
    as_version_1(ARCHIVE)
    without_record()
    report = verify(ARCHIVE)
    assert report.problems == [] and report.num_maps_read == 6
    assert ContactMaps(ARCHIVE).keys[3] == ("HUMANISE", "3", 0)


def test_rows_are_held_against_the_plan(folder):
    table = RUN / "plan/samples.tsv"
    table.write_text(table.read_text().replace("HUMANISE\t5", "HUMANISE\t55"))
    problems = verify(ARCHIVE).problems
    assert any("row 5 is" in problem for problem in problems)


def test_an_archive_of_an_earlier_plan_is_told(folder, capsys):
    save_plan(*plan_run(folder, seed=1))
    assert main(["verify", str(RUN)]) == 1
    assert "the last plan made here" in capsys.readouterr().out


def test_a_copied_archive_is_verified_by_its_own_checksums(folder, tmp_path):
    shutil.copytree(ARCHIVE, tmp_path / "alone/contact_maps.zarr")
    report = verify(tmp_path / "alone")
    assert report.problems == [] and report.num_maps_read == 6
    assert len(report.notes) == 2  # neither record nor plan


def test_nothing_to_verify_is_told_in_one_line(folder, capsys):
    assert main(["verify", "data"]) == 2
    assert "no archive here" in capsys.readouterr().err


def test_a_run_that_is_not_merged_yet_says_how_it_goes_on(folder, capsys):
    next(RUN.glob("contact_maps-*.json")).unlink()
    shutil.rmtree(ARCHIVE)
    for path in (RUN, ARCHIVE):
        assert main(["verify", str(path)]) == 2
        said = capsys.readouterr().err
        assert said.endswith(
            "(it was not merged yet); cdm why outputs/run tells what to type to go on\n"
        )


def test_an_archive_that_is_away_is_told_by_its_name(folder, capsys):
    shutil.rmtree(ARCHIVE)
    for path in (RUN, ARCHIVE):
        assert main(["verify", str(path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {ARCHIVE}: no archive here (no such file or folder); to")


def test_looking_needs_no_torch(folder):
    for command in ("status", "verify", "why", "clean"):
        code = (
            "import sys; from cdm.__main__ import main; main(sys.argv[1:]); "
            "assert not {'torch', 'numba', 'transformers'} & set(sys.modules)"
        )
        arguments = [command, str(RUN), "--json"]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        json.loads(done.stdout)
