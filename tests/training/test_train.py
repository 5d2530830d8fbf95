"""Training: what it starts from, what it sees, and that stopping it changes nothing."""

import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import demo_config, relative_error

from cdm.datasets import FileReader
from cdm.datasets.base import gravity_rotation
from cdm.datasets.statistics import load_statistics
from cdm.demo import scenes
from cdm.demo.scenes import DemoDataset
from cdm.errors import CDMError, CheckpointError, ConfigError, DataError, NotTrained
from cdm.model.backbones.base import map_tensors
from cdm.model.checkpoint import find_checkpoint, inspect_checkpoint
from cdm.model.state_dict import load_state_dict
from cdm.run.planning import make_plan
from cdm.sampling.diffusion import create_diffusion
from cdm.training.items import (
    TrainingBatch,
    TrainingItems,
    epoch_order,
    read_training_items,
    rotate_about,
)
from cdm.training.train import architecture_to_train, train
from cdm.training.trainer import (
    Trainer,
    _GradientGraph,
    diffusion_loss,
    draw_timesteps,
    learning_rate,
    noising_coefficients,
)

NUM_ITEMS = 6


@pytest.fixture
def few_items(tmp_path, monkeypatch):
    """The demo's training split cut to a few items; outputs go to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    few = range(scenes.TRAIN.start, scenes.TRAIN.start + NUM_ITEMS)
    monkeypatch.setattr(scenes, "TRAIN", few)


def tiny(**training):
    sizes = {"trans_dim": 16, "depth": 1, "last_dim": 8}
    defaults = {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "lr": 1e-3, "ema_decay": None}
    return demo_config(
        exp_name="mine",
        gpu=None,
        model={"time_emb_dim": 16, "arch_pointmamba": sizes},
        training={**defaults, "warmup_steps": 0, **training},
    )


def test_a_stopped_training_goes_on_as_if_nothing_had_happened(few_items, tmp_path, monkeypatch):
    lines = []
    straight = load_state_dict(train(replace(tiny(ema_decay=0.5), exp_name="a"), lines.append))

    class PowerCut(Exception):
        pass

    def cut(self, batch, whole=Trainer.train_step):
        if self.step == 3:
            raise PowerCut
        whole(self, batch)

    stopped = replace(tiny(ema_decay=0.5), exp_name="b")
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


def test_the_loss_falls(few_items):
    trainer = Trainer(tiny(lr=3e-3), architecture_to_train(tiny()), "cpu")
    dataset = DemoDataset(replace(tiny().dataset, phase="train"), "", 3, 0)
    items = read_training_items(dataset, 3, 0, print)
    items.normalise(items.statistics("test"))
    items.encode(lambda texts: torch.zeros(len(texts), 128), "cpu")
    losses = []
    for _ in range(30):
        trainer.train_step(items.batch(0, 4, seed=0))
        losses.append(trainer.recent_loss())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_other_settings_do_not_go_on_from_a_checkpoint(few_items):
    train(tiny(steps=2), lambda line: None)
    wider = tiny()
    sizes = replace(wider.model.arch_pointmamba, trans_dim=32)
    wider = replace(wider, model=replace(wider.model, arch_pointmamba=sizes))
    with pytest.raises(CheckpointError, match=r"is of another training:\n  architecture"):
        train(wider, lambda line: None)
    (path := find_checkpoint("outputs/mine").with_name("training.pt")).write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=f"{path.name}: cannot be read"):
        train(tiny(), lambda line: None)


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


def test_backbones_that_cannot_be_trained_say_so():
    config = tiny()
    other = replace(config, model=replace(config.model, arch="MLP"))
    with pytest.raises(ConfigError, match="expected one of PointMamba"):
        architecture_to_train(other)


def test_loss_is_the_error_of_x_0_at_a_noised_map():
    chain = create_diffusion(100)
    batch = TrainingBatch(torch.randn(3, 5, 2), None, None, None)
    noise, t, seen = torch.randn(3, 5, 2), torch.tensor([0, 50, 99]), {}

    def model(x_t, t, *conditions):
        seen["x_t"] = x_t
        return batch.x_start + 2

    loss = diffusion_loss(model, noising_coefficients(chain, "cpu"), batch, t, noise)
    assert math.isclose(float(loss), 4, rel_tol=1e-6)
    torch.testing.assert_close(seen["x_t"], chain.q_sample(batch.x_start, t, noise))


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_timesteps_are_uniform_or_as_noisy_as_asked(fraction):
    t = draw_timesteps(100_000, 500, fraction, torch.Generator().manual_seed(0))
    assert t.min() == (450 if fraction == 1 else 0) and t.max() == 499
    for low in (450, 475):
        expected = fraction * (500 - low) / 50 + (1 - fraction) * (500 - low) / 500
        assert abs((t >= low).double().mean() - expected) < 0.005


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_trains_like_the_cpu(precision):
    sizes = {"trans_dim": 32, "depth": 2, "last_dim": 8}
    config = demo_config(
        model={"time_emb_dim": 16, "arch_pointmamba": sizes},
        training={"precision": precision, "batch_size": 4},
    )
    generator = torch.Generator().manual_seed(0)
    shapes = {"x_start": (4, 65, 6), "c_text": (4, 128), "c_pc_xyz": (4, 65, 3)}
    batch = [torch.randn(shape, generator=generator) for shape in shapes.values()]
    batch = TrainingBatch(*batch, torch.rand(4, 65, 3, generator=generator))
    t, noise = torch.tensor([1, 500, 900, 999]), torch.randn(4, 65, 6, generator=generator)
    inputs, results = (batch, t, noise), {}
    for device in ("cpu", "cuda"):
        cpu = device == "cpu"
        chosen = replace(config, training=replace(config.training, precision="fp32"))
        trainer = Trainer(chosen if cpu else config, architecture_to_train(config), device)
        gradients = trainer._eager if cpu else _GradientGraph(
            trainer._eager, *map_tensors(torch.Tensor.cuda, inputs)
        )  # fmt: skip
        for shift in (0.5, 0.0):  # a replay takes new inputs and old gradients do not stay
            moved = map_tensors(
                torch.clone, (batch._replace(x_start=batch.x_start + shift), t, noise)
            )
            loss = gradients(*(moved if cpu else map_tensors(torch.Tensor.cuda, moved)))
        results[device] = [loss.detach(), *(p.grad for p in trainer.model.parameters())]
    tolerance = 1e-5 if precision == "fp32" else 0.1
    for a, b in zip(*results.values(), strict=True):
        assert relative_error(b, a) < tolerance


def test_the_learning_rate_warms_up_and_falls():
    settings = tiny(lr=1.0, steps=100, warmup_steps=10, lr_schedule="cosine").training
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) > 0.95 and rates[-1] < 1e-3
    assert learning_rate(replace(settings, lr_schedule="constant"), 99) == 1.0


def test_every_epoch_shows_every_item_once():
    order = epoch_order(7, seed=1, start=0, count=21)
    assert all(sorted(order[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert list(order[5:12]) == list(epoch_order(7, seed=1, start=5, count=7))


def test_batches_turn_items_and_pick_captions():
    points = torch.randn(2, 4, 3)
    items = TrainingItems(points, None, torch.zeros(2, 4, 1), [["a", "b"], ["c"]])
    items.gravity_dim = 2
    items.encode(lambda texts: torch.eye(len(texts)), "cpu")
    batches = [items.batch(step, 2, seed=3) for step in range(20)]
    assert {tuple(row) for b in batches for row in b.c_text.tolist()} == {
        (1, 0, 0), (0, 1, 0), (0, 0, 1)
    }  # fmt: skip
    for batch in batches:
        torch.testing.assert_close(batch.c_pc_xyz[..., 2].sum(), points[..., 2].sum())
    angle = torch.tensor([0.3, -2.0], dtype=torch.float64)
    for dim in range(3):
        turned = rotate_about(points, angle, dim)
        for i in range(2):
            expected = points[i].double() @ torch.from_numpy(
                gravity_rotation(float(angle[i]), dim)[:3, :3].T
            )
            torch.testing.assert_close(turned[i].double(), expected, rtol=1e-6, atol=1e-6)


def test_a_wrong_number_of_points_is_told(few_items):
    config = replace(tiny().dataset, phase="train", num_points=7)
    with pytest.raises(DataError, match=r"num_points is 7, but the demo's items have 1024"):
        read_training_items(DemoDataset(config, "", 3, 0), 3, 0, print)


def test_bad_items_are_left_out_or_end_the_training(few_items, monkeypatch):
    def damaged(self, sample, reader: FileReader, whole=DemoDataset.read_item):
        item = whole(self, sample, reader)
        return item if sample.index != SECOND else replace(item, c_pc_feat=item.c_pc_feat[:, :1])

    config = replace(tiny().dataset, phase="train", captions="all")
    samples = DemoDataset(config, "", 3, 0).samples()
    SECOND = list(dict.fromkeys(s.index for s in samples))[1]
    monkeypatch.setattr(DemoDataset, "read_item", damaged)
    with pytest.raises(DataError, match="has 1 point features, expected 3"):
        read_training_items(DemoDataset(config, "", 3, 0), 3, 0, print)
    lines = []
    skipping = replace(config, on_bad_item="skip")
    items = read_training_items(DemoDataset(skipping, "", 3, 0), 3, 0, lines.append)
    assert len(lines) == 1 and len(items) == len(items.captions) == len(items.contact)
