"""Chunks and the merged archive: whole or not there, and every flipped bit is found."""

import errno
import json
import os
import pickletools
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from archives import (
    LAYOUT,
    make_run,
    quiet,
    record_to_store,
    whole_arrays,
)
from helpers import REPO

from cdm.archive import ContactMaps
from cdm.archive.export import export_npz, export_pred_contact
from cdm.archive.store import lost_files, read_record, record_path, verify_chunk
from cdm.errors import ArchiveError
from cdm.run.merge import merge


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run()


def test_merged_archive_equals_its_chunks_joined(plan):
    summary = merge(plan, quiet)
    group = zarr.open_group(plan.archive, mode="r")
    for name, values in whole_arrays().items():
        np.testing.assert_array_equal(group[name][:], values, err_msg=name)
    assert group["text"][:].tolist() == [f"sít {i}" for i in range(7)]
    assert group["status"][:].tolist().count("skipped") == 1
    assert (summary["num_samples"], summary["num_skipped"]) == (7, 1)
    assert summary["skipped"][0]["reason"] == "NaN"


def test_merging_links_the_shards_and_copies_nothing(plan):
    merge(plan, quiet)
    store = record_to_store(plan.chunk_record(plan.chunks[1]))
    assert os.path.samefile(store / "sample/c.0.0.0.0", f"{plan.archive}/sample/c.1.0.0.0")


