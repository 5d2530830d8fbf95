"""`cdm clean`: lists what may go, removes it when told to, and never what a job may be writing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import REPO, plan_run, write_dummy_chunk

from cdm.__main__ import main
from cdm.archive.records import record_path, store_path
from cdm.archive.store import verify_chunk
from cdm.commands.clean import clean as remove_found
from cdm.commands.clean import find_leftovers
from cdm.files import lock_path, try_lock, unlock
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


def names_of(chunk):
    return {f"{chunk.name}.json", f"{chunk.name}.zarr"}


def test_what_a_running_job_may_be_writing_is_kept(changed, capsys):
    new = changed[1]
    temporary = RUN / "chunks" / f".{new.chunks[1].name}.zarr.0123abcd.tmp"
    (temporary / "sample").mkdir(parents=True)
    age(temporary, 3600)
    with Heartbeat(RUN, new.chunks[1].name):
        leftovers, kept = clean(capsys, "--yes")
    assert temporary.exists() and kept == [temporary.name] and len(leftovers) == 6
    assert temporary.name in clean(capsys, "--yes")[0]
    assert not temporary.exists()


def test_finished_chunks_of_another_configurations_running_job_are_kept(changed, capsys):
    """The job's chunk is in no known plan, so which other chunks its plan has cannot be known."""
    old = changed[0]
    with Heartbeat(RUN, old.chunks[0].name):
        leftovers, kept = clean(capsys, "--yes")
    assert leftovers == [] and set(kept) == set().union(*map(names_of, old.chunks))
    assert all((RUN / "chunks" / name).exists() for name in kept)
    assert len(clean(capsys)[0]) == 6


def test_chunks_that_a_running_snakemake_refers_to_are_kept(changed, capsys):
    """Between two of its jobs no heartbeat beats; its lock files list what it reads and writes."""
    old = changed[0]
    Path(".snakemake/locks").mkdir(parents=True)
    lines = [f"outputs/run/chunks/{chunk.name}.json" for chunk in old.chunks[:2]]
    Path(".snakemake/locks/0.input.lock").write_text("\n".join(lines))
    leftovers, kept = clean(capsys, "--yes")
    assert set(kept) == names_of(old.chunks[0]) | names_of(old.chunks[1])
    assert set(leftovers) == names_of(old.chunks[2])


def test_what_a_process_holds_the_lock_of_is_kept(changed, capsys):
    old, new = changed
    temporary = RUN / "chunks" / f".{new.chunks[1].name}.json.0123abcd.tmp"
    temporary.write_text("")
    age(temporary, 3600)
    paths = [RUN / "chunks" / f"{chunk.name}.zarr" for chunk in (new.chunks[1], old.chunks[0])]
    held = [try_lock(lock_path(path)) for path in paths]
    leftovers, kept = clean(capsys, "--yes")
    assert set(kept) == {temporary.name} | names_of(old.chunks[0]) and len(leftovers) == 4
    for path, descriptor in zip(paths, held, strict=True):
        unlock(lock_path(path), descriptor)
    assert len(clean(capsys, "--yes")[0]) == 3
    assert clean(capsys) == [[], []]


def test_a_writer_that_begins_after_looking_keeps_its_chunk(changed):
    old, new = changed
    leftovers, _ = find_leftovers([new], RUN)
    path = RUN / "chunks" / f"{old.chunks[0].name}.zarr"
    held = try_lock(lock_path(path))
    removed, kept = remove_found(leftovers)
    unlock(lock_path(path), held)
    assert {found.path.name for found in kept} == names_of(old.chunks[0]) and len(removed) == 4
    assert path.exists() and record_path(path).exists()


STOPPED = """
import os, signal, sys
from cdm.archive import store
from cdm.jobs.progress import Heartbeat
import helpers
plan = helpers.plan_run(helpers.Path("."))[0]
create_arrays = store.create_arrays
def create_and_stop(folder, layout):
    arrays = create_arrays(folder, layout)
    arrays["sample"][:] = 0.5
    os.kill(os.getpid(), signal.SIGSTOP)
    return arrays
store.create_arrays = create_and_stop
with Heartbeat(plan.config.run_dir, plan.chunks[1].name):
    helpers.write_dummy_chunk(plan, plan.chunks[1])
"""


def test_a_job_stopped_for_hours_while_writing_goes_on_to_a_whole_chunk(changed, capsys):
    chunk = changed[1].chunks[1]
    path = os.pathsep.join([str(REPO), str(REPO / "tests/support")])
    job = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
    )
    os.waitid(os.P_PID, job.pid, os.WSTOPPED | os.WNOWAIT)
    (temporary,) = (RUN / "chunks").glob(f".{chunk.name}.zarr.*.tmp")
    age(temporary, 4 * 3600)
    beat = heartbeat_path(RUN, chunk.name)
    beat.write_text(json.dumps(json.loads(beat.read_bytes()) | {"updated": 1000.0}))
    kept = clean(capsys, "--yes")[1]
    assert temporary.name in kept and temporary.exists() and beat.exists()
    job.send_signal(signal.SIGCONT)
    assert job.wait() == 0, job.stderr.read().decode()
    record = verify_chunk(RUN / "chunks" / f"{chunk.name}.json")
    assert "sample/c.0.0.0.0" in record.files


