"""H3D clips: order, parts, and what is left out, with the reason."""

import numpy as np
import pytest
from example_datasets import make_h3d, message
from helpers import REPO

from cdm.datasets import FileReader, Sample
from cdm.datasets import contact_humanml3d as module
from cdm.errors import DataError


def test_h3d_is_not_rotated_unless_asked(data_dir):
    assert not make_h3d(data_dir, phase="train", transforms=None).rotates
    assert make_h3d(data_dir, phase="train", transforms=("RandomRotation",)).rotates


def test_h3d_items_by_length_parts_before_their_clip(data_dir):
    dataset = make_h3d(data_dir, captions="all")
    assert [(s.index, s.caption_idx, s.text) for s in dataset.samples()] == [
        ("a", 2, "later"),  # 42 frames
        ("d", 2, "later"),
        *[("b", 0, "hops"), ("b", 1, "lands")],  # 45; its part has 35
        *[("a", 0, "hops"), ("a", 1, "lands")],
        *[("d", 0, "hops"), ("d", 1, "lands")],
    ]
    missing = f"no motion file: {data_dir}/H3D/new_joint_vecs/missing.npy"
    assert {name: reason.split(" (No such")[0] for name, reason in dataset.dropped.items()} == {
        "H3D/b caption 2": "shorter than min_horizon (40): 35 frames",
        "H3D/c": "shorter than min_horizon (40): 20 frames",
        "H3D/missing": missing,
    }
    assert len(dataset.statistics_samples()) == 4
    test = make_h3d(data_dir, phase="test")
    assert {s.caption_idx for s in test.samples()} == {0, 2}


def test_a_missing_file_is_an_error_unless_bad_items_are_skipped(data_dir):
    (data_dir / "H3D/texts/b.txt").unlink()
    with pytest.raises(DataError) as error:
        make_h3d(data_dir, on_bad_item="fail").samples()
    assert f"{data_dir}/H3D/train.txt: 2 of 5 clips cannot be used" in message(error)
    assert f"no caption file: {data_dir}/H3D/texts/b.txt" in message(error)
    assert "no motion file" in message(error) and "on_bad_item: skip" in message(error)
    dataset = make_h3d(data_dir)
    assert {sample.index for sample in dataset.samples()} == {"a", "d"}
    assert dataset.dropped["H3D/b"].startswith("no caption file")


def test_clips_of_another_length_are_left_out_and_told_even_where_nothing_fails(data_dir):
    (data_dir / "H3D/train.txt").write_text("a\nb\nd\n")
    dataset = make_h3d(data_dir, on_bad_item="fail", max_horizon=199)
    assert {sample.index for sample in dataset.samples()} == {"a", "b"}
    assert dataset.dropped == {
        "H3D/b caption 2": "shorter than min_horizon (40): 35 frames",
        "H3D/d": "max_horizon (199) or longer: 199 frames",
    }


def test_a_caption_longer_than_a_table_can_hold_is_refused(data_dir):
    (data_dir / "H3D/texts/a.txt").write_text("x" * 131_073 + "#x/NOUN#0.0#0.0\n")
    with pytest.raises(DataError, match=r"H3D/a caption 0 has 131,073 characters.*shorten it"):
        make_h3d(data_dir, captions="all").samples()


@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, range(195, 200)), ({"max_horizon": 196}, [195]), ({"max_horizon": 202}, range(195, 202))],
)
def test_a_clip_is_left_out_from_max_horizon_on_and_never_without_a_word(data_dir, options, kept):
    lengths = range(195, 202)
    for frames in lengths:
        np.save(data_dir / f"H3D/new_joint_vecs/{frames}.npy", np.zeros((frames, 3), np.float32))
        (data_dir / f"H3D/texts/{frames}.txt").write_text("hops#x#0.0#0.0\n")
    (data_dir / "H3D/train.txt").write_text("".join(f"{frames}\n" for frames in lengths))
    dataset = make_h3d(data_dir, on_bad_item="fail", **options)
    assert [int(sample.index) for sample in dataset.samples()] == list(kept)
    limit = options.get("max_horizon", 200)  # what afford-motion always has
    assert dataset.dropped == {
        f"H3D/{frames}": f"max_horizon ({limit}) or longer: {frames} frames"
        for frames in lengths
        if frames not in kept
    }


def test_a_motion_with_nan_is_left_out(data_dir):
    motion = np.zeros((61, 263), np.float32)
    motion[3, 5] = np.nan
    np.save(data_dir / "H3D/new_joint_vecs/a.npy", motion)
    (data_dir / "H3D/train.txt").write_text("a\nb\n")
    dataset = make_h3d(data_dir, on_bad_item="fail")
    assert {sample.index for sample in dataset.samples()} == {"b"}
    assert dataset.dropped["H3D/a"] == "NaN in the motion"


