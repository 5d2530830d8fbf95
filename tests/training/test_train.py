"""Training: what it writes, and that stopping it changes nothing."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from helpers import overlay
from trainings import SEEN, TINY, tiny

from cdm.commands.config_files import read_config
from cdm.datasets.statistics import load_statistics
from cdm.demo.scenes import write_demo
from cdm.errors import ArchiveError, CDMError, CheckpointError, ConfigError, DataError, NotTrained
from cdm.files import hash_file
from cdm.model.checkpoint import find_checkpoint, inspect_checkpoint
from cdm.model.state_dict import load_state_dict
from cdm.model.training_record import read_training_record
from cdm.run.generate import generate_chunk
from cdm.run.plan_files import save_plan
from cdm.run.planning import make_plan
from cdm.training.beginning import architecture_to_train
from cdm.training.initial_weights import initial_state_dict
from cdm.training.record import finished_path
from cdm.training.train import train
from cdm.training.trainer import Trainer


@pytest.mark.parametrize(
    ("arch", "changes"),
    [(arch, None) for arch in TINY] + [("PointMamba", SEEN)],  # a Perceiver's dropout has masks
)
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    scene_weights, tmp_path, monkeypatch, arch, changes
):
    lines, config = [], tiny(changes, arch=arch, ema_decay=0.5)
    straight = load_state_dict(train(replace(config, exp_name="a"), lines.append))
    drops = arch in ("Perceiver", "PointTransV2")
    assert any("dropout 0.1" in line for line in lines) == drops
    torch.manual_seed(1)  # whatever else drew random numbers in between

    class PowerCut(Exception):
        pass

    def cut(self, batch, whole=Trainer.train_step):
        if self.step == 3:
            raise PowerCut
        whole(self, batch)

    stopped = replace(config, exp_name="b")
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Trainer, "train_step", cut)
        train(stopped, lines.append)
    path = train(stopped, lines.append)
    assert any("steps 2 to 4 (resumed)" in line for line in lines)
    resumed = load_state_dict(path)
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())
    curves = [(tmp_path / f"outputs/{name}/training/loss.csv").read_text() for name in "ab"]
    assert curves[0] == curves[1] and curves[0].startswith("step,loss\n1,")


def test_what_to_go_on_from_is_saved_between_two_models(few_items, tmp_path, monkeypatch):
    monkeypatch.setattr("cdm.training.train.SAVE_EVERY_S", -1)
    steps, saved = [], Trainer.save
    monkeypatch.setattr(
        Trainer, "save", lambda self, path: (steps.append(self.step), saved(self, path))
    )
    train(tiny(checkpoint_every=4), lambda line: None)
    assert steps == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.glob("outputs/mine/ckpt/model*")] == ["model000004.pt"]


@pytest.fixture
def interrupts():
    """SIGINT raises KeyboardInterrupt, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_waits_for_the_step_and_saves_it(few_items, interrupts, monkeypatch):
    def interrupted(self, batch, whole=Trainer.train_step):
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)  # as if in the middle of it
        whole(self, batch)

    lines = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "train_step", interrupted)
        train(tiny(checkpoint_every=4), lines.append)
    assert lines[-1] == "saved at step 3, to go on from there"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(tiny(checkpoint_every=4), lines.append)
    assert any("steps 3 to 4 (resumed)" in line for line in lines)


def test_what_is_written_loads_like_a_reference_checkpoint(few_items):
    config = tiny()
    path = train(config, lambda line: None)
    assert path.name == "model000004.pt" and find_checkpoint("outputs/mine") == path
    found = inspect_checkpoint(path, config)
    assert found.architecture == architecture_to_train(config)
    state = torch.load(path, weights_only=True)
    assert "timestep_embedder.pe" in state and {v.dtype for v in state.values()} == {torch.float32}
    [statistics] = path.parents[1].glob("Mean_Std_*.npz")
    assert load_statistics(statistics, 6).std.min() > 0
    assert train(config, lambda line: None) == path  # finished: nothing to do


def test_other_settings_do_not_go_on_from_a_checkpoint(few_items):
    train(tiny(steps=2), lambda line: None)
    wider = tiny()
    sizes = replace(wider.model.arch_pointmamba, trans_dim=32)
    wider = replace(wider, model=replace(wider.model, arch_pointmamba=sizes))
    with pytest.raises(CheckpointError, match=r"model\.arch_pointmamba\.trans_dim: 16 there, 32"):
        train(wider, lambda line: None)
    (path := find_checkpoint("outputs/mine").with_name("training.pt")).write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=f"{path.name}: cannot be read"):
        train(tiny(), lambda line: None)


