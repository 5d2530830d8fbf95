"""The merge: chunks joined by hard link, and refused with their names where one is not right."""

import errno
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import zarr
from archives import LAYOUT, make_run, quiet, record_to_store, whole_arrays

import cdm.archive.store
import cdm.run.merge
from cdm.archive import ContactMaps, checks
from cdm.archive.records import read_archive_record, read_record
from cdm.errors import ArchiveError
from cdm.files import seal
from cdm.run.merge import merge


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run()


def chunk_paths(plan, number):
    record = Path(plan.chunk_record(plan.chunks[number]))
    return record, record_to_store(record)


def rewrite(record, **changes):
    """Seal a record anew with some of its content changed."""
    content = asdict(read_record(record))
    record.write_bytes(seal(content | changes))


def test_merged_archive_equals_its_chunks_joined(plan):
    record = merge(plan, quiet)
    group = zarr.open_group(plan.archive, mode="r")
    for name, values in whole_arrays().items():
        np.testing.assert_array_equal(group[name][:], values, err_msg=name)
    assert group["text"][:].tolist() == [f"sít {i}" for i in range(7)]
    assert group["status"][:].tolist().count("skipped") == 1
    assert (record.num_samples, record.num_skipped) == (7, 1)
    assert record.skipped[0]["reason"] == "NaN"
    assert read_archive_record(Path(plan.archive_record)) == record


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_that_hash_large_chunks_read_every_byte_and_name_what_is_damaged(
    plan, monkeypatch, threads
):
    monkeypatch.setattr(cdm.run.merge, "LARGE_CHUNK", 0)
    read, original = [], cdm.archive.store.verify_file
    monkeypatch.setattr(
        cdm.archive.store, "verify_file", lambda *args: (read.append(args[0]), original(*args))[1]
    )
    before = merge(plan, quiet, threads)
    stores = [chunk_paths(plan, number)[1] for number in range(3)]
    assert sorted(read) == sorted(
        f"{store}/{name}" for store in stores for name in checks.list_files(store)
    )
    for number, name in ((0, "points/c.0.0.0"), (2, "sample/c.0.0.0.0")):
        shard = stores[number] / name
        content = bytearray(shard.read_bytes())
        content[7] ^= 1
        shard.chmod(0o644)
        shard.write_bytes(content)
    with pytest.raises(ArchiveError) as refused:
        merge(plan, quiet, threads)
    assert f"2 of 3 chunks cannot be merged:\n  {stores[0]}/points/c.0.0.0: corrupt" in str(
        refused.value
    )
    assert f"{stores[2]}/sample/c.0.0.0.0: corrupt" in str(refused.value)
    assert read_archive_record(Path(plan.archive_record)) == before


def test_merging_links_the_shards_and_copies_nothing(plan):
    lines = []
    merge(plan, lines.append)
    store = chunk_paths(plan, 1)[1]
    assert os.path.samefile(store / "sample/c.0.0.0.0", f"{plan.archive}/sample/c.1.0.0.0")
    assert len(lines) == 1 and "7 samples (1 skipped) from 3 chunks" in lines[0]


REASONS = {
    errno.EXDEV: "the chunks lie on another file system",
    errno.EMLINK: "the files have as many hard links as the file system allows",
    errno.EPERM: "this file system makes no hard links (Operation not permitted)",
    errno.EOPNOTSUPP: "this file system makes no hard links (Operation not supported)",
}


@pytest.mark.parametrize("code", REASONS)
def test_where_nothing_can_be_linked_shards_are_copied_and_the_reason_is_told(
    plan, monkeypatch, code
):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    lines = []
    merge(plan, lines.append)
    assert lines[0] == f"15 shard files were copied, not linked: {REASONS[code]}"
    np.testing.assert_array_equal(
        ContactMaps(plan.archive).group["sample"][:], whole_arrays()["sample"]
    )


