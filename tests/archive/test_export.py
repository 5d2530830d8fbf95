"""Other shapes of an archive: right values, and nothing written where one would not be right."""

import json
import os
import pickletools
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archives import LAYOUT, make_run, quiet, record_for, record_to_store, whole_arrays

from cdm.archive.export import export_npz, export_pred_contact
from cdm.archive.store import write_chunk
from cdm.errors import ArchiveError
from cdm.run.merge import merge


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run()


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
        np.testing.assert_array_equal(items["k_samples"], arrays["sample"][index])
        assert "sample" not in items and items["c_text"] == item["c_text"]
        np.testing.assert_array_equal(item["c_pc_xyz"], arrays["points"][index])


def test_with_one_map_an_item_the_list_of_k_samples_is_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_run(replace(LAYOUT, k_samples=1))
    merge(plan, quiet)
    export_npz(plan.archive, tmp_path / "maps.npz", quiet)
    found = np.load(tmp_path / "maps.npz", allow_pickle=True)
    assert found["k_samples_list"].shape == (0,) and len(found["sample_list"]) == 6


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


def written(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("array", ["sample", "points", "scene_trans", "aug_trans"])
@pytest.mark.parametrize("record", [True, False])
def test_no_npz_is_written_where_a_shard_is_lost(plan, tmp_path, array, record):
    merge(plan, quiet)
    if not record:
        Path(plan.archive_record).unlink()
    next(Path(plan.archive, array).glob("c.1.*")).unlink()
    with pytest.raises(ArchiveError, match=rf"{array}/c\.1\..*No such file"):
        export_npz(plan.archive, tmp_path / "out/maps.npz", quiet)
    assert written(tmp_path / "out") == set()


def lose(path):
    path.unlink()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def link_away(path):
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").absolute())


def put_another_shard_of_the_same_size_there(path):
    """Sound in itself: only its checksum tells that it is of other rows."""
    other = path.with_name(path.name.replace("c.0.", "c.1."))
    os.replace(other, path)


@pytest.mark.parametrize(
    "damage", [lose, flip_a_bit, link_away, put_another_shard_of_the_same_size_there]
)
def test_no_file_of_any_set_is_written_where_a_map_is_damaged(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    plan = run_of_sets(["A", "A", "A", "A", "A", "B", "B"], skipped=())
    merge(plan, quiet)
    out = tmp_path / "out"
    export_pred_contact(plan.archive, out, out / "done.json", quiet)
    before = {name: (out / name).read_bytes() for name in written(out)}
    damage(Path(plan.archive, "distance/c.0.0.0.0"))
    with pytest.raises(ArchiveError, match=r"distance/c\.0\.0\.0\.0"):
        export_pred_contact(plan.archive, out, out / "done.json", quiet)
    assert {name: (out / name).read_bytes() for name in written(out)} == before
    assert len(before) == 8


def run_of_sets(sets, skipped=(4,), index="{}"):
    """As `make_run`, with sets and indices of the samples chosen."""
    plan = make_run()
    arrays = whole_arrays()
    for name, values in arrays.items():
        values[4] = arrays[name][3] if 4 not in skipped else np.nan
    for chunk in plan.chunks:
        record = record_for(chunk, LAYOUT)
        rows = []
        for number, row in enumerate(record.samples, start=chunk.start):
            status = {"status": "skipped", "reason": "x"} if number in skipped else {"status": "ok"}
            rows.append(row | {"set": sets[number], "index": index.format(number)} | status)
            if number in skipped:
                for values in arrays.values():
                    values[number] = np.nan
        part = {name: values[chunk.start : chunk.stop] for name, values in arrays.items()}
        store = record_to_store(plan.chunk_record(chunk))
        write_chunk(store, part, replace(record, samples=rows))
    return plan


def test_what_earlier_exports_of_other_sets_left_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, lines = tmp_path / "out", []
    plan = run_of_sets(["HUMANISE"] * 4 + ["PROX"] * 3)
    merge(plan, quiet)
    export_pred_contact(plan.archive, out, out / "done.json", lines.append)
    assert len(lines) == 2 and json.loads((out / "done.json").read_text())["earlier_exports"] == []

    lines.clear()
    merge(run_of_sets(["HUMANISE"] * 7), quiet)
    export_pred_contact(plan.archive, out, out / "done.json", lines.append)
    (told,) = [line for line in lines if "earlier export" in line]
    left = str(out / "PROX/pred_contact")
    assert left in told and f"rm -r {left}" in told
    assert json.loads((out / "done.json").read_text()) == {
        "archive": plan.archive, "sets": {"HUMANISE": 6}, "earlier_exports": [left]
    }  # fmt: skip
    assert (out / "PROX/pred_contact/00005.npy").exists()  # removing it is not ours to decide


def test_a_set_whose_samples_were_all_skipped_is_named_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, lines = tmp_path / "out", []
    sets = ["HUMANISE"] * 6 + ["PROX"]
    plan = run_of_sets(sets)
    merge(plan, quiet)
    export_pred_contact(plan.archive, out, out / "done.json", quiet)
    merge(run_of_sets(sets, skipped=(4, 6)), quiet)
    export_pred_contact(plan.archive, out, out / "done.json", lines.append)
    assert any("PROX/pred_contact is of an earlier export" in line for line in lines)


@pytest.mark.parametrize(
    ("set", "index"),
    [
        ("..", "{}"),
        ("/tmp/x", "{}"),
        ("", "{}"),
        ("H3D", "../{}"),
        ("H3D", "/tmp/{}"),
        ("a\nb", "{}"),
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, monkeypatch, set, index):
    monkeypatch.chdir(tmp_path)
    plan = run_of_sets([set] * 7, index=index)
    merge(plan, quiet)
    before = written(tmp_path)
    with pytest.raises(ArchiveError, match="expected the name of one file"):
        export_pred_contact(plan.archive, tmp_path / "out", tmp_path / "out/done.json", quiet)
    assert written(tmp_path) == before


@pytest.mark.parametrize("index", ["{}_0", " {}", "-{}", "{}.0", "x"])
def test_an_index_that_is_no_row_number_is_refused(tmp_path, monkeypatch, index):
    monkeypatch.chdir(tmp_path)
    plan = run_of_sets(["HUMANISE"] * 7, index=index)
    merge(plan, quiet)
    for export in (
        lambda: export_npz(plan.archive, tmp_path / "a.npz", quiet),
        lambda: export_pred_contact(plan.archive, tmp_path / "out", tmp_path / "d.json", quiet),
    ):
        with pytest.raises(ArchiveError, match="expected a number"):
            export()
    assert not (tmp_path / "a.npz").exists() and not (tmp_path / "d.json").exists()