def test_a_training_writes_what_it_was_trained_with(few_items):
    """A plan then refuses to sample its model with anything else, before a chunk is named."""
    config = replace(tiny(), exp_dir=None)
    train(config, lambda line: None)
    assert finished_path(config).exists()
    make_plan(config)
    for changes, line in (
        ({"diffusion": {"steps": 500}}, "diffusion.steps: 1000 there, 500 configured"),
        ({"dataset": {"sigma": 0.5}}, "dataset.sigma: 0.8 there, 0.5 configured"),
    ):
        with pytest.raises(ConfigError, match=r"outputs/mine/training/settings\.json") as error:
            make_plan(replace(tiny(changes=changes), exp_dir=None))
        assert line in str(error.value)


def test_a_finished_training_is_extended_and_never_cut_short(few_items):
    lines = []
    train(tiny({"dataset": {"max_items": 1}}, steps=2), lines.append)  # it is of the sampling
    assert any(": 6 items, steps 0 to 2" in line for line in lines)
    assert train(tiny(steps=3), lines.append).name == "model000003.pt"
    assert "from step 2 on: training.steps: 2 there, 3 configured" in lines
    with pytest.raises(CheckpointError, match=r"is at step 3, but training\.steps is 2"):
        train(tiny(steps=2), lines.append)
    assert find_checkpoint("outputs/mine").name == "model000003.pt"


def test_a_lower_learning_rate_after_a_stop_is_written_down(few_items, monkeypatch):
    def stop(self, batch, whole=Trainer.train_step):
        if self.step == 2:
            raise CDMError("stopped")
        whole(self, batch)

    with monkeypatch.context() as patch, pytest.raises(CDMError, match="stopped"):
        patch.setattr(Trainer, "train_step", stop)
        train(tiny(), lambda line: None)
    train(tiny(lr=1e-4), lambda line: None)
    history = read_training_record(Path("outputs/mine")).history
    assert [(entry["step"], entry["recipe"]["training.lr"]) for entry in history] == [
        (0, 1e-3),
        (2, 1e-4),
    ]


def test_a_model_that_was_removed_is_written_again(few_items):
    path = train(tiny(), lambda line: None)
    content = load_state_dict(path)
    path.unlink()
    assert not finished_path(tiny()).exists()
    assert train(tiny(), lambda line: None) == path
    again = load_state_dict(path)
    assert all(torch.equal(value, again[key]) for key, value in content.items())
    assert finished_path(tiny()).exists()


def test_other_statistics_do_not_go_on(few_items, tmp_path):
    train(tiny(steps=2), lambda line: None)
    numbers = {"mean": np.full((1, 6), 0.1, np.float32), "std": np.ones((1, 6), np.float32)}
    np.savez(tmp_path / "other.npz", **numbers)
    other = tiny(changes={"dataset": {"statistics": "other.npz"}})
    with pytest.raises(DataError, match=r"began with these statistics, and other\.npz holds other"):
        train(other, lambda line: None)


def test_statistics_that_changed_beside_the_model_do_not_go_on(few_items, tmp_path):
    """They were edited; or they were lost, and others have come into the data folder since."""
    train(tiny(steps=2), lambda line: None)
    [path] = Path("outputs/mine").glob("Mean_Std_*.npz")
    whole = path.read_bytes()
    numbers = load_statistics(path, 6)
    np.savez(path, mean=numbers.mean + np.float32(0.01), std=numbers.std)
    with pytest.raises(
        CheckpointError, match=r'another training:\n  mean and std: "of content \w+'
    ):
        train(tiny(), lambda line: None)
    path.write_bytes(whole)
    assert train(tiny(), lambda line: None).name == "model000004.pt"


def test_two_trainings_do_not_write_into_one_folder(few_items, monkeypatch):
    """Snakemake was killed, its job goes on, and the same command was typed again."""
    monkeypatch.setattr("cdm.files.whole.LOCK_WAIT_S", 0.1)

    def second(self, batch, whole=Trainer.train_step):
        with pytest.raises(
            ArchiveError, match=r"another process is writing outputs/mine/ckpt.*end"
        ):
            train(tiny(lr=1e-4), lambda line: None)
        whole(self, batch)

    monkeypatch.setattr(Trainer, "train_step", second)
    train(tiny(steps=2), lambda line: None)
    assert read_training_record(Path("outputs/mine")).recipe["training.lr"] == 1e-3
    assert not list(Path("outputs/mine").glob(".*lock"))


