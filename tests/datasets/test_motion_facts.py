"""Motions are read once for a run, and again only where one changed."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from example_datasets import make_h3d

from cdm.datasets import motion_facts as module


def kept_motions(data_dir):
    """The file that a run keeps of the motions."""
    dataset, facts = make_h3d(data_dir), data_dir / "facts.json"
    dataset.samples()
    facts.write_bytes(module.seal_motions(dataset.motions))
    return facts


def test_listing_samples_writes_nothing(data_dir):
    facts = data_dir / "facts.json"
    make_h3d(data_dir, facts).samples()
    assert not facts.exists()


def test_facts_are_read_again_only_for_motions_that_changed(data_dir, monkeypatch):
    facts = kept_motions(data_dir)
    before, opened, read = make_h3d(data_dir, facts).samples(), [], module._read_motion
    monkeypatch.setattr(
        module, "_read_motion", lambda path: opened.append(Path(path).name) or read(path)
    )
    assert make_h3d(data_dir, facts).samples() == before and opened == []
    path = data_dir / "H3D/new_joint_vecs/a.npy"
    times = (path.stat().st_mtime_ns,) * 2
    motion = np.zeros((60, 263), np.float32)
    motion[3, 5] = np.nan
    np.save(path, motion)  # as large as before
    os.utime(path, ns=times)
    dataset = make_h3d(data_dir, facts)
    assert "a" not in {s.index for s in dataset.samples()} and opened == ["a.npy"]
    assert dataset.dropped["H3D/a"] == "NaN in the motion"


@pytest.mark.parametrize("edit", [b"{", b"[]", b'{"motions": 1}', None])
def test_facts_that_were_edited_are_read_again(data_dir, edit):
    facts = kept_motions(data_dir)
    before, whole = make_h3d(data_dir).samples(), facts.read_bytes()
    facts.write_bytes(edit or whole.replace(b"199", b"159"))
    assert facts.read_bytes() != whole
    dataset = make_h3d(data_dir, facts)
    assert dataset.samples() == before
    assert module.seal_motions(dataset.motions) == whole


@pytest.mark.parametrize("slow", [False, True])
def test_threads_read_motions_where_the_disk_lets_a_reader_wait(tmp_path, monkeypatch, slow):
    folder = tmp_path / "H3D/new_joint_vecs"
    folder.mkdir(parents=True)
    frames = {f"{number:03}": 41 + number for number in range(module.TRIAL + 2 * module.PART + 1)}
    for name, length in frames.items():
        np.save(folder / f"{name}.npy", np.full((length, 2), np.nan if length == 50 else 0.0, "f4"))
    (folder / "040.npy").write_bytes(b"damaged")
    threads, read = set(), module._read_motion

    def read_motion(path):
        threads.add(threading.current_thread())
        if slow:
            time.sleep(2e-3)
        return read(path)

    monkeypatch.setattr(module, "_read_motion", read_motion)
    if not slow:  # whatever else keeps the cores of this machine busy
        monkeypatch.setattr(module.time, "perf_counter", time.thread_time)
    facts, known = module.motion_facts(tmp_path, [*frames, "missing", "../outside"])
    assert (threads != {threading.main_thread()}) == slow
    assert list(facts) == [*frames, "missing", "../outside"]
    for name, length in frames.items():
        if name != "040":
            assert facts[name] == (length, length == 50) and known[name][-2:] == [
                length,
                length == 50,
            ]
    assert str(facts["040"]).startswith(f"{folder}/040.npy: the array is damaged")
    assert str(facts["missing"]).startswith(f"no motion file: {folder}/missing.npy (No such file")
    assert "outside" in str(facts["../outside"]) and set(known) == set(frames) - {"040"}