def test_without_hard_links_merging_copies_and_says_so(plan, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    lines = []
    merge(plan, lines.append)
    assert any("no hard links" in line for line in lines)
    np.testing.assert_array_equal(
        ContactMaps(plan.archive).group["sample"][:], whole_arrays()["sample"]
    )


def test_plain_xarray_reads_the_archive(plan):
    xarray = pytest.importorskip("xarray")
    merge(plan, quiet)
    data = xarray.open_zarr(plan.archive, consolidated=False)
    assert data["distance"].dims == ("index", "k_sample", "point", "joint")
    np.testing.assert_array_equal(data["distance"].values, whole_arrays()["distance"])


def test_every_flipped_bit_of_a_shard_is_found(plan):
    path = plan.chunk_record(plan.chunks[0])
    shard = record_to_store(path) / "distance/c.0.0.0.0"
    content = shard.read_bytes()
    shard.chmod(0o644)
    for position in np.linspace(0, len(content) - 1, 40).astype(int):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        shard.write_bytes(flipped)
        with pytest.raises(ArchiveError, match=r"distance/c.0.0.0.0: corrupt.*to rebuild"):
            verify_chunk(record_to_store(path).with_suffix(".json"))
    shard.write_bytes(content)
    verify_chunk(record_to_store(path).with_suffix(".json"))


def damage_missing_store(plan, record, store):
    shutil.rmtree(store)


def damage_missing_record(plan, record, store):
    record.unlink()


def damage_truncated_record(plan, record, store):
    record.write_bytes(record.read_bytes()[:100])


def damage_missing_shard(plan, record, store):
    (store / "points/c.0.0.0").unlink()


def damage_other_chunk(plan, record, store):
    other = record_to_store(plan.chunk_record(plan.chunks[0]))
    shutil.copy(other.with_suffix(".json"), record)


def damage_other_base(plan, record, store):
    record.write_text(record.read_text().replace('"base": "', '"base": "f'))


def damage_other_statistics(plan, record, store):
    record.write_text(record.read_text().replace("0.4", "0.45"))


@pytest.mark.parametrize(
    "damage", [value for name, value in sorted(globals().items()) if name.startswith("damage_")]
)
def test_merge_refuses_and_names_a_damaged_chunk_and_keeps_the_old_archive(plan, damage):
    merge(plan, quiet)
    before = ContactMaps(plan.archive).group["sample"][:]
    store = record_to_store(plan.chunk_record(plan.chunks[1]))
    damage(plan, store.with_suffix(".json"), store)
    with pytest.raises(ArchiveError) as error:
        merge(plan, quiet)
    message = str(error.value)
    assert "1 of 3 chunks cannot be merged" in message
    assert plan.chunks[1].name in message and "to rebuild this chunk: rm -rf" in message
    np.testing.assert_array_equal(ContactMaps(plan.archive).group["sample"][:], before)


def test_a_merge_of_another_plan_removes_the_record_of_the_one_before(plan):
    merge(plan, quiet)
    smaller = replace(plan, chunks=plan.chunks[:2])
    merge(smaller, quiet)
    assert not os.path.exists(plan.archive_record)
    assert os.path.exists(smaller.archive_record)
    assert len(ContactMaps(plan.archive)) == 6


def test_a_record_reads_back_as_it_was_written(plan):
    path = record_path(record_to_store(plan.chunk_record(plan.chunks[2])))
    record = read_record(path)
    assert record.layout == replace(LAYOUT, num_samples=1)
    assert json.loads(path.read_bytes())["name"] == record.name


def test_reading_merging_and_measuring_need_no_torch():
    modules = (
        "cdm.run.merge, cdm.archive.export, cdm.run.plan, cdm.evaluation.report, "
        "cdm.evaluation.study_tables"
    )
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_float16_archives_keep_their_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_run(replace(LAYOUT, dtype="float16"))
    merge(plan, quiet)
    group = ContactMaps(plan.archive).group
    assert group["distance"].dtype == np.float16 and group["points"].dtype == np.float16


def test_exported_npz_holds_the_old_scripts_keys_and_fields(plan, tmp_path):
    merge(plan, quiet)
    target = tmp_path / "generated_contact_maps.npz"
    assert export_npz(plan.archive, target, quiet) == 6
    found = np.load(target, allow_pickle=True)
    assert set(found) == {"sample_list", "k_samples_list", "total_batches", "dataset_size"}
    assert (int(found["total_batches"]), int(found["dataset_size"])) == (3, 6)
    arrays, usable = whole_arrays(), [0, 1, 2, 3, 5, 6]
    for position, index in enumerate(usable):
        item, items = found["sample_list"][position], found["k_samples_list"][position]
        assert item["info_index"] == index and item["c_text"] == f"sít {index}"
        np.testing.assert_array_equal(item["sample"], arrays["sample"][index, 0])
        np.testing.assert_array_equal(items["sample"], arrays["sample"][index])
        np.testing.assert_array_equal(item["c_pc_xyz"], arrays["points"][index])


def test_exported_npz_can_be_read_by_numpy_1(plan, tmp_path):
    merge(plan, quiet)
    export_npz(plan.archive, tmp_path / "maps.npz", quiet)
    with zipfile.ZipFile(tmp_path / "maps.npz") as file:
        content = file.read("sample_list.npy")
    header = 10 + int.from_bytes(content[8:10], "little")
    names = [arg for op, arg, _ in pickletools.genops(content[header:]) if op.name == "GLOBAL"]
    assert names and not any("numpy._core" in name for name in names)


def test_exported_pred_contact_is_what_stage_2_reads(plan, tmp_path):
    merge(plan, quiet)
    count = export_pred_contact(plan.archive, tmp_path / "out", tmp_path / "done.json", quiet)
    files = sorted(path.name for path in (tmp_path / "out/HUMANISE/pred_contact").iterdir())
    assert count == 6 and files == [f"{i:05}.npy" for i in (0, 1, 2, 3, 5, 6)]
    distance = np.load(tmp_path / "out/HUMANISE/pred_contact/00003.npy")
    assert distance.dtype == np.float32 and distance.shape == (2, 16, 2)
    np.testing.assert_array_equal(distance, whole_arrays()["distance"][3])


def test_a_whole_store_has_lost_nothing(plan):
    summary = merge(plan, quiet)
    assert lost_files(Path(plan.archive), summary["files"]) == []
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
    summary = merge(plan, quiet)
    archive = Path(plan.archive)
    LOSSES[words](archive / "distance/c.1.0.0.0")
    problems = [p for p in lost_files(archive, summary["files"]) if "/elsewhere" not in p]
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
