"""Disks that are full, over quota, read-only, or without hard links."""

import errno
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from archives import LAYOUT, make_run, record_for, record_to_store, whole_arrays
from runs import Run, arrays, assert_same

from cdm.archive.store import verify_chunk, write_chunk
from cdm.errors import ArchiveError

# Two chunks, of 490 and 370 kB.
BIG = {
    "num_points": 2048,
    "diffusion": {"timestep_respacing": 2},
    "workflow": {"chunk_size": 4},
}


@pytest.fixture(scope="session")
def big_run(undisturbed):
    """Arrays of the job BIG."""
    return undisturbed("big", **BIG)


@contextmanager
def mounted(folder: Path, *arguments):
    """A file system at a folder; unmounted at the end. Skips where that is not permitted."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", *arguments, folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no mount of a small file system here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def tmpfs(folder: Path, size: str):
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def assert_told(done, *words):
    """The run failed with these words and without a traceback."""
    assert done.returncode != 0
    for word in (*words, "run the same command again"):
        assert word in done.stdout, done.stdout
    assert "Traceback" not in done.stdout, done.stdout


@pytest.mark.long
def test_a_disk_that_fills_up_in_a_chunk_keeps_the_finished_ones(tmp_path, big_run):
    run = Run(tmp_path / "run", **BIG)
    with tmpfs(run.outputs, "800k"):
        run.make_chunks(0)
        done = run.snakemake()
        assert_told(done, "No space left on device", "free some space")
        run.check()
        assert len(run.records()) == 1 and not run.leftovers()
        remount(run.outputs, "size=20m")
        run.finish()
        assert_same(arrays(run), big_run)


def test_a_disk_that_fills_up_in_the_merge_loses_nothing(tmp_path, big_run):
    run = Run(tmp_path / "run", **BIG)
    with tmpfs(run.outputs, "20m"):
        run.make_chunks()
        free = shutil.disk_usage(run.outputs).free
        (run.outputs / "filler").write_bytes(bytes(free - 32 * 1024))
        done = run.snakemake()
        assert_told(done, "No space left on device", "free some space", "2 of 2 chunks")
        run.check()
        assert not run.leftovers() and not (run.outputs / "contact_maps.zarr").exists()
        (run.outputs / "filler").unlink()
        run.finish()
        assert_same(arrays(run), big_run)


def test_a_read_only_folder_is_told_before_anything_runs(tmp_path, big_run):
    run = Run(tmp_path / "run", **BIG)
    with tmpfs(run.outputs, "20m"):
        remount(run.outputs, "ro")
        done = run.snakemake()
        assert_told(done, "Read-only file system", "run from a folder you can write to")
        assert "rule generate_chunk" not in done.stdout
        remount(run.outputs, "rw")
        run.make_chunks()
        run.finish()
        assert_same(arrays(run), big_run)


def test_chunks_on_another_disk_are_copied_and_a_line_says_so(tmp_path, big_run):
    run = Run(tmp_path / "run", **BIG)
    with tmpfs(run.outputs / "chunks", "20m"):  # no hard link leads out of it
        run.make_chunks()
        output = run.finish()
        assert "10 shard files were copied, not linked: the chunks lie on another" in output
        assert_same(arrays(run), big_run)
    run.check()  # the archive, without the chunks


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("code", [errno.EDQUOT, errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_a_chunk_leaves_nothing(tmp_path, monkeypatch, call, code):
    monkeypatch.chdir(tmp_path)
    plan = make_run()
    record = Path(plan.chunk_record(plan.chunks[2]))
    shutil.rmtree(record.with_suffix(".zarr"))
    record.unlink()
    before = sorted(Path("outputs").rglob("*"))

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    part = {name: values[6:7] for name, values in whole_arrays().items()}
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(ArchiveError, match=f"{os.strerror(code)}.*Finished chunks are kept"):
            write_chunk(record_to_store(record), part, record_for(plan.chunks[2], LAYOUT))
    assert sorted(Path("outputs").rglob("*")) == before
    write_chunk(record_to_store(record), part, record_for(plan.chunks[2], LAYOUT))
    verify_chunk(record)
