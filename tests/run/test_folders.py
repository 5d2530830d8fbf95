"""What stands in the way of a run's folders is told before anything is computed."""

import os
from pathlib import Path

import pytest
from helpers import plan_run, run_config

from cdm.errors import ArchiveError
from cdm.run.folders import check_folders, check_notes
from cdm.run.planning import make_plan

RUN = Path("outputs/run")
FOLDERS = ["outputs", "outputs/run", "outputs/run/chunks", "outputs/run/logs", "outputs/run/plan"]
FOLDERS += ["outputs/run/logs/generate_chunk"]


@pytest.fixture
def folder(request, tmp_path, monkeypatch):
    """One of a run's folders, which is not there."""
    monkeypatch.chdir(tmp_path)
    path = Path(request.param)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_a_file_in_place_of_a_folder_is_named(folder):
    check_folders(RUN)
    folder.write_text("mine")
    with pytest.raises(ArchiveError, match=f"^{folder}: a file, expected a folder"):
        check_folders(RUN)
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_a_link_to_a_disk_that_is_away_is_told_and_chunks_are_found_once_it_is_back(folder):
    disk = Path("disk").absolute()
    folder.symlink_to(disk)
    with pytest.raises(ArchiveError, match=f"^{folder}: a link to {disk}, which is not there"):
        check_folders(RUN)
    disk.mkdir()
    check_folders(RUN)


@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_a_folder_that_may_not_be_read_does_not_count_as_empty(folder, monkeypatch):
    folder.mkdir()
    # Root, who runs some tests, may read every folder.
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder)
    with pytest.raises(ArchiveError, match=f"^{folder}: you may not read this folder"):
        check_folders(RUN)


@pytest.mark.parametrize("there", [True, False])
def test_a_working_folder_of_somebody_else_is_told(tmp_path, monkeypatch, there):
    monkeypatch.chdir(tmp_path)
    notes = Path(".snakemake")
    if there:
        notes.mkdir()
    check_notes()
    refused = notes if there else Path()
    monkeypatch.setattr(os, "access", lambda path, mode: path != refused or not mode & os.W_OK)
    with pytest.raises(ArchiveError, match=f"^{tmp_path}/.snakemake: you may not write there"):
        check_notes()


def test_a_plan_is_not_made_for_a_disk_that_is_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan_run(tmp_path)
    Path(RUN, "chunks").symlink_to("away")
    with pytest.raises(ArchiveError, match="chunks: a link to away, which is not there"):
        make_plan(run_config())