def test_chunks_of_another_user_under_protected_hardlinks_are_told(plan, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    (tmp_path / "one").write_text("1\n")
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(cdm.run.merge, "PROTECTED_HARDLINKS", tmp_path / "one")
    lines = []
    merge(plan, lines.append)
    assert "the chunks belong to another user, and fs.protected_hardlinks is 1" in lines[0]


def test_an_error_of_the_disk_is_not_taken_for_missing_links(plan, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ArchiveError, match="Input/output error"):
        merge(plan, quiet)


def test_a_copy_that_is_not_the_bytes_that_were_verified_is_refused(plan, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def corrupt(source, target, **_):
        content = bytearray(Path(source).read_bytes())
        content[7] ^= 1
        Path(target).write_bytes(content)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", corrupt)
    with pytest.raises(ArchiveError, match="right after it was copied"):
        merge(plan, quiet)
    assert not os.path.exists(plan.archive)


@pytest.mark.parametrize("place", ["outputs", "outputs/run", "outputs/run/chunks"])
def test_folders_of_a_run_may_be_links_to_another_disk(plan, tmp_path, place):
    Path(place).rename(tmp_path / "disk")
    Path(place).symlink_to(tmp_path / "disk")
    merge(plan, quiet)
    np.testing.assert_array_equal(
        ContactMaps(plan.archive).distance("HUMANISE", 3), whole_arrays()["distance"][3]
    )


def damage_missing_store(record, store):
    shutil.rmtree(store)


def damage_missing_record(record, store):
    record.unlink()


def damage_truncated_record(record, store):
    record.write_bytes(record.read_bytes()[:100])


def damage_missing_shard(record, store):
    (store / "points/c.0.0.0").unlink()


def damage_other_chunk(record, store):
    shutil.copy(sorted(record.parent.glob("*.json"))[-1], record)


def damage_other_base(record, store):
    rewrite(record, base="f" * 16)


def damage_other_statistics(record, store):
    content = asdict(read_record(record))
    content["provenance"]["statistics"]["mean"] = [[0.2, 0.31]]
    record.write_bytes(seal(content))


def damage_other_precision(record, store):
    content = asdict(read_record(record))
    content["provenance"]["precision"] = "bf16"
    record.write_bytes(seal(content))


def damage_no_statistics(record, store):
    rewrite(record, provenance={})


def damage_linked_shard(record, store):
    shard, elsewhere = store / "sample/c.0.0.0.0", record.parent.parent / "elsewhere"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere.absolute())


def damage_linked_array(record, store):
    array, elsewhere = store / "sample", record.parent.parent / "elsewhere"
    array.rename(elsewhere)
    array.symlink_to(elsewhere.absolute())


def damage_linked_store(record, store):
    elsewhere = record.parent.parent / "elsewhere"
    store.rename(elsewhere)
    store.symlink_to(elsewhere.absolute())


def damage_pipe_as_shard(record, store):
    (store / "sample/c.0.0.0.0").unlink()
    os.mkfifo(store / "sample/c.0.0.0.0")


def damage_pipe_as_record(record, store):
    record.unlink()
    os.mkfifo(record)


def damage_foreign_shard(record, store):
    shutil.copy(store / "sample/c.0.0.0.0", store / "sample/c.1.0.0.0")


def damage_shard_lost_before_the_record_was_written(record, store):
    """As after a stop while writing, when `clean` took the files away: the record knows no more."""
    (store / "sample/c.0.0.0.0").unlink()
    files = read_record(record).files
    del files["sample/c.0.0.0.0"]
    rewrite(record, files=files)


def damage_shard_of_skipped_rows(record, store):
    rows = [row | {"status": "skipped", "reason": "x"} for row in read_record(record).samples]
    rewrite(record, samples=rows)


def damage_path_outside(record, store):
    files = read_record(record).files
    files["../../../outside"] = [3, "0" * 64]
    rewrite(record, files=files)


def damage_too_few_rows(record, store):
    rewrite(record, samples=read_record(record).samples[:-1])


def damage_row_without_text(record, store):
    rows = read_record(record).samples
    del rows[0]["text"]
    rewrite(record, samples=rows)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "damage", [value for name, value in sorted(globals().items()) if name.startswith("damage_")]
)
def test_a_damaged_chunk_is_refused_by_name_and_the_old_archive_kept(plan, damage, number):
    merge(plan, quiet)
    before = ContactMaps(plan.archive).group["sample"][:]
    damage(*chunk_paths(plan, number))
    with pytest.raises(ArchiveError) as error:
        merge(plan, quiet)
    message = str(error.value)
    if damage in (damage_other_statistics, damage_other_precision) and number == 0:
        assert "2 of 3 chunks cannot be merged" in message  # the others differ from the first
        assert plan.chunks[1].name in message and plan.chunks[2].name in message
    else:
        assert "1 of 3 chunks cannot be merged" in message
        assert plan.chunks[number].name in message
    assert "to rebuild this chunk: rm -rf" in message
    np.testing.assert_array_equal(ContactMaps(plan.archive).group["sample"][:], before)


def test_every_damaged_chunk_is_named(plan):
    for number in range(3):
        damage_missing_shard(*chunk_paths(plan, number))
    with pytest.raises(ArchiveError, match="3 of 3 chunks cannot be merged") as error:
        merge(plan, quiet)
    assert all(chunk.name in str(error.value) for chunk in plan.chunks)


def test_a_merge_whose_files_are_taken_away_replaces_nothing(plan, monkeypatch):
    merge(plan, quiet)
    before = ContactMaps(plan.archive).group["sample"][:]
    write = cdm.run.merge._Columns.write

    def write_and_lose(columns):
        write(columns)
        (temporary,) = Path("outputs/run").glob(".contact_maps.zarr.*.tmp")
        (temporary / "sample/c.0.0.0.0").unlink()

    with monkeypatch.context() as patch:
        patch.setattr(cdm.run.merge._Columns, "write", write_and_lose)
        with pytest.raises(ArchiveError, match=r"changed while it was merged.*sample/c\.0\.0"):
            merge(plan, quiet)
    np.testing.assert_array_equal(ContactMaps(plan.archive).group["sample"][:], before)


def test_a_merge_of_another_plan_removes_the_record_of_the_one_before(plan):
    merge(plan, quiet)
    smaller = replace(plan, chunks=plan.chunks[:2])
    merge(smaller, quiet)
    assert not os.path.exists(plan.archive_record)
    assert os.path.exists(smaller.archive_record)
    assert len(ContactMaps(plan.archive)) == 6


def test_chunks_of_different_versions_are_told_and_recorded(plan):
    for number, version in enumerate(("2.5.1", "2.6.0", "2.6.0")):
        record = chunk_paths(plan, number)[0]
        content = asdict(read_record(record))
        content["provenance"]["versions"] = {"torch": version, "numpy": "2.0"}
        record.write_bytes(seal(content))
    lines = []
    record = merge(plan, lines.append)
    assert "different versions of torch: 2.5.1 (1), 2.6.0 (2)" in lines[0] and len(lines) == 2
    assert record.versions == {"torch": {"2.5.1": 1, "2.6.0": 2}, "numpy": {"2.0": 3}}
    assert ContactMaps(plan.archive).attributes["versions"]["torch"] == "2.5.1, 2.6.0"
    assert orjson.loads(Path(plan.archive_record).read_bytes())["versions"] == record.versions


def test_float16_archives_keep_their_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_run(replace(LAYOUT, dtype="float16"))
    merge(plan, quiet)
    group = ContactMaps(plan.archive).group
    assert group["distance"].dtype == np.float16 and group["points"].dtype == np.float16
