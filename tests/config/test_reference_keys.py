"""afford-motion's keys as ours: taken, without a meaning here, refused by name, or unknown."""

import re

import pytest
import yaml
from training_logs import composed

from cdm.config.composed import Block, read_block
from cdm.config.reference_keys import translate
from cdm.config.schema import accepts_null, part


def read(**changes):
    """The translation of a composed configuration with changes; `sets` and `fork` as there."""
    text = yaml.safe_dump(composed(**changes), sort_keys=False)
    return translate(read_block(Block(text, 0, True), "a.log"), "a.log", accepts_null)


def test_what_decides_numbers_is_taken():
    found = read(sets=True, model__scene_model__use_scene_model=True, model__arch="HybridMamba")
    values = found.values
    assert (values["dataset.sigma"], values["diffusion.steps"], values["seed"]) == (
        "0.8",
        "500",
        "7",
    )
    assert values["dataset.data_repr"] == "contact_cont_joints"
    assert values["dataset.data_repr_joints"] == ["0", "10", "11", "12", "20", "21"]
    assert values["dataset.sets"] == ["HUMANISE"]
    assert values["dataset.transforms"] == ["RandomRotation"]
    assert values["model.scene_model.point_feat_dim"] == "32"
    assert values["model.scene_model.pretrained_weight"].endswith("model.pth")
    assert all(part(key) is not None for key in values)
    assert values.keys() == found.lines.keys()
    assert not found.refused and not found.unknown


@pytest.mark.parametrize("fork", [False, True])
def test_clips_of_both_forks_are_read_and_the_scene_model_is_left_out(fork):
    found = read(fork=fork)
    assert found.values["dataset.name"] == "ContactHumanML3DDataset"
    assert found.values["dataset.transforms"] == []
    assert found.values["model.arch"] == ("PointMamba" if fork else "Perceiver")
    assert ("model.arch_perceiver.encoder_num_heads" in found.values) == (not fork)
    scene = {key for key in found.values if key.startswith("model.scene_model.")}
    assert scene == {"model.scene_model.use_scene_model"}
    assert "dataset.max_horizon" not in found.values  # without effect there
    assert not found.refused and not found.unknown


def test_every_key_is_taken_or_has_a_reason():
    for changes in ({}, {"fork": True}, {"sets": True}):
        found = read(**changes)
        assert found.no_meaning["task.train.lr"] == "of the training alone"
        assert found.no_meaning["model.arch_pointtrans.last_dim"] == "read off the weights"
        assert "task.dataset.sigma" not in found.no_meaning


def test_what_repeats_the_dataset_is_left_to_it():
    scene = {"model__scene_model__use_scene_model": True}
    assert "model.scene_model.num_points" not in read(sets=True, **scene).values
    other = read(sets=True, model__scene_model__num_points=16, **scene)
    assert other.values["model.scene_model.num_points"] == "16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion__predict_xstart": False}, "diffusion.predict_xstart is false"),
        ({"diffusion__learn_sigma": True}, "diffusion.learn_sigma is true"),
        ({"diffusion__sigma_small": False}, "diffusion.sigma_small is false"),
        ({"diffusion__rescale_timesteps": True}, "diffusion.rescale_timesteps is true"),
        ({"diffusion__loss_type": "KL"}, "diffusion.loss_type is KL"),
        ({"model__name": "CMDM"}, "model.name is CMDM"),
        (
            {"sets": True, "task__dataset__sets_config__HUMANISE__load_text": False},
            "load_text is false",
        ),
        (
            {"task__dataset__train_transforms": ["NormalizeToCenter"]},
            "train_transforms has NormalizeToCenter: centred clouds",
        ),
        ({"task__dataset__test_transforms": ["RandomRotation"]}, "are never rotated here"),
        (
            {"task__dataset__name": "ContactHumanML3DExampleDataset"},
            "no class of this name .* not known. Set dataset.name: ContactHumanML3DDataset",
        ),
        ({"task__dataset__name": "Other"}, "no dataset of this name is read here"),
        ({"task__dataset__data_repr": "contact_pelvis"}, "but model.data_repr is"),
        (
            {
                "sets": True,
                "model__scene_model__use_scene_model": True,
                "model__scene_model__name": "PointTransformerEnc",
            },
            "model.scene_model.name is PointTransformerEnc",
        ),
        (
            {
                "sets": True,
                "model__scene_model__use_scene_model": True,
                "model__scene_model__freeze": False,
            },
            "model.scene_model.freeze is false",
        ),
        (
            {
                "sets": True,
                "model__scene_model__use_scene_model": True,
                "task__dataset__point_feat_dim": 1,
            },
            "task.dataset.point_feat_dim is 1, but model.scene_model.point_feat_dim is 32",
        ),
        ({"seed": "${oc.env:SEED}"}, r"seed: .* is computed by a resolver.*; set seed$"),
    ],
)
def test_what_cannot_be_sampled_as_it_was_trained_is_refused_by_name(changes, message):
    [refusal] = read(**changes).refused
    assert refusal.text.startswith("a.log line ")
    assert re.search(message, refusal.text)


def test_ratio_changes_nothing_as_no_dataset_of_contact_maps_of_afford_motion_reads_it():
    key = "task.dataset.sets_config.HUMANISE.ratio"
    parts = {"task__dataset__ratio": 0.5, key.replace(".", "__"): 0.5}
    found, whole = read(sets=True, **parts), read(sets=True)
    assert found.values == whole.values and not found.refused and not found.unknown
    for each in ("task.dataset.ratio", key):
        assert found.no_meaning[each].startswith("without effect there")


def test_examples_are_normalised_as_the_split_of_the_training():
    found = read(sets=True, task__dataset__name="ContactMapExampleDataset")
    assert not found.refused
    assert found.values["dataset.name"] == "ContactMapExampleDataset"
    for key in ("dataset.statistics_phase", "dataset.statistics_sets"):
        assert found.values[key] == read(sets=True).values[key]


def test_what_is_not_in_use_is_not_refused():
    assert not read(
        sets=True,
        task__dataset__sets_config__PROX__load_text=False,
        model__scene_model__name="PointTransformerEnc",
        model__scene_model__freeze=False,
        exp_dir="${hydra:run.dir}",
    ).refused


def test_a_value_of_the_user_settles_what_is_only_not_told():
    [refusal] = read(seed="${now:%S}").refused
    assert refusal.settled_by == "seed"
    [refusal] = read(diffusion__learn_sigma=True).refused
    assert refusal.settled_by is None


def test_null_tells_nothing_where_it_is_no_value():
    found = read(task__dataset__sigma=None, model__text_model__max_length=None)
    assert "dataset.sigma" not in found.values
    assert found.values["model.text_model.max_length"] is None


def test_unknown_keys_are_named():
    assert read(model__new_part__size=3).unknown == ["model.new_part.size"]
