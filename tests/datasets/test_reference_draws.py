"""`captions: reference`: afford-motion's order and captions, as recorded and as described."""

import random
from dataclasses import replace

import numpy as np
import pytest
from example_datasets import make, make_h3d, message, parity_cases, parity_dataset

from cdm.datasets import make_dataset
from cdm.datasets.reference_draws import Clip, draw_clips
from cdm.errors import DataError


def drawn(dataset, seed=None, **options):
    """(set, index, caption_idx, text) of the samples under `captions: reference`."""
    config = replace(dataset.config, **{"captions": "reference", **options})
    seed = dataset.seed if seed is None else seed
    other = make_dataset(config, dataset.point_feat_dim, seed, dataset.data_dir)
    return [(s.set, s.index, s.caption_idx, s.text) for s in other.samples()]


# ---- as afford-motion's own classes recorded them ----


def test_order_and_captions_are_those_that_afford_motion_recorded(parity, parity_index):
    folder = parity / "10_dataset"
    for name, entry in parity_cases(parity_index).items():
        expected = np.load(folder / name)
        seed = entry["meta"]["python_numpy_seed_before_construction"]
        found = drawn(parity_dataset(entry, folder / "tree/data"), seed)
        assert [text for *_, text in found] == expected["c_text"].tolist(), name
        assert [index for _, index, _, _ in found] == [str(i) for i in expected["info_index"]], name
        if "info_set" in expected:
            assert [set_name for set_name, *_ in found] == expected["info_set"].tolist(), name
        if "info_caption_index" in expected:
            lines = expected["info_caption_index"].tolist()
            assert [line for _, _, line, _ in found] == lines, name


def test_captions_are_those_of_the_recorded_map_generation(parity, parity_index):
    run = np.load(parity / "12_end_to_end_h3d/run.npz")
    entry = parity_cases(parity_index)["expected/h3d_train.npz"]
    found = drawn(parity_dataset(entry, parity / "10_dataset/tree/data"), seed=2023)
    batches = [f"batch{number}" for number in (0, 1)]
    texts = [text for batch in batches for text in run[f"{batch}.text"].tolist()]
    lines = [line for batch in batches for line in run[f"{batch}.info_caption_index"].tolist()]
    assert [(line, text) for _, _, line, text in found] == list(zip(lines, texts, strict=True))


def test_a_prefix_of_a_recorded_split_has_the_captions_of_the_whole(parity, parity_index):
    entry = parity_cases(parity_index)["expected/cm_all_test.npz"]
    dataset = parity_dataset(entry, parity / "10_dataset/tree/data")
    whole = drawn(dataset, seed=2023)
    assert len(whole) == 7
    for most in (1, 3, 7, 9):
        assert drawn(dataset, seed=2023, max_items=most) == whole[:most]


# ---- as its behaviour is described ----


def scene_draws(rows, seed, shuffles=True):
    """The description, read plainly: shuffle positions, then choose wherever there is a caption."""
    rng, order = random.Random(seed), list(range(len(rows)))
    if shuffles:
        rng.shuffle(order)
    found = []
    for position in order:
        index, utterance = rows[position]
        texts = utterance.split("$$") if utterance else []
        found.append((str(index), rng.choice(texts) if texts else ""))
    return found


ROWS = ["sit$$sit down$$have a seat", "", "walk", "stand$$$$rise", "go$$", "lie"]


@pytest.fixture
def scenes(data_dir):
    """PROX with captions that are blank, missing or have a blank part; all rows in every split."""
    header = "scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others\n"
    table = data_dir / "PROX/contact_motion/anno.csv"
    table.write_text(header + "".join(f"s{i},0,0,0,{text},\n" for i, text in enumerate(ROWS)))
    for phase in ("train", "val", "test", "all"):
        (data_dir / f"PROX/{phase}.txt").write_text("".join(f"{i:06}\n" for i in range(6)))
    return data_dir


@pytest.mark.parametrize("phase", ["train", "test", "all", "val"])
def test_blank_parts_of_an_utterance_are_drawn_like_others(scenes, phase):
    seen = set()
    for seed in range(12):
        found = drawn(make(scenes, seed, phase=phase))
        expected = scene_draws(list(enumerate(ROWS)), seed, shuffles=phase != "val")
        assert [(index, text) for _, index, _, text in found] == expected
        assert all(text == (ROWS[int(i)].split("$$") or [""])[line] for _, i, line, text in found)
        seen |= {(index, text) for _, index, _, text in found}
    assert ("3", "") in seen and ("4", "") in seen


def test_a_caption_that_pandas_takes_for_missing_is_not_drawn(scenes):
    table = scenes / "PROX/contact_motion/anno.csv"
    table.write_text(table.read_text().replace("walk", "nan").replace("lie", "None"))
    rows = [(i, "" if text in ("walk", "lie") else text) for i, text in enumerate(ROWS)]
    found = drawn(make(scenes, 3, phase="test"))
    assert [(index, text) for _, index, _, text in found] == scene_draws(rows, 3)


def test_own_scans_have_their_whole_utterance_in_the_shuffled_order(data_dir):
    header = "scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others\n"
    rows = "".join(f"room,0,0,0,sit on {i}$$walk to {i},\n" for i in range(9))
    (data_dir / "custom/anno.csv").write_text(header + rows)
    order = list(range(9))
    random.Random(5).shuffle(order)
    found = drawn(make(data_dir, 5, name="ContactMapCustomDataset"))
    expected = [("custom", str(i), 0, f"sit on {i}$$walk to {i}") for i in order]
    assert found == expected


