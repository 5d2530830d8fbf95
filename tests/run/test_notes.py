"""What a plan tells beside its settings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import plan_run, run_config, small_architecture

from cdm.config.sections import Provenance
from cdm.run.dataset import open_dataset
from cdm.run.notes import plan_notes
from cdm.run.plan import describe_plan
from cdm.run.plan_files import read_plan
from cdm.run.planning import make_plan


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)[0]


def notes(plan, architecture=None, texts=None, beside=True, **changes):
    """The notes of a run of these settings.

    Args:
        beside: whether mean and std come from a file beside the checkpoint.
    """
    config = run_config(**changes)
    dataset = open_dataset(config, plan.architecture.point_feat_dim)
    samples = dataset.samples()
    if texts is not None:
        samples = [replace(samples[0], text=text) for text in texts]
    return plan_notes(config, architecture or plan.architecture, dataset, samples, beside)


def test_a_usual_plan_has_nothing_to_tell(plan):
    assert plan.notes == notes(plan) == {}


@pytest.mark.parametrize("arch", ["HybridMamba", "Perceiver"])
def test_heads_that_nobody_set_are_told_and_those_that_are_set_are_not(plan, arch):
    architecture = small_architecture(arch)
    keys = [key for key in architecture.sizes if key.endswith("num_heads")]
    told = notes(plan, architecture)["heads"]
    for key in keys:
        assert f"model.arch_{arch.lower()}.{key} {architecture.sizes[key]}" in told
    assert "afford-motion's default" in told
    model = {f"arch_{arch.lower()}": {key: architecture.sizes[key] for key in keys}}
    assert notes(plan, architecture, model=model) == {}
    model[f"arch_{arch.lower()}"].popitem()
    assert notes(plan, architecture, model=model).get("heads", "").count("num_heads") == (
        len(keys) - len(model[f"arch_{arch.lower()}"])
    )


def test_mean_and_std_are_assumed_where_nothing_tells_the_training(plan):
    told = notes(plan, beside=False)["mean and std"]
    assert told.startswith("Mean_Std_Cont_HUMANISE_contact_cont_joints_0.8.npz, assumed")
    assert "dataset.statistics_sets" in told
    for known in ({"statistics": "mine.npz"}, {"statistics_sets": ["HUMANISE", "PROX"]}):
        assert notes(plan, beside=False, dataset=known) == {}
    next(Path("data").glob("Mean_Std*")).unlink()
    assert "mean and std" not in make_plan(run_config())[0].notes  # the demo's lie beside it
    assert "mean and std" in make_plan(run_config(dataset={"sigma": 0.7}))[0].notes


def test_heads_of_a_bottleneck_that_is_not_there_are_not_told(plan):
    architecture = small_architecture("HybridMamba")
    del architecture.sizes["num_heads"]
    assert notes(plan, architecture) == {}


def test_max_items_tells_which_items_it_takes(plan):
    assert notes(plan, dataset={"max_items": 3})["items"].startswith(
        "the first 3 of 7 in the order of the data's own lists; afford-motion's test takes"
    )
    assert notes(plan, dataset={"max_items": 7})["items"] == "all 7 (dataset.max_items is 7)"
    found = notes(plan, dataset={"max_items": 3, "captions": "reference"})
    assert found["items"] == "the first 3 of 7 in afford-motion's order"
    assert "with seed 2023 and without worker processes" in found["captions"]


def test_captions_of_more_words_than_tokens_are_counted_without_a_tokenizer(plan):
    clip = {"text_model": {"version": "ViT-B/32", "max_length": 3}}
    bert = {"text_model": {"version": "bert-base-uncased", "max_length": 5}}  # two are its own
    texts = ["sit on the sofa", "sit on it", "sit - on - it", "sit &amp;nbsp; now &#32; .", ""] * 2
    for model in (clip, bert):
        told = notes(plan, texts=texts, model=model)["shortened"]
        assert told.startswith("at least 2 of 10 captions: they have more than the 3 words")
    clip["text_model"]["max_length"] = 4
    assert notes(plan, texts=texts, model=clip) == {}
    for model in ({"text_model": {"version": "ViT-B/32", "max_length": None}}, {}):
        assert notes(plan, texts=["a b c d e f g h " * 20], model=model) == {}


def test_clips_that_a_small_max_horizon_takes_from_stage_2_are_counted(plan, tmp_path):
    h3d = tmp_path / "data/H3D"
    for folder in ("new_joint_vecs", "texts"):
        (h3d / folder).mkdir(parents=True)
    for frames in range(195, 202):
        np.save(h3d / f"new_joint_vecs/{frames}.npy", np.zeros((frames, 3), np.float32))
        (h3d / f"texts/{frames}.txt").write_text("hops#x#0.0#0.0\n")
    (h3d / "train.txt").write_text("".join(f"{frames}\n" for frames in range(195, 202)))
    of_h3d = {"name": "ContactHumanML3DDataset", "max_horizon": 196}
    told = notes(plan, dataset=of_h3d)["horizon"]
    assert told.startswith("4 clip(s) or parts of 196 to 199 frames are left out")
    assert "set dataset.max_horizon: 200" in told
    for limit in (200, 300):
        assert notes(plan, dataset=of_h3d | {"max_horizon": limit}) == {}
    config = run_config(dataset=of_h3d | {"max_horizon": 200})
    dataset = open_dataset(config, plan.architecture.point_feat_dim)
    samples = dataset.samples()
    told = plan_notes(config, plan.architecture, dataset, samples, False)["mean and std"]
    assert told.startswith("Mean_Std_Cont_OriH3D_")
    config = replace(config, provenance=Provenance(training="exp/log/runtime.log"))
    assert "mean and std" not in plan_notes(
        config, plan.architecture, dataset, samples, left_by_training=False
    )
    told = plan_notes(config, plan.architecture, dataset, samples, True)["horizon"]
    assert "no effect there, so it is not taken over" in told and len(samples) == 5


def test_notes_are_kept_with_the_plan_and_stand_in_its_description(plan):
    saved = plan_run(Path(), dataset={"max_items": 3, "captions": "reference"})[0]
    assert read_plan("outputs/run").notes == saved.notes and set(saved.notes) == {
        *("items", "captions")
    }
    text = describe_plan(saved)
    for label, note in saved.notes.items():
        assert f"\n{label:<16}{note}\n" in text
    assert make_plan(run_config())[0].notes == {}


@pytest.mark.parametrize(
    "offset, told", [(16_000.0, None), (-17_000.0, "1.953 mm"), (5.4e6, "500 mm")]
)
def test_offsets_that_float32_moves_are_told(plan, tmp_path, offset, told):
    table = tmp_path / "data/HUMANISE/contact_motion/anno.csv"
    table.write_text(table.read_text().replace("scene0002,0.5,", f"scene0002,{offset},"))
    note = notes(plan).get("scene_trans")
    assert (note is None) == (told is None)
    if note:
        assert note.startswith("1 of 7 samples have an offset") and told in note