@pytest.mark.parametrize("name", ["/etc/x", "../a", "a/../b", "a\0b", "x" * 300, ".."])
def test_a_clip_name_never_leads_out_of_the_folder(data_dir, name):
    for split in ("train", "all"):
        (data_dir / f"H3D/{split}.txt").write_text(f"a\n{name}\n")
    with pytest.raises(DataError, match=r"1 of 2 clips cannot be used"):
        make_h3d(data_dir, on_bad_item="fail").samples()
    dataset = make_h3d(data_dir)
    assert {sample.index for sample in dataset.samples()} == {"a"}
    assert f"H3D/{name}" in dataset.dropped
    assert {sample.index for sample in dataset.statistics_samples()} == {"a"}


@pytest.mark.parametrize(
    "line, seconds",
    [
        *[("no times here", None), ("a#b#0.0", None), ("a#b#0.0#0.0#0.0", None)],
        *[("a#b#1_0#20", None), ("a#b#-1#3", None), ("a#b#inf#3", None)],
        *[("a#b#nan#NaN", (0, 0)), ("a#b#.5#2.", (0.5, 2))],
    ],
)
def test_a_caption_line_has_two_times_in_seconds(data_dir, line, seconds):
    (data_dir / "H3D/texts/a.txt").write_text(f"fine#x#0.0#0.0\n{line}\n")
    (data_dir / "H3D/train.txt").write_text("a\n")
    dataset = make_h3d(data_dir, on_bad_item="fail", captions="all")
    if seconds:
        lines = dataset._read_lines("a")
        assert dataset._captions("a", lines) == [(0, "fine", 0, 0), (1, "a", *seconds)]
        return
    with pytest.raises(
        DataError, match=r"texts/a.txt: line 2 is .*expected caption#tokens#from#to"
    ):
        dataset.samples()


def test_a_caption_is_one_line_whatever_it_holds(data_dir):
    text = "sits\u2028down\x85and\x0cup\x0b again"
    (data_dir / "H3D/texts/a.txt").write_bytes(f"{text}#x#0.0#0.0\r\nwalks#x#0#0\r\n".encode())
    dataset = make_h3d(data_dir, captions="all")
    assert [(s.caption_idx, s.text) for s in dataset.samples() if s.index == "a"] == [
        (0, text),
        (1, "walks"),
    ]


def test_a_damaged_motion_is_named(data_dir):
    (data_dir / "H3D/new_joint_vecs/b.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"b.npy: the array is damaged"):
        make_h3d(data_dir, on_bad_item="fail").samples()
    assert "H3D/b" not in {f"H3D/{s.index}" for s in make_h3d(data_dir).samples()}
    with pytest.raises(DataError, match=r"none of 5 clips can be used .*H3D/a: shorter than min"):
        make_h3d(data_dir, min_horizon=400, max_horizon=500).samples()


def vectors_of(turns, ways, height):
    """Motion vectors of a body whose joints are all at its pelvis, one frame for each turn."""
    vectors = np.zeros((len(turns), 263), np.float32)
    vectors[:, 0], vectors[:, 1:3], vectors[:, 3] = turns, ways, height
    vectors[:, 4:67].reshape(len(turns), 21, 3)[..., 1] = height
    return vectors


def test_a_body_that_turns_right_round_and_walks_on_comes_back():
    # Each step is 1 m ahead, and a quarter turn comes before the next one: a square.
    ways = [(0, 1)] * 5
    joints = module.joints_of_vectors(vectors_of([np.pi / 4] * 5, ways, 0.9))
    assert joints.shape == (5, 22, 3) and joints.dtype == np.float32
    np.testing.assert_allclose(joints[:, :, 1], 0.9, atol=1e-6)
    steps = np.diff(joints[:, 0], axis=0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((steps[:-1] * steps[1:]).sum(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(joints[4], joints[0], atol=1e-5)


def test_joints_of_real_motions_are_those_that_humanml3d_recovers():
    folder = REPO / "../shared/realdata/H3D"
    if not folder.is_dir():
        pytest.skip(f"no real motions: {folder} is not there")
    paths = sorted(folder.glob("new_joint_vecs/*.npy"))
    assert paths, f"{folder} has no motion"
    for path in paths:
        recovered = module.joints_of_vectors(np.load(path))
        np.testing.assert_allclose(recovered, np.load(folder / "new_joints" / path.name), atol=1e-6)


def test_a_motion_is_read_from_joints_or_vectors_or_is_not_there(data_dir):
    dataset, reader = make_h3d(data_dir), FileReader(data_dir)
    sample = Sample("H3D", "a", 0, "hops")
    recovered = dataset.read_motion(sample, reader)
    assert recovered.shape[1:] == (22, 3)
    joints = np.random.default_rng(0).normal(size=(7, 22, 3)).astype(np.float32)
    (data_dir / "H3D/new_joints").mkdir(exist_ok=True)
    np.save(data_dir / "H3D/new_joints/a.npy", joints)
    np.testing.assert_array_equal(dataset.read_motion(sample, reader), joints)
    assert dataset.read_motion(Sample("H3D", "nobody", 0, ""), reader) is None