def test_a_model_that_a_kill_took_is_written_when_the_training_goes_on(few_items, monkeypatch):
    """The state is written before the model, so a kill between them leaves no model."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "state_dict", killed)
        train(tiny(steps=5), lambda line: None)
    train(tiny(steps=5), lambda line: None)
    found = sorted(path.name for path in Path("outputs/mine/ckpt").glob("model*.pt"))
    assert found == ["model000002.pt", "model000004.pt", "model000005.pt"]


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(few_items, monkeypatch):
    train(tiny(steps=2), lambda line: None)
    monkeypatch.setattr(
        "cdm.training.trainer.diffusion_loss", lambda m, *_: next(m.parameters()).sum() / 0
    )
    with pytest.raises(CDMError, match="the loss is"):
        train(tiny(), lambda line: None)
    assert find_checkpoint("outputs/mine").name == "model000002.pt"


def test_without_a_checkpoint_a_run_says_how_to_get_one(few_items):
    config = replace(tiny(), exp_dir=None)
    with pytest.raises(NotTrained, match=r"has no ckpt/model\*.pt yet.*snakemake train"):
        make_plan(config)
    path = train(config, lambda line: None)
    plan, _ = make_plan(config)
    assert plan.checkpoint.path == str(path)
    assert plan.statistics.path.startswith("outputs/mine/Mean_Std_")


@pytest.mark.parametrize("arch", [arch for arch in TINY if arch != "PointMamba"])
def test_what_was_trained_is_sampled_with_no_further_setting(few_items, arch):
    """The command without `train`: plan, and one chunk."""
    config = replace(
        tiny({"diffusion": {"timestep_respacing": 2}}, arch=arch, steps=1), exp_dir=None
    )
    write_demo(config.data_dir, "val", num_train=0)
    train(config, lambda line: None)
    plan, samples = make_plan(config)
    assert plan.architecture == architecture_to_train(config)
    save_plan(plan, samples)
    generate_chunk(plan, plan.chunks[0], lambda line: None)
    store = Path(f"outputs/mine/chunks/{plan.chunks[0].name}.zarr")
    maps = zarr.open_group(store, mode="r")["sample"][:]
    num_samples = plan.chunks[0].num_samples
    assert maps.shape == (num_samples, 1, 1024, 6) and np.isfinite(maps).all() and maps.std() > 0.1


# --- with the frozen scene model -----------------------------------------------------------------


@pytest.mark.parametrize("arch", TINY)
def test_what_was_trained_with_the_scene_model_is_sampled_with_it(scene_weights, arch):
    """With no further setting: plan, and one chunk. No checkpoint holds the scene model."""
    config = replace(
        tiny(SEEN | {"diffusion": {"timestep_respacing": 2}}, arch=arch, steps=2), exp_dir=None
    )
    write_demo(config.data_dir, "val", num_points=64, num_train=0)
    weights = {"path": "scene.pth", "sha256": hash_file("scene.pth")}
    lines = []
    path = train(config, lines.append)
    assert "point features by the frozen scene model scene.pth, in fp32" in lines
    assert read_training_record(Path("outputs/mine")).scene_model == weights
    assert hash_file("scene.pth") == weights["sha256"]
    state = torch.load(path, weights_only=True)
    before = initial_state_dict(architecture_to_train(config), config.seed)
    assert state.keys() == before.keys()  # none of the scene model's
    trained = "contact_layer.weight"
    assert not np.array_equal(state[trained].numpy(), before[trained])

    plan, samples = make_plan(config)
    assert (plan.scene_model.path, plan.scene_model.sha256) == tuple(weights.values())
    save_plan(plan, samples)
    generate_chunk(plan, plan.chunks[0], lambda line: None)
    maps = zarr.open_group(f"outputs/mine/chunks/{plan.chunks[0].name}.zarr", mode="r")["sample"][:]
    assert maps.shape[1:] == (1, 64, 6) and np.isfinite(maps).all() and maps.std() > 0.1


def test_the_record_of_a_training_names_the_scene_model_for_sampling(scene_weights, tmp_path):
    """By the file, which need not be typed, and by its content, which must be the same."""
    config = replace(tiny(SEEN, steps=1), exp_dir=None)
    write_demo(config.data_dir, "val", num_points=64, num_train=0)
    train(config, lambda line: None)
    words = [
        "exp_dir=outputs/mine",
        "exp_name=mine",
        "dataset={data_dir: demo, sets: [HUMANISE], phase: val, num_points: 64}",
    ]
    found = read_config([], words)
    assert found.model.scene_model.pretrained_weight == "scene.pth"
    assert make_plan(found)[0].scene_model.sha256 == hash_file("scene.pth")


def test_the_scene_model_may_move_and_not_change(scene_weights, write_scene_model):
    half = replace(tiny(SEEN, steps=2), exp_dir=None)
    train(half, lambda line: None)
    assert finished_path(half).exists()
    write_scene_model("other.pth", seed=1)
    Path("scene.pth").rename("moved.pth")

    def with_weights(path, **changes):
        scene_model = replace(half.model.scene_model, pretrained_weight=path)
        return replace(half, model=replace(half.model, scene_model=scene_model), **changes)

    # Other weights neither go on nor are sampled.
    assert not finished_path(with_weights("other.pth")).exists()
    with pytest.raises(CheckpointError, match=r"another scene model:\n.*: scene\.pth \(") as error:
        train(with_weights("other.pth"), lambda line: None)
    assert "other.pth (sha256" in str(error.value) and "new exp_name" in str(error.value)
    with pytest.raises(ConfigError, match=r"(?s)another scene model:.*other\.pth.*trust=mine"):
        make_plan(with_weights("other.pth"))
    make_plan(with_weights("other.pth", trust="mine"))

    # The same weights elsewhere do both.
    longer = replace(half.training, steps=3)
    path = train(with_weights("moved.pth", training=longer), lambda line: None)
    assert path.name == "model000003.pt"
    assert read_training_record(Path("outputs/mine")).scene_model["path"] == "moved.pth"
    assert make_plan(with_weights("moved.pth"))[0].scene_model.path == "moved.pth"


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (None, ConfigError, r"(?s)pretrained_weight is null: name the .*use_scene_model: true"),
        ("gone.pth", CheckpointError, r"gone\.pth: no such file; .*--config 'model={scene_model: "),
    ],
)
def test_a_scene_model_without_weights_is_told_before_items_are_read(
    few_items, monkeypatch, weights, error, message
):
    monkeypatch.setattr("cdm.training.train.read_training_items", None)
    config = tiny(overlay(SEEN, {"model": {"scene_model": {"pretrained_weight": weights}}}))
    with pytest.raises(error, match=message):
        train(config, lambda line: None)


def test_lost_weights_of_the_text_encoder_are_told_before_items_are_read(
    few_items, monkeypatch, tmp_path
):
    monkeypatch.setattr("cdm.training.train.read_training_items", None)
    text = {"version": "ViT-B/32", "path": str(tmp_path)}
    with pytest.raises(CheckpointError, match="no weights of the text encoder"):
        train(tiny({"model": {"text_model": text}}), lambda line: None)


def test_items_are_read_by_no_more_processes_than_there_are_cores(few_items, monkeypatch):
    class Asked(Exception):
        pass

    def asked(dataset, columns, threads, log):
        raise Asked(threads)

    monkeypatch.setattr("cdm.training.train.read_training_items", asked)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    for threads, readers in ((1, 1), (16, 3)):
        with pytest.raises(Asked, match=f"^{readers}$"):
            train(tiny(), lambda line: None, threads)


def test_a_training_begins_with_a_checkpoint_that_saw_the_scene_model(
    scene_weights, write_scene_model
):
    first = train(replace(tiny(SEEN, steps=1), exp_name="first"), lambda line: None)
    lines = []
    config = tiny(SEEN, steps=1, lr=1e-30, init_from="outputs/first")
    second = load_state_dict(train(config, lines.append))
    assert any(f"begins with {first} (" in line for line in lines)
    assert not any("pretrained_weight" in line for line in lines)
    assert all(torch.equal(value, second[key]) for key, value in load_state_dict(first).items())
    assert read_training_record(Path("outputs/mine")).scene_model["path"] == "scene.pth"

    # With other features it may begin too, and says so.
    write_scene_model("scene.pth", seed=1)
    train(replace(config, exp_name="other"), lines.append)
    assert any("init_from: model.scene_model.pretrained_weight: scene.pth (" in x for x in lines)
