"""An export is made again when, and only when, it differs from what is asked for."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stage2
from stage2 import asking, export

from cdm.archive import data_folder
from cdm.errors import ArchiveError
from cdm.files import checksum
from cdm.run.exports import (
    export_clouds,
    export_table,
    stale_clouds,
    stale_maps,
    stale_table,
)

RUN, DATA = Path("outputs/run"), Path("data")
RECORD = RUN / "pred_contact.json"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage2.write_data(DATA)


def test_an_npz_that_was_cut_off_is_made_again():
    plan = stage2.make_archive(stage2.stage_1(DATA))
    table = RUN / "generated_contact_maps.npz"
    assert stale_table(plan, table) is None  # never exported: Snakemake knows
    export_table(plan, table, print)
    whole = table.read_bytes()
    assert stale_table(plan, table) is None
    for content in (whole[:-1000], whole[:-30], b""):
        table.write_bytes(content)
        assert stale_table(plan, table) == f"{table}: is cut off, or no .npz"
    table.unlink()
    table.symlink_to("nowhere")
    assert stale_table(plan, table) == f"{table}: is cut off, or no .npz"


def test_exports_of_another_plan_are_made_again_whatever_the_times_of_files_are():
    """A copied run has new times, and Snakemake's notes may not have come along."""
    plan = stage2.make_archive(stage2.stage_1(DATA))
    table, clouds = RUN / "generated_contact_maps.npz", RUN / "ply.json"
    export(plan)
    export_table(plan, table, print)
    export_clouds(plan, clouds, print)
    other = replace(plan, chunks=plan.chunks[:-1])
    looks = {table: stale_table, RECORD: stale_maps, clouds: stale_clouds}
    assert [look(plan, path) for path, look in looks.items()] == [None] * 3
    told = [look(other, path) for path, look in looks.items()]
    assert told == [
        f"{table}: holds maps of another plan",
        f"{RECORD}: is of maps of another plan",
        f"{clouds}: is of maps of another plan",
    ]


def test_maps_in_a_data_folder_are_put_there_again_where_those_of_another_run_replaced_them():
    """Their names and sizes are the same, so only the folder's record can tell."""
    plan = stage2.make_archive(stage2.stage_1(DATA))
    into = asking(plan, to="data")
    export(plan, to="data")
    place, record = DATA / "PROX/pred_contact", DATA / "PROX/pred_contact.json"
    path, ours = place / "00003.npy", json.loads(record.read_text())
    before = path.read_bytes()

    def run(split: str) -> None:
        """Another run puts its maps there."""
        source = Path("other")
        shutil.copytree(place, source, dirs_exist_ok=True)
        np.save(source / path.name, np.zeros_like(np.load(path)))
        files = {each.name: checksum(each) for each in source.iterdir()}
        folder = data_folder.SetFolder(place, overwrite=False)
        folder.put(source, split, files, {"archive": "b", "plan": "b"})

    def killed(split: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_folder, "_sync_folder", lambda path: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run(split)

    for other in (run, killed):
        for split in ("train", "test"):
            assert stale_maps(into, RECORD) is None
            other(split)
            assert path.stat().st_size == len(before)
            assert path.read_bytes() != before
            assert stale_maps(into, RECORD) == f"{place}: holds maps of another export"
            export(plan, to="data")
            assert path.read_bytes() == before
    record.unlink()
    assert stale_maps(into, RECORD) == f"{place}: holds maps of another export"
    export(plan, to="data")
    assert json.loads(record.read_text())["splits"] == ours["splits"]


def test_an_export_is_stale_once_something_else_is_asked_for_or_a_file_is_gone():
    plan = stage2.make_archive(stage2.stage_1(DATA))
    assert stale_maps(plan, RECORD) is None  # never exported: Snakemake knows
    with pytest.raises(ArchiveError, match=r"^export\.to: dat: no such folder"):
        stale_maps(asking(plan, to="dat"), RECORD)  # before a map is sampled
    export(plan)
    assert stale_maps(plan, RECORD) is None
    into = asking(plan, to="data")
    assert "export.to is data, and was None when" in stale_maps(into, RECORD)
    export(plan, to="data")
    assert stale_maps(into, RECORD) is None
    assert stale_maps(asking(into, overwrite=True, items=3), RECORD) is None
    (DATA / "PROX/pred_contact/00003.npy").unlink()
    assert "data/PROX/pred_contact/00003.npy: is missing" in stale_maps(into, RECORD)
    export(plan, to="data")
    assert stale_maps(into, RECORD) is None
    earlier = '{"archive": "a", "sets": {}, "earlier_exports": []}'
    for content in ("{", "[]", earlier):
        RECORD.write_text(content)
        assert "not the record of an export of this version" in stale_maps(into, RECORD)


def test_clouds_are_stale_once_other_items_are_asked_for_or_a_folder_is_gone():
    plan = stage2.make_archive(stage2.stage_1(DATA))
    record = RUN / "ply.json"
    export_clouds(asking(plan, items=2), record, print)
    assert stale_clouds(asking(plan, items=2), record) is None
    assert "export.items is 3" in stale_clouds(asking(plan, items=3), record)
    cloud = next((RUN / "ply").glob("*/contact_joint_01.ply"))
    content = cloud.read_bytes()
    for change in (cloud.unlink, lambda: cloud.write_bytes(content[:-1])):
        change()
        found = stale_clouds(asking(plan, items=2), record)
        assert found == f"{cloud}: is missing, or has another size than was written"
    cloud.write_bytes(content)
    assert stale_clouds(asking(plan, items=2), record) is None
    shutil.rmtree(cloud.parent)
    assert stale_clouds(asking(plan, items=2), record) == f"{cloud.parent}: {os.strerror(2)}"


# --- the old script's file ------------------------------------------------------------------------
