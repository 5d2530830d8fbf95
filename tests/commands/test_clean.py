"""`cdm clean`: lists what may go, removes it when told to, and never what a job may be writing."""

import json
import os
import time
from pathlib import Path

import pytest
from helpers import plan_run, write_dummy_chunk

from cdm.__main__ import main
from cdm.archive.records import store_path
from cdm.jobs.progress import Heartbeat, heartbeat_path

RUN = Path("outputs/run")


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """A run whose first plan's chunks are no longer referred to; both plans."""
    monkeypatch.chdir(tmp_path)
    old = plan_run(tmp_path, seed=1)[0]
    for chunk in old.chunks:
        write_dummy_chunk(old, chunk)
    new = plan_run(tmp_path)[0]
    write_dummy_chunk(new, new.chunks[0])
    return old, new


def clean(capsys, *arguments):
    assert main(["clean", str(RUN), "--json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [
        sorted(Path(entry["path"]).name for entry in found[key]) for key in ("leftovers", "kept")
    ]
    return names


def age(path, seconds):
    for file in [path, *path.rglob("*")]:
        os.utime(file, (time.time() - seconds,) * 2)


def test_chunks_no_plan_refers_to_are_listed_and_removed_with_yes(changed, capsys):
    old, new = changed
    names = sorted(f"{chunk.name}{end}" for chunk in old.chunks for end in (".json", ".zarr"))
    assert clean(capsys) == [names, []]
    assert all((RUN / "chunks" / name).exists() for name in names)
    assert clean(capsys, "--yes") == [names, []]
    assert sorted(path.name for path in (RUN / "chunks").iterdir()) == [
        f"{new.chunks[0].name}.json",
        f"{new.chunks[0].name}.zarr",
    ]
    assert clean(capsys) == [[], []]


def test_what_the_given_configuration_refers_to_stays_as_well(changed, capsys):
    arguments = ["--json", "--configfile", "mine.yaml"]
    old = changed[0].config.as_dict()
    Path("mine.yaml").write_text(json.dumps(old))
    assert main(["clean", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["leftovers"] == []


def test_what_a_running_job_may_be_writing_is_kept(changed, capsys):
    old, new = changed
    temporary = RUN / "chunks" / f".{new.chunks[1].name}.zarr.0123abcd.tmp"
    (temporary / "sample").mkdir(parents=True)
    age(temporary, 3600)
    with Heartbeat(RUN, new.chunks[1].name), Heartbeat(RUN, old.chunks[0].name):
        leftovers, kept = clean(capsys, "--yes")
    assert temporary.exists() and temporary.name in kept
    assert f"{old.chunks[0].name}.zarr" in kept
    assert f"{old.chunks[1].name}.zarr" in leftovers
    assert temporary.name in clean(capsys, "--yes")[0]
    assert not temporary.exists()


def test_a_temporary_without_a_heartbeat_goes_once_it_is_old(changed, capsys):
    temporary = RUN / ".contact_maps.zarr.0123abcd.tmp"
    (temporary / "sample").mkdir(parents=True)
    assert clean(capsys)[1] == [temporary.name]
    age(temporary, 3600)
    assert temporary.name in clean(capsys)[0]


def test_a_dead_jobs_heartbeat_and_a_store_without_record_go(changed, capsys):
    new = changed[1]
    record = write_dummy_chunk(new, new.chunks[2])
    record.unlink()
    with Heartbeat(RUN, "00009-abc"):
        content = json.loads(heartbeat_path(RUN, "00009-abc").read_bytes())
    heartbeat_path(RUN, "00009-abc").write_text(json.dumps(content | {"birth": "another boot 1"}))
    leftovers, _ = clean(capsys)
    assert store_path(record).name in leftovers and "00009-abc.json" in leftovers
