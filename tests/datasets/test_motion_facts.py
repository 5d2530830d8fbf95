"""Motions are read once for a run, and again only where one changed."""

import os
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


def test_each_motion_has_facts_or_what_is_wrong_with_its_file(tmp_path):
    folder = tmp_path / "H3D/new_joint_vecs"
    folder.mkdir(parents=True)
    frames = {f"{number:03}": 41 + number for number in range(20)}
    for name, length in frames.items():
        np.save(folder / f"{name}.npy", np.full((length, 2), np.nan if length == 50 else 0.0, "f4"))
    (folder / "015.npy").write_bytes(b"damaged")
    facts, known = module.motion_facts(tmp_path, [*frames, "missing", "../outside"])
    assert list(facts) == [*frames, "missing", "../outside"]
    for name, length in frames.items():
        if name != "015":
            expected = length, length == 50
            assert facts[name] == expected and known[name][-2:] == [*expected]
    assert str(facts["015"]).startswith(f"{folder}/015.npy: the array is damaged")
    assert str(facts["missing"]).startswith(f"no motion file: {folder}/missing.npy (No such file")
    assert "outside" in str(facts["../outside"]) and set(known) == set(frames) - {"015"}


def test_a_disk_that_lets_a_reader_wait_is_asked_for_many_files_at_once(data_dir, monkeypatch):
    names, wait_s = [f"{number:04}" for number in range(400)], 5e-3
    for name in names:
        for source in ("new_joint_vecs/b.npy", "texts/b.txt"):
            path = data_dir / "H3D" / source
            os.link(path, path.with_stem(name))
    (data_dir / "H3D/train.txt").write_text("\n".join(names))
    expected = make_h3d(data_dir).samples()

    def waiting(function):
        def call(path, *args, **kwargs):
            if str(path).startswith(str(data_dir)):
                time.sleep(wait_s)
            return function(path, *args, **kwargs)

        return call

    monkeypatch.setattr(os, "open", waiting(os.open))
    monkeypatch.setattr(os, "stat", waiting(os.stat))
    began = time.perf_counter()
    assert make_h3d(data_dir).samples() == expected and len(expected) == len(names)
    # A motion is looked at and read, and so are captions.
    assert time.perf_counter() - began < 3 * len(names) * wait_s / 2