def test_files_of_users_that_look_like_ours_are_kept(changed, capsys):
    new = changed[1]
    files = [
        *("chunks/00001-notes.json", "chunks/0-abc.zarr", "chunks/2024-01-01.zarr.bak"),
        *("chunks/00001-0123456789abcdef.txt", "chunks/00001-0123456789ABCDEF.json"),
        *(".notes.tmp", ".contact_maps.zarr.backup.tmp", ".mine.zarr.0123abcd.tmp"),
        *("plan/.mine.json.0123abcd.tmp", "chunks/.00001-mine.zarr.0123abcd.tmp"),
        *(
            "running/mine.json",
            "logs/generate_chunk/00001-mine.log",
            "statistics/a/.x.0123abcd.tmp",
        ),
        *("chunks/00001-0123456789abcdef.zarr/notes.txt", f"{new.archive}/mine"),
    ]
    for name in files:
        path = RUN / name if not name.startswith("outputs") else Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a user's")
        age(path, 86400)
    (RUN / "chunks/00002-0123456789abcdef.zarr").symlink_to(Path("elsewhere").absolute())
    (RUN / "chunks/00003-0123456789abcdef.json").mkdir()
    leftovers, kept = clean(capsys, "--yes")
    assert len(leftovers) == 6  # the old plan's chunks
    # Those with a name of ours are told; the others are nobody's business.
    assert kept == [
        f"0000{n}-0123456789abcdef.{end}" for n, end in ((1, "zarr"), (2, "zarr"), (3, "json"))
    ]
    for name in files:
        assert (RUN / name if not name.startswith("outputs") else Path(name)).exists(), name
    assert (RUN / "chunks/00002-0123456789abcdef.zarr").is_symlink()


def test_a_plan_that_cannot_be_read_is_told_and_nothing_removed(changed, capsys):
    Path("mine.yaml").write_text(json.dumps(changed[1].config.as_dict()))
    (RUN / "plan/plan.json").write_text("{}")
    assert main(["clean", "--yes", "--configfile", "mine.yaml"]) == 2
    assert "plan.json" in capsys.readouterr().err
    assert len(list((RUN / "chunks").iterdir())) == 8


def test_looking_changes_no_file(changed, capsys):
    def state():
        return {
            path: (os.lstat(path).st_ino, os.lstat(path).st_mtime_ns) for path in Path().rglob("*")
        }

    before = state()
    clean(capsys)
    assert state() == before


@pytest.mark.parametrize(
    "name", ["contact_maps.zarr", "ply", "ckpt/training.pt", "ckpt/model000010.pt"]
)
def test_a_temporary_without_a_heartbeat_goes_once_it_is_old(changed, capsys, name):
    path = RUN / name
    temporary = path.with_name(f".{path.name}.0123abcd.tmp")
    (temporary / "sample").mkdir(parents=True)
    assert clean(capsys)[1] == [temporary.name]
    age(temporary, 3600)
    assert temporary.name in clean(capsys)[0]


def test_a_dead_jobs_heartbeat_and_a_store_without_record_go(changed, capsys):
    new, dead = changed[1], "00009-0123456789abcdef"
    record = write_dummy_chunk(new, new.chunks[2])
    record.unlink()
    with Heartbeat(RUN, dead):
        content = json.loads(heartbeat_path(RUN, dead).read_bytes())
    heartbeat_path(RUN, dead).write_text(json.dumps(content | {"birth": "another boot 1"}))
    leftovers, kept = clean(capsys)
    assert store_path(record).name in leftovers and f"{dead}.json" in leftovers and kept == []


@pytest.mark.parametrize(("hours", "kept"), [(1, True), (48, False)])
def test_a_silent_job_of_another_machine_is_given_a_day(changed, capsys, hours, kept):
    chunk = changed[1].chunks[1]
    temporary = RUN / "chunks" / f".{chunk.name}.zarr.0123abcd.tmp"
    temporary.mkdir()
    age(temporary, 86400)
    with Heartbeat(RUN, chunk.name):
        content = json.loads(heartbeat_path(RUN, chunk.name).read_bytes())
    content |= {"host": "node7", "updated": time.time() - hours * 3600}
    heartbeat_path(RUN, chunk.name).write_text(json.dumps(content))
    assert (temporary.name in clean(capsys)[1]) == kept
    assert (temporary.name in clean(capsys)[0]) == (not kept)
