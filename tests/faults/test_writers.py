"""Two processes that write the same path: neither breaks the other, and nothing is mixed."""

import errno
import fcntl
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from archives import make_run, verify_archive
from helpers import REPO

from cdm.archive import ContactMaps
from cdm.errors import ArchiveError
from cdm.files import replacing, whole

WRITE = """
import sys, time
from pathlib import Path
from cdm.files import replacing
with replacing(Path("store")) as temporary:
    temporary.mkdir()
    for name in ("a", "b"):
        (temporary / name).write_text(sys.argv[1])
        print("wrote", name, flush=True)
        time.sleep(1)
"""
MERGE = """
import pickle, sys
from pathlib import Path
from cdm.run.merge import merge
plans = pickle.loads(Path("plans").read_bytes())
for round in range(20):
    merge(plans[int(sys.argv[1])], lambda line: None)
"""


def start(folder, code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_writer_waits_and_leaves_the_firsts_temporary_alone(tmp_path):
    first = start(tmp_path, WRITE, "first")
    assert first.stdout.readline() == "wrote a\n"
    (tmp_path / ".store.12345678.tmp").mkdir()  # of a killed attempt
    second = start(tmp_path, WRITE, "second")
    assert first.wait() == 0, first.stderr.read()
    assert {path.read_text() for path in (tmp_path / "store").iterdir()} == {"first"}
    assert second.wait() == 0, second.stderr.read()
    assert {path.read_text() for path in (tmp_path / "store").iterdir()} == {"second"}
    assert os.listdir(tmp_path) == ["store"]


def test_a_writer_that_does_not_end_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "LOCK_WAIT_S", 0.2)
    other = start(tmp_path, WRITE, "other")
    assert other.stdout.readline() == "wrote a\n"
    with pytest.raises(ArchiveError, match=r"another process is writing .*store.*or end it"):
        with replacing(tmp_path / "store"):
            pass
    assert other.wait() == 0


def test_without_file_locks_writing_works_and_leftovers_are_left_alone(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    maybe_alive = tmp_path / ".file.12345678.tmp"
    maybe_alive.write_text("another writer's")
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == [maybe_alive.name, "file"]


def test_merges_of_two_plans_at_a_time_never_leave_a_record_of_the_wrong_archive(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    plan = make_run()
    plans = [plan, replace(plan, chunks=plan.chunks[:2])]
    Path("plans").write_bytes(pickle.dumps(plans))
    merges = [start(tmp_path, MERGE, str(number)) for number in range(2)]
    while any(process.poll() is None for process in merges):
        time.sleep(0.1)
    assert all(process.returncode == 0 for process in merges), [p.stderr.read() for p in merges]
    (record,) = Path("outputs/run").glob("contact_maps-*.json")
    assert verify_archive(record).num_samples == len(ContactMaps(plan.archive))
