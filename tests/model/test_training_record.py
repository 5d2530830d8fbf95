"""What a training recorded, held against the configuration that samples its model."""

import re
from pathlib import Path

import pytest
from helpers import run_config
from training_logs import block, composed, write_log

from cdm.commands.config_files import read_config
from cdm.errors import CheckpointError, ConfigError
from cdm.model.training_record import (
    SETTINGS,
    TrainingRecord,
    check_sampled_as_trained,
    differences,
    read_training_record,
    sampling_settings,
    write_training_record,
)

RECIPE = [{"step": 0, "recipe": {"training.lr": 0.1}}]


def write(folder, **changes):
    """The record of a training with the configuration of the tests, changed."""
    record = TrainingRecord(sampling_settings(run_config(**changes)), {}, RECIPE)
    write_training_record(folder, record)
    return record


def test_a_record_reads_back_and_where_there_is_none_nothing_is_compared(tmp_path):
    assert read_training_record(tmp_path) is None
    check_sampled_as_trained(run_config(), tmp_path)
    record = write(tmp_path)
    assert read_training_record(tmp_path) == record
    assert record.recipe == {"training.lr": 0.1}
    check_sampled_as_trained(run_config(), tmp_path)


def test_what_only_sampling_decides_may_differ(tmp_path):
    write(tmp_path)
    other = run_config(
        sampling={"method": "ddim", "k_samples": 3},
        diffusion={"timestep_respacing": 7},
        dataset={"phase": "test", "captions": "first", "data_dir": "elsewhere"},
        training={"lr": 1.0, "steps": 9},
        seed=5,
    )
    check_sampled_as_trained(other, tmp_path)


CLIP = {"text_model": {"version": "ViT-B/32", "max_length": 20}}


@pytest.mark.parametrize(
    ("trained", "sampled", "line"),
    [
        (
            {"diffusion": {"steps": 500}},
            {"diffusion": {"steps": 1000}},
            "diffusion.steps: 500 there, 1000 configured",
        ),
        (
            {"diffusion": {"noise_schedule": "linear"}},
            {},
            'diffusion.noise_schedule: "linear" there, "cosine" configured',
        ),
        ({"dataset": {"sigma": 0.5}}, {}, "dataset.sigma: 0.5 there, 0.8 configured"),
        (
            {"dataset": {"data_repr_joints": [0, 1, 2, 3, 4, 5]}},
            {},
            "dataset.data_repr_joints: [0, 1, 2, 3, 4, 5] there, [0, 10, 11, 12, 20, 21]",
        ),
        (
            {"dataset": {"data_repr": "contact_pelvis"}, "model": {"data_repr": None}},
            {"dataset": {"data_repr": "contact_one_joints"}, "model": {"data_repr": None}},
            'dataset.data_repr: "contact_pelvis" there, "contact_one_joints" configured',
        ),
        ({"dataset": {"use_raw_dist": True}}, {}, "dataset.use_raw_dist: true there, false"),
        (
            {"model": CLIP},
            {"model": {"text_model": CLIP["text_model"] | {"max_length": 74}}},
            "model.text_model.max_length: 20 there, 74 configured",
        ),
        (
            {"model": CLIP},
            {},
            'model.text_model.version: "ViT-B/32" there, "hashing" configured',
        ),
        (
            {"model": {"scene_model": {"use_scene_model": False}}},
            {},
            "model.scene_model.use_scene_model: false there, true configured",
        ),
        (
            {"model": {"arch": "Perceiver", "arch_perceiver": {"encoder_num_heads": 4}}},
            {"model": {"arch": "Perceiver"}},
            "model.arch_perceiver.encoder_num_heads: 4 there, 8 configured",
        ),
    ],
)
def test_a_setting_that_contradicts_the_training_is_named_with_both_values(
    tmp_path, trained, sampled, line
):
    write(tmp_path, **trained)
    with pytest.raises(ConfigError, match=f"{re.escape(SETTINGS)}: the model was.*") as error:
        check_sampled_as_trained(run_config(**sampled), tmp_path)
    assert f"\n  {line}" in str(error.value)
    assert "Configure the values of the training" in str(error.value)
    check_sampled_as_trained(run_config(**trained), tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:40],
        lambda data: data.replace(b"0.8", b"0.9"),
        lambda data: b"",
        lambda data: b"[" * 100_000,
        lambda data: b'{"sampling": NaN}',
    ],
)
def test_a_damaged_record_is_told(tmp_path, damage):
    write(tmp_path)
    path = Path(tmp_path, SETTINGS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"settings\.json: not the record of a training"):
        check_sampled_as_trained(run_config(), tmp_path)


def test_differences_are_of_recorded_keys_only():
    assert differences({"a": 1, "b": None}, {"a": 2, "b": None, "c": 3}) == [
        "a: 1 there, 2 configured"
    ]
    assert differences({"a": [1]}, {}) == ["a: [1] there, null configured"]


# --- with the log of afford-motion's training ----------------------------------------------------


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Gives a function: what the user sets beside exp_dir -> the configuration."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_log(Path("exp"), composed(sets=True))

    def configured(*assignments):
        return read_config([], ["exp_dir=exp", *assignments])

    return configured