def clip_draws(clips, seed, phase):
    """The description, read plainly, with the names of parts kept in a dict."""
    rng, named = random.Random(seed), {}
    for clip in clips:
        name = clip.name
        if clip.is_part:
            name = f"{rng.choice('ABCDEFGHIJKLMNOPQRSTUVW')}_{clip.name}"
            while name in named:
                name = f"{rng.choice('ABCDEFGHIJKLMNOPQRSTUVW')}_{clip.name}"
        named[name] = clip
    clips = sorted(named.values(), key=lambda clip: clip.num_frames)
    order = list(range(len(clips)))
    if phase == "test":
        rng = random.Random(seed - 2023)
    if phase != "val":
        rng.shuffle(order)
    return [
        (c.name, c.captions[0] if phase == "test" else rng.choice(c.captions))
        for c in (clips[position] for position in order)
    ]


@pytest.mark.parametrize("phase", ["train", "test", "all", "val"])
def test_parts_of_a_clip_draw_letters_until_one_is_free(phase):
    clips = [
        clip
        for name, parts in (("a", 20), ("b", 0), ("c", 23), ("d", 1))
        for clip in (
            *[Clip(40 + i, name, [(i, f"part {i}")], is_part=True) for i in range(parts)],
            Clip(60, name, [(30, "whole"), (31, "all of it"), (32, "again")]),
        )
    ]
    for seed in (0, 7, 2023, 2**63):
        found = [(clip.name, *clip.captions) for clip in draw_clips(clips, seed, phase)]
        assert found == clip_draws(clips, seed, phase)


def test_more_parts_than_letters_are_refused():
    clips = [Clip(40, "a", [(i, "x")], is_part=True) for i in range(24)]
    with pytest.raises(DataError, match="H3D/a: has captions of more than 23 parts"):
        draw_clips(clips, 1, "train")


@pytest.fixture
def clips(data_dir):
    """H3D clips of 190 to 201 frames, each with two captions and one of a part."""
    h3d = data_dir / "H3D"
    for length in range(190, 202):
        np.save(h3d / f"new_joint_vecs/n{length}.npy", np.zeros((length, 3), np.float32))
        (h3d / f"texts/n{length}.txt").write_text("go#x#0.0#0.0\nrun#x#0.0#0.0\nhop#x#0.0#2.5\n")
    names = "".join(f"n{length}\n" for length in range(190, 202))
    for phase in ("train", "test"):
        (h3d / f"{phase}.txt").write_text(names)
    return data_dir


@pytest.mark.parametrize("phase", ["train", "test"])
def test_a_smaller_max_horizon_leaves_clips_out_after_the_draws(clips, phase):
    whole = drawn(make_h3d(clips, phase=phase))
    fewer = make_h3d(clips, phase=phase, captions="reference", max_horizon=196)
    found = [(s.set, s.index, s.caption_idx, s.text) for s in fewer.samples()]
    assert found == [row for row in whole if int(row[1][1:]) < 196]
    assert len(whole) == 20 and len(found) == 12
    reasons = {f"H3D/n{n}": f"max_horizon (196) or longer: {n} frames" for n in range(196, 202)}
    assert fewer.dropped == reasons


def test_files_for_which_afford_motion_draws_otherwise_are_refused(clips):
    texts = clips / "H3D/texts/n190.txt"
    whole = texts.read_text()
    for damage, problem in (
        (whole + "\n", "line 4 is blank"),
        (whole.replace("\n", "\n\n", 1), "line 2 is blank"),
        (whole + "half a line\n", "line 4 is 'half a line'"),
    ):
        texts.write_text(damage)
        make_h3d(clips).samples()
        with pytest.raises(DataError) as error:
            drawn(make_h3d(clips))
        assert problem in message(error) and "dataset.captions is reference" in message(error)
    texts.write_text(whole)
    (clips / "H3D/train.txt").write_text("n190\nn191\nn190\n")
    with pytest.raises(DataError, match="n190 comes 2 times"):
        drawn(make_h3d(clips))


def test_clips_without_files_cost_no_draw(clips):
    (clips / "H3D/train.txt").write_text("n190\nn191\n")
    expected = drawn(make_h3d(clips))
    (clips / "H3D/texts/n192.txt").unlink()
    (clips / "H3D/train.txt").write_text("nowhere\nn190\nn192\nn191\n")
    assert drawn(make_h3d(clips)) == expected


# ---- the protocols of its test script ----


def maps_of_a_test(items, k_samples, num_k_samples, eval_nbatch, batch_size):
    """Item -> maps, as afford-motion's test.py makes them, batch after batch."""
    of_k = num_k_samples // batch_size if k_samples else 0
    found = {}
    for batch in range(min(eval_nbatch, len(items) // batch_size)):
        for item in items[batch * batch_size : (batch + 1) * batch_size]:
            found[item] = k_samples if batch < of_k else 1
    return found


PROTOCOLS = {  # k_samples, eval_nbatch and max_items of ours
    "wo_mm": (0, 3, 6),
    "w_mm": (5, 2, 4),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_max_items_takes_the_items_of_afford_motions_protocols(clips, protocol):
    k_samples, eval_nbatch, max_items = PROTOCOLS[protocol]
    test = make_h3d(clips, phase="test")
    made = maps_of_a_test(drawn(test), k_samples, 5, eval_nbatch, batch_size=2)
    assert set(made.values()) == {k_samples or 1}
    assert list(made) == drawn(test, max_items=max_items)
    assert list(made) != drawn(test, captions="first", max_items=max_items)
