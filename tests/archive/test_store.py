"""A chunk's store: whole or not there, and every flipped bit is found."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archives import LAYOUT, make_run, record_for, record_to_store, whole_arrays
from helpers import REPO

import cdm.archive.store
from cdm.archive import checks
from cdm.archive.layout import shard_name
from cdm.archive.records import read_record, record_path
from cdm.archive.store import verify_chunk, write_chunk
from cdm.errors import ArchiveError


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run()


def part_of(chunk):
    return {name: values[chunk.start : chunk.stop] for name, values in whole_arrays().items()}


def test_a_record_reads_back_as_it_was_written(plan):
    chunk = plan.chunks[2]
    store = record_to_store(plan.chunk_record(chunk))
    written = write_chunk(store, part_of(chunk), record_for(chunk, LAYOUT))
    assert read_record(record_path(store)) == written
    assert written.layout == replace(LAYOUT, num_samples=1)
    assert set(written.files) == written.layout.chunk_files(["ok"]) and len(written.files) == 11


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
            verify_chunk(Path(path))
    shard.write_bytes(content)
    verify_chunk(Path(path))


def test_a_chunk_of_skipped_samples_only_has_no_shards(plan):
    chunk = plan.chunks[2]
    store = record_to_store(plan.chunk_record(chunk))
    record = record_for(chunk, LAYOUT)
    rows = [row | {"status": "skipped", "reason": "x"} for row in record.samples]
    empty = {name: np.full_like(values, np.nan) for name, values in part_of(chunk).items()}
    written = write_chunk(store, empty, replace(record, samples=rows))
    assert all(name.endswith("zarr.json") for name in written.files)
    verify_chunk(record_path(store))
    shard = store / shard_name("sample", 0, 4)
    shutil.copy(record_to_store(plan.chunk_record(plan.chunks[0])) / "sample/c.0.0.0.0", shard)
    with pytest.raises(ArchiveError, match=r"sample/c\.0\.0\.0\.0: is not one of the files"):
        verify_chunk(record_path(store))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("array", ["sample", "distance", "points", "scene_trans", "aug_trans"])
def test_numbers_that_are_not_finite_never_enter_an_archive(plan, array, value):
    chunk = plan.chunks[0]
    part = {name: values.copy() for name, values in part_of(chunk).items()}
    part[array].reshape(3, -1)[1, -1] = value
    store = Path("new.zarr")
    with pytest.raises(ArchiveError, match=rf"row 1 of '{array}' is not finite"):
        write_chunk(store, part, record_for(chunk, LAYOUT))
    assert not store.exists()


def test_numbers_of_skipped_samples_never_enter_an_archive(plan):
    chunk = plan.chunks[1]  # its second row was skipped
    part = {name: values.copy() for name, values in part_of(chunk).items()}
    part["points"][1] = 0
    with pytest.raises(ArchiveError, match="row 1 of 'points' is not empty"):
        write_chunk(Path("new.zarr"), part, record_for(chunk, LAYOUT))


@pytest.mark.parametrize("late", [False, True])
def test_a_chunk_whose_files_are_taken_away_while_it_is_written_is_not_kept(
    plan, monkeypatch, late
):
    chunk, original = plan.chunks[0], cdm.archive.store.checksum_files
    before = sorted(Path().rglob("*"))

    def lose(folder):
        (folder / "sample/c.0.0.0.0").unlink()

    def checksum_files(folder, leaving_out):
        if not late:
            lose(folder)
        return original(folder, leaving_out)

    def lost_files(folder, files):
        if late:
            lose(folder)
        return checks.lost_files(folder, files)

    monkeypatch.setattr(cdm.archive.store, "checksum_files", checksum_files)
    monkeypatch.setattr(cdm.archive.store, "lost_files", lost_files)
    with pytest.raises(ArchiveError, match=r"changed while it was written.*sample/c\.0.*missing"):
        write_chunk(Path("new.zarr"), part_of(chunk), record_for(chunk, LAYOUT))
    assert sorted(Path().rglob("*")) == before


STOPPED = """
import os, pickle, signal, sys
from pathlib import Path
import cdm.archive.store
store, part, record = pickle.loads(Path("job").read_bytes())
original = cdm.archive.store.create_arrays
def create_then_stop(folder, layout):
    arrays = original(folder, layout)
    arrays["sample"][:] = part["sample"]
    os.kill(os.getpid(), signal.SIGSTOP)
    return arrays
cdm.archive.store.create_arrays = create_then_stop
cdm.archive.store.write_chunk(store, part, record)
"""


def test_a_job_that_was_stopped_while_its_files_were_removed_keeps_nothing(plan):
    """As with Ctrl-Z and `rm -r` of what looks abandoned; `clean` itself respects the lock."""
    chunk = plan.chunks[0]
    job = Path("new.zarr"), part_of(chunk), record_for(chunk, LAYOUT)
    Path("job").write_bytes(pickle.dumps(job))
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stderr=subprocess.PIPE,
        text=True,
    )
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    (temporary,) = Path().glob(".new.zarr.*.tmp")
    shutil.rmtree(temporary)
    process.send_signal(signal.SIGCONT)
    assert process.wait() != 0 and "ArchiveError" in process.stderr.read()
    assert not list(Path().glob("*new*")) and not list(Path().glob(".new*"))


def test_reading_merging_and_measuring_need_no_torch():
    modules = (
        "cdm.run.merge, cdm.archive.export, cdm.run.plan, cdm.evaluation.report, "
        "cdm.evaluation.study_tables, cdm.run.exports, cdm.commands.check_stage2"
    )
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
