"""Which training may go on with which settings, and the file that Snakemake looks for."""

import pytest
from trainings import tiny

from cdm.errors import CheckpointError
from cdm.model.training_record import (
    SETTINGS,
    read_training_record,
    write_training_record,
)
from cdm.training.record import (
    check_may_go_on,
    finished_path,
    record_settings,
    write_finished,
)

PARTS = ("encoder", "decoder")  # of a Perceiver


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the run that `tiny` describes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs/mine"


def stopped_at(folder, step, config):
    """What a training that was stopped at a step leaves."""
    (folder / "ckpt").mkdir(parents=True, exist_ok=True)
    (folder / "ckpt/training.pt").touch()
    record_settings(config, step)


def finish(folder, config):
    """What a finished training leaves."""
    stopped_at(folder, 0, config)
    path, model = finished_path(config), folder / f"ckpt/model{config.training.steps:06}.pt"
    model.touch()
    write_finished(path, config, model)
    return path


def test_the_file_to_write_is_there_until_settings_change_or_the_model_is_gone(folder):
    path = finish(folder, tiny())
    assert path.exists() and finished_path(tiny()).samefile(path)
    assert finished_path(tiny(checkpoint_every=1)).samefile(path)  # decides no number
    for changed in (tiny(steps=5), tiny(lr=2e-3), tiny(noisy_timestep_fraction=0.1)):
        assert not finished_path(changed).exists()
    (folder / "ckpt/model000004.pt").unlink()
    again = finished_path(tiny())
    assert not again.exists()
    assert finish(folder, tiny()) == again == finished_path(tiny())
    assert [p.name for p in (folder / "training").glob("finished-*")] == [again.name]


def test_a_damaged_file_is_written_anew(folder):
    path = finish(folder, tiny())
    path.write_bytes(path.read_bytes()[:9])
    assert not finished_path(tiny()).exists()


def test_an_unfinished_training_may_change_its_recipe_and_remembers_when(folder):
    check_may_go_on(tiny())  # nothing there
    stopped_at(folder, 0, tiny())
    check_may_go_on(tiny(lr=5e-4, batch_size=1))
    assert record_settings(tiny(lr=5e-4, batch_size=1), 3) == [
        "training.batch_size: 2 there, 1 configured",
        "training.lr: 0.001 there, 0.0005 configured",
    ]
    assert record_settings(tiny(lr=5e-4, batch_size=1), 4) == []
    history = read_training_record(folder).history
    assert [(entry["step"], entry["recipe"]["training.lr"]) for entry in history] == [
        (0, 0.001),
        (3, 0.0005),
    ]


def test_a_finished_training_takes_more_steps_and_no_other_recipe(folder):
    finish(folder, tiny())
    check_may_go_on(tiny())
    check_may_go_on(tiny(steps=8, checkpoint_every=1))
    with pytest.raises(CheckpointError, match=r"of a finished training:\n  training\.lr: 0\.001 t"):
        check_may_go_on(tiny(steps=8, lr=2e-3))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 7}, "seed: 2023 there, 7 configured"),
        ({"diffusion": {"steps": 500}}, "diffusion.steps: 1000 there, 500 configured"),
        ({"dataset": {"sigma": 0.5}}, "dataset.sigma: 0.8 there, 0.5 configured"),
        ({"dataset": {"transforms": []}}, "dataset.transforms: null there, [] configured"),
        ({"dataset": {"num_points": 512}}, "dataset.num_points: 1024 there, 512 configured"),
        (
            {"model": {"arch_pointmamba": {"depth": 2}}},
            "model.arch_pointmamba.depth: 1 there, 2 configured",
        ),
        ({"training": {"ema_decay": 0.5}}, "training.ema_decay: null there, 0.5 configured"),
        (
            {"training": {"init_from": "demo"}},
            'training.init_from: null there, "demo" configured',
        ),
    ],
)
def test_another_training_does_not_go_on_and_says_what_to_type(folder, changes, line):
    stopped_at(folder, 0, tiny())
    with pytest.raises(CheckpointError) as error:
        check_may_go_on(tiny(changes=changes))
    message = str(error.value)
    assert message.startswith(f"outputs/mine/{SETTINGS}: outputs/mine/ckpt is of another training")
    assert f"\n  {line}\n" in message and "rm -rf outputs/mine/ckpt outputs/mine/t" in message


def test_items_that_are_turned_otherwise_are_another_training_and_the_usual_ones_are_not(folder):
    path = finish(folder, tiny())
    usual = tiny({"dataset": {"transforms": ["RandomRotation"]}})
    assert finished_path(usual) == path
    check_may_go_on(usual)
    assert not finished_path(tiny({"dataset": {"transforms": []}})).exists()


def test_a_record_of_an_earlier_version_does_not_tell_how_items_were_turned(folder):
    stopped_at(folder, 0, tiny({"dataset": {"transforms": []}}))
    record = read_training_record(folder)
    del record.training["dataset.transforms"]
    write_training_record(folder, record)
    check_may_go_on(tiny({"dataset": {"transforms": []}}))


def test_models_without_a_state_are_not_mixed_with_new_ones(folder):
    (folder / "ckpt").mkdir(parents=True)
    (folder / "ckpt/model000009.pt").touch()
    with pytest.raises(
        CheckpointError, match=r"holds model000009\.pt but no training\.pt"
    ) as error:
        check_may_go_on(tiny())
    assert "(with training.init_from: outputs/mine it begins with the newest" in str(error.value)


def test_a_training_of_an_earlier_version_goes_on(folder):
    (folder / "ckpt").mkdir(parents=True)
    (folder / "ckpt/training.pt").touch()
    check_may_go_on(tiny())
    assert record_settings(tiny(), 3) == []
    assert read_training_record(folder).history[0]["step"] == 3


def test_a_record_of_an_earlier_version_lacks_keys_that_said_what_is_the_default(folder):
    """A finished training stays finished, and another value is noticed."""
    path = finish(folder, tiny())
    assert path.name == "finished-28472bd5c50a1c44.json"
    record = read_training_record(folder)
    del record.training["training.init_from"], record.recipe["training.dropout"]
    write_training_record(folder, record)
    check_may_go_on(tiny(steps=8))
    with pytest.raises(CheckpointError) as error:
        check_may_go_on(tiny(steps=8, init_from="demo", dropout=0.5))
    assert 'training.init_from: null there, "demo" configured' in str(error.value)
    assert "training.dropout: null there, 0.5 configured" in str(error.value)


def test_a_perceiver_goes_on_with_the_heads_that_its_record_tells(folder):
    """The configuration of the next run takes them from there, in place of its null."""
    stopped_at(folder, 0, tiny(arch="Perceiver"))
    told = read_training_record(folder).sampling
    heads = {f"{part}_num_heads": told[f"model.arch_perceiver.{part}_num_heads"] for part in PARTS}
    assert set(heads.values()) == {8}
    completed = tiny({"model": {"arch_perceiver": heads}}, arch="Perceiver")
    check_may_go_on(completed)
    assert finished_path(completed) == finished_path(tiny(arch="Perceiver"))
    other = tiny({"model": {"arch_perceiver": heads | {"encoder_num_heads": 4}}}, arch="Perceiver")
    with pytest.raises(CheckpointError, match=r"encoder_num_heads: 8 there, 4 configured"):
        check_may_go_on(other)