def test_what_the_log_told_or_what_equals_it_is_no_contradiction(experiment):
    for given in ([], ["dataset={sigma: 0.80, phase: test, sets: [PROX]}", "seed=5"]):
        check_sampled_as_trained(experiment(*given), Path("exp"))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("dataset={sigma: 0.5}", "dataset.sigma: 0.8 there, 0.5 configured (--config; there: "),
        ("diffusion={steps: 1000}", "diffusion.steps: 500 there, 1000 configured"),
        ("diffusion={noise_schedule: linear}", 'noise_schedule: "cosine" there, "linear"'),
        ("model={text_model: {max_length: 32}}", "max_length: 20 there, 32 configured"),
        ("model={text_model: {version: bert-base-uncased}}", 'version: "ViT-B/32" there'),
        ("dataset={data_repr_joints: [0]}", "data_repr_joints: [0, 10, 11, 12, 20, 21] there"),
        ("dataset={data_repr: contact_pelvis}", 'data_repr: "contact_cont_joints" there'),
        ("dataset={use_raw_dist: true}", "use_raw_dist: false there, true configured"),
        ("model={scene_model: {use_scene_model: true}}", "use_scene_model: false there, true"),
        ("model={arch_perceiver: {encoder_num_heads: 4}}", "encoder_num_heads: 8 there, 4"),
    ],
)
def test_a_value_of_the_user_that_contradicts_the_log_names_both_places(experiment, given, line):
    with pytest.raises(ConfigError) as error:
        check_sampled_as_trained(experiment(given), Path("exp"))
    message = str(error.value)
    assert line in message and "there: exp/log/runtime.log line" in message
    assert "--config trust=mine" in message
    check_sampled_as_trained(experiment(given, "trust=mine"), Path("exp"))


@pytest.mark.parametrize(
    ("trained_on_sets", "sampled", "fits"),
    [
        (True, "ContactMapDataset", True),
        (True, "ContactMapCustomDataset", True),
        (True, "ContactMapExampleDataset", True),
        (True, "ContactHumanML3DDataset", False),
        (False, "ContactHumanML3DDataset", True),
        (False, "ContactMapCustomDataset", False),
        (False, "ContactMapDataset", False),
    ],
)
def test_data_by_whose_name_other_statistics_would_be_found_are_refused(
    experiment, trained_on_sets, sampled, fits
):
    path = write_log(Path("exp"), composed(sets=trained_on_sets))
    given = f"dataset={{name: {sampled}}}"
    if fits:
        check_sampled_as_trained(experiment(given), Path("exp"))
        return
    with pytest.raises(ConfigError, match=rf"dataset.name: .* there, {sampled} configured.*line"):
        check_sampled_as_trained(experiment(given), Path("exp"))
    check_sampled_as_trained(experiment(given, "trust=mine"), Path("exp"))
    named = f"dataset={{name: {sampled}, statistics: mine.npz}}"
    check_sampled_as_trained(experiment(named), Path("exp"))
    path.rename(path.with_name("test.log"))  # of a test run, which does not tell the training
    check_sampled_as_trained(experiment(given), Path("exp"))


@pytest.mark.parametrize("name", ["ContactHumanML3DExampleDataset", "ContactOfAForkDataset"])
def test_a_name_that_is_not_built_here_is_settled_by_that_of_its_source(experiment, name):
    write_log(Path("exp"), composed(task__dataset__name=name))
    check_sampled_as_trained(experiment("dataset={name: ContactHumanML3DDataset}"), Path("exp"))


def test_features_of_the_scene_model_are_compared(experiment):
    scene = {"model__scene_model__use_scene_model": True}
    write_log(Path("exp"), composed(sets=True, task__dataset__use_openscene=True, **scene))
    check_sampled_as_trained(experiment(), Path("exp"))
    with pytest.raises(ConfigError, match=r"use_openscene: true there, false configured"):
        given = "model={scene_model: {use_openscene: false}}"
        check_sampled_as_trained(experiment(given), Path("exp"))
    with pytest.raises(ConfigError, match=r"dataset.use_color: true there, false configured"):
        check_sampled_as_trained(experiment("dataset={use_color: false}"), Path("exp"))


def test_a_file_of_reference_is_compared_with_the_log(experiment):
    Path("theirs.yaml").write_text(block(composed(sets=True, task__dataset__sigma=0.5)))
    with pytest.raises(ConfigError, match=r"(?s)dataset.sigma: 0.8 there, 0.5 configured \(theirs"):
        check_sampled_as_trained(experiment("reference=theirs.yaml"), Path("exp"))


def test_what_a_training_here_recorded_is_taken_unless_it_is_set(experiment, tmp_path):
    write(tmp_path / "outputs/own", dataset={"sigma": 0.5}, diffusion={"steps": 300})
    given = ["exp_name=own", "dataset={data_dir: data}"]
    config = read_config([], given)
    assert (config.dataset.sigma, config.diffusion.steps) == (0.5, 300)
    assert config.provenance.places["dataset.sigma"] == f"outputs/own/{SETTINGS}"
    check_sampled_as_trained(config, Path("outputs/own"))
    config = read_config([], [*given, "diffusion={steps: 500}"])
    with pytest.raises(ConfigError, match=r"diffusion.steps: 300 there, 500 configured"):
        check_sampled_as_trained(config, Path("outputs/own"))
    check_sampled_as_trained(read_config([], [*given, "trust=mine"]), Path("outputs/own"))
