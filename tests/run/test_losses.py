"""What lost its files is made again; looking for it changes nothing."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import merged_run, run_config

from cdm.archive.records import store_path
from cdm.commands.why import explain
from cdm.run.losses import find_losses
from cdm.run.merge import merge
from cdm.run.planning import make_plan

RUN = Path("outputs/run")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A finished run of three chunks, with its archive."""
    monkeypatch.chdir(tmp_path)
    return merged_run(tmp_path)


def everything():
    """Every file under the run's folder, with its time and inode."""
    return {
        path: (os.lstat(path).st_mtime_ns, os.lstat(path).st_ino)
        for path in sorted(RUN.rglob("*"))
        if not path.is_dir()
    }


def lose(path: Path):
    path.unlink()


def truncate(path: Path):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])


def link(path: Path):
    path.rename(path.with_name(".elsewhere"))
    path.symlink_to(".elsewhere")


@pytest.mark.parametrize("damage", [lose, truncate, link])
def test_a_damaged_shard_of_the_archive_has_the_merge_run_again(plan, damage):
    assert find_losses(plan) == {}
    damage(Path(plan.archive, "points/c.1.0.0"))
    losses = find_losses(plan)
    assert list(losses) == ["merge"] and "contact_maps.zarr/points/c.1.0.0" in losses["merge"]


def test_an_archive_that_names_folders_and_should_not_is_merged_again(plan):
    workflow = replace(plan.config.workflow, absolute_paths=True)
    asked = replace(plan, config=replace(plan.config, workflow=workflow))
    lost = find_losses(asked)["merge"]
    assert lost.endswith("workflow.absolute_paths is True, and was False when it was merged")
    merge(asked, lambda line: None)
    assert find_losses(asked) == {} and list(find_losses(plan)) == ["merge"]
    Path(plan.chunk_record(plan.chunks[1])).unlink()  # a merge would sample it again
    assert find_losses(plan) == {}


def test_the_archive_of_another_run_has_the_merge_run_again(plan):
    """Its files may have the same names and sizes; exports would take its maps for this run's."""
    path = Path(plan.archive, "zarr.json")
    text = path.read_text()
    path.write_text(text.replace(plan.fingerprint, "0123456789abcdef"))
    assert path.stat().st_size == len(text.encode())
    told = f"{path}: is not the one that was merged here"
    assert find_losses(plan) == {"merge": told}


def test_a_damaged_chunk_counts_only_while_the_archive_needs_it(plan):
    store = store_path(Path(plan.chunk_record(plan.chunks[1])))
    lose(store / "sample/c.0.0.0.0")
    assert find_losses(plan) == {}
    shutil.rmtree(plan.archive)
    assert list(find_losses(plan)) == [plan.chunks[1].name, "merge"]


def test_a_chunk_of_another_runs_shards_is_foreign(plan):
    store = store_path(Path(plan.chunk_record(plan.chunks[1])))
    Path(plan.archive_record).unlink()
    shutil.copy(store / "sample/c.0.0.0.0", store / "sample/c.1.0.0.0")
    ((name, lost),) = find_losses(plan).items()
    assert name == plan.chunks[1].name and "is not one of the files that were written" in lost


def test_planning_and_asking_why_write_and_remove_nothing(plan):
    shutil.rmtree(plan.archive)
    store = store_path(Path(plan.chunk_record(plan.chunks[0])))
    store.rename("away")
    os.utime("data/HUMANISE/contact_motion/contacts/00005.npz")  # is hashed again
    before = everything()
    why = explain(*make_plan(run_config()))
    assert [group.chunks for group in why.todo] == [(plan.chunks[0].name,)] and why.merge
    assert "a file of it is lost" in why.todo[0].reasons[0] and str(store) in why.todo[0].reasons[0]
    assert everything() == before


def test_a_store_that_was_away_for_a_moment_is_finished_once_it_is_back(plan):
    Path(plan.archive_record).unlink()
    store = store_path(Path(plan.chunk_record(plan.chunks[0])))
    store.rename("away")
    assert list(find_losses(make_plan(run_config())[0])) == [plan.chunks[0].name]
    Path("away").rename(store)
    again = make_plan(run_config())[0]
    assert find_losses(again) == {} and again == plan


def test_a_run_is_looked_at_from_any_folder(plan, monkeypatch, tmp_path):
    lose(Path(plan.archive, "points/c.1.0.0"))
    monkeypatch.chdir("/")
    assert list(find_losses(plan, tmp_path / RUN)) == ["merge"]
