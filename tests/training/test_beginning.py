"""What a training begins with: sizes and weights, from the configuration or from a checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DEMO_ARCHITECTURE, REPO, demo_config
from training_logs import composed, write_log
from trainings import TINY, tiny

from cdm.commands.config_files import read_config
from cdm.errors import CheckpointError, ConfigError
from cdm.model.backbones import BACKBONES, load_backbone
from cdm.model.checkpoint import DEMO_EXP_DIR, expected_shapes
from cdm.model.state_dict import load_state_dict
from cdm.model.training_record import (
    TrainingRecord,
    read_training_record,
    sampling_settings,
    write_training_record,
)
from cdm.sampling.diffusion import create_diffusion
from cdm.training.beginning import (
    architecture_to_train,
    check_batches,
    describe_beginning,
    dropout_to_train,
    find_beginning,
    initial_weights,
    same_noise,
)
from cdm.training.initial_weights import write_checkpoint
from cdm.training.record import check_may_go_on
from cdm.training.train import train

DEMO_WEIGHTS = DEMO_EXP_DIR / "ckpt/model018500.pt"


# ---- sizes ----


@pytest.mark.parametrize(
    ("arch", "case", "features"),
    [
        ("Perceiver", "04b_perceiver_default", 0),
        ("MLP", "05b_mlp_default", 32),
        ("PointTrans", "06_pointtrans", 0),
        ("PointTransV2", "06b_pointtransv2", 0),
    ],
)
def test_sizes_that_are_null_are_afford_motions(parity, arch, case, features):
    recipe = json.loads((parity / case / "weights_recipe.json").read_text())
    theirs = {tensor["key"]: tuple(tensor["shape"]) for tensor in recipe["tensors"]}
    scene_model = {"use_scene_model": features > 0, "point_feat_dim": features or None}
    text_model = {"version": "ViT-B/32"}
    config = demo_config(model={"arch": arch, "scene_model": scene_model, "text_model": text_model})
    ours = expected_shapes(architecture_to_train(config))
    rows = "timestep_embedder.pe"  # afford-motion keeps a longer table of them
    assert ours.pop(rows)[1:] == theirs.pop(rows)[1:]
    assert ours == theirs


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"time_emb_dim": 15}, "time_emb_dim is 15, expected an even number.*set 16"),
        (
            {"arch": "perceiver"},
            "arch perceiver is not known, expected one of PointMamba, HybridMamba, Perceiver, MLP, "
            "PointTrans, PointTransV2",
        ),
    ],
)
def test_models_that_cannot_be_trained_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        architecture_to_train(tiny({"model": model}))


def test_widths_that_follow_from_others_follow_them():
    sizes = {"encoder_q_input_channels": 24, "decoder_q_input_channels": 16}
    found = architecture_to_train(tiny({"model": {"arch_perceiver": sizes}}, arch="Perceiver"))
    assert found.last_dim == 16 and found.sizes["decoder_kv_input_channels"] == 24
    assert architecture_to_train(tiny(arch="MLP")).last_dim == 10
    assert architecture_to_train(tiny(arch="PointTrans")).sizes["planes"] == [8, 16, 32, 64]
    hybrid = tiny({"model": {"arch_hybridmamba": {"use_perceiver": False}}}, arch="HybridMamba")
    sizes = architecture_to_train(hybrid).sizes
    assert (sizes["d_inner"], sizes["dt_rank"]) == (32, 1) and "num_heads" not in sizes


@pytest.mark.parametrize(
    ("arch", "sizes", "problem"),
    [
        ("Perceiver", {"last_dim": 9}, r"last_dim is 9, but the other sizes make it 8"),
        ("Perceiver", {"decoder_kv_input_channels": 9}, r"decoder_kv_input_channels is 9.* it 16"),
        ("Perceiver", {"encoder_num_heads": 5}, r"encoder_num_heads is 5, which does not divide"),
        ("MLP", {"last_dim": 9}, r"last_dim is 9 and point_mlp_dims is \[12, 10\]"),
        ("MLP", {"point_mlp_dims": []}, r"one stage or more"),
        ("HybridMamba", {"num_heads": 5}, r"num_heads is 5, which does not divide trans_dim 16"),
        ("PointTrans", {"last_dim": 12}, r"last_dim is 12, expected a multiple of 8"),
        ("PointTransV2", {"blocks": [2, 2]}, r"blocks is \[2, 2\], expected 4 numbers"),
    ],
)
def test_sizes_of_which_no_model_can_be_made_are_refused(arch, sizes, problem):
    config = tiny({"model": {load_backbone(arch).section: sizes}}, arch=arch)
    with pytest.raises(ConfigError, match=problem):
        architecture_to_train(config)


def test_a_backbone_that_is_not_trained_says_so(monkeypatch):
    assert {arch for arch in BACKBONES if load_backbone(arch).trained} == set(TINY)
    monkeypatch.setattr(load_backbone("HybridMamba"), "trained", False)
    expected = "HybridMamba is sampled but not trained .* one of PointMamba, Perceiver, MLP, PointT"
    with pytest.raises(ConfigError, match=expected):
        architecture_to_train(tiny(arch="HybridMamba"))


@pytest.mark.parametrize("arch", ["PointTrans", "PointTransV2"])
def test_a_batch_that_leaves_one_value_to_a_batch_norm_says_what_to_set(arch):
    def check(num_points, batch_size):
        config = tiny({"dataset": {"num_points": num_points}}, arch=arch, batch_size=batch_size)
        check_batches(config, architecture_to_train(config))

    check(128, 1)
    check(1, 2)
    with pytest.raises(ConfigError) as error:
        check(127, 1)
    assert "127 points leave 1 point at the coarsest level" in str(error.value)
    assert "set training.batch_size: 2 or more, or dataset.num_points: 128" in str(error.value)


def test_other_backbones_are_trained_on_one_item_of_one_point():
    for arch in {*TINY} - {"PointTrans", "PointTransV2"}:
        config = tiny({"dataset": {"num_points": 1}}, arch=arch, batch_size=1)
        check_batches(config, architecture_to_train(config))


def test_dropout_is_afford_motions_unless_told_and_only_where_there_is_one():
    assert dropout_to_train(tiny(), "Perceiver") == 0.1
    assert dropout_to_train(tiny(), "PointTransV2") == 0.1
    assert dropout_to_train(tiny(dropout=0.0), "Perceiver") == 0
    assert dropout_to_train(tiny(), "MLP") == dropout_to_train(tiny(dropout=0.0), "MLP") == 0
    with pytest.raises(ConfigError, match=r"training\.dropout is 0\.2, but PointMamba has no dro"):
        dropout_to_train(tiny(dropout=0.2), "PointMamba")


# ---- weights of a checkpoint ----


@pytest.mark.parametrize("init_from", ["demo", str(DEMO_EXP_DIR), str(DEMO_WEIGHTS)])
def test_a_training_begins_with_a_checkpoint_and_its_sizes(tmp_path, monkeypatch, init_from):
    monkeypatch.chdir(tmp_path)
    config = demo_config(exp_name="mine", training={"init_from": init_from})
    beginning = find_beginning(config)
    assert beginning.architecture == DEMO_ARCHITECTURE
    assert Path(beginning.path).samefile(DEMO_WEIGHTS)
    expected, found = load_state_dict(DEMO_WEIGHTS), initial_weights(beginning, config)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_the_newest_checkpoint_of_a_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (9, 10):
        write_checkpoint(Path(f"other/ckpt/model{number}.pt"), architecture_to_train(tiny()))
    assert find_beginning(tiny(init_from="other")).path == "other/ckpt/model10.pt"


def test_weights_that_do_not_fit_are_refused_with_their_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"arch": "Perceiver", "arch_pointmamba": {"depth": 2}, "time_emb_dim": 64}
    config = demo_config(model=sizes, training={"init_from": "demo"})
    with pytest.raises(CheckpointError, match=r"training\.init_from: .*model018500\.pt") as error:
        find_beginning(config)
    for line in (
        "model.arch is Perceiver, the weights have PointMamba",
        "model.arch_pointmamba.depth is 2, the weights have 6",
        "model.time_emb_dim is 64, the weights have 96",
    ):
        assert line in str(error.value)


@pytest.mark.parametrize(
    ("init_from", "problem"),
    [
        ("nowhere", r"init_from is nowhere: .*no such folder.* Name a \.pt"),
        ("a.pt", "No such file"),
    ],
)
def test_weights_that_are_not_there_are_told(tmp_path, monkeypatch, init_from, problem):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=problem):
        find_beginning(tiny(init_from=init_from))


def test_each_step_takes_the_embedding_of_the_step_with_the_same_noise():
    """A chain of half the steps visits every other noise level of the whole one."""
    whole, half = create_diffusion(1000), create_diffusion(500)
    rows = same_noise(whole, half)
    assert np.abs(rows[:490] - (2 * np.arange(490) + 1)).max() == 0
    assert rows[-1] == 999 and np.array_equal(same_noise(half, half), np.arange(500))

    config = demo_config(diffusion={"steps": 500}, training={"init_from": "demo"})
    beginning = find_beginning(config)
    table = load_state_dict(DEMO_WEIGHTS)["timestep_embedder.pe"]
    found = initial_weights(beginning, config)["timestep_embedder.pe"]
    assert torch.equal(found[:500], table[torch.from_numpy(rows)])
    lines = describe_beginning(beginning, config)
    assert any("diffusion.steps: 1000 there, 500 configured" in line for line in lines)
    assert "same noise" in lines[-1]


@pytest.mark.parametrize("told_by", ["record", "log"])
def test_the_chain_is_the_one_that_the_experiment_tells(tmp_path, monkeypatch, told_by):
    monkeypatch.chdir(tmp_path)
    there = tiny({"diffusion": {"steps": 400}})
    write_checkpoint(Path("other/ckpt/model000009.pt"), architecture_to_train(there))
    if told_by == "record":
        record = TrainingRecord(sampling_settings(there), {}, [{"step": 0, "recipe": {}}])
        write_training_record(Path("other"), record)
    else:
        write_log(Path("other"), composed(diffusion__steps=400))
    config = tiny({"diffusion": {"steps": 200}}, init_from="other")
    beginning = find_beginning(config)
    assert beginning.trained_with["diffusion.steps"] == 400
    table = load_state_dict(Path("other/ckpt/model000009.pt"))["timestep_embedder.pe"]
    found = initial_weights(beginning, config)["timestep_embedder.pe"]
    assert torch.equal(found[:190], table[1:380:2]) and torch.equal(found[200:], table[200:])


def test_a_checkpoint_that_does_not_tell_its_chain_is_said_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(load_state_dict(DEMO_WEIGHTS), "alone.pt")
    config = demo_config(diffusion={"steps": 500}, training={"init_from": "alone.pt"})
    beginning = find_beginning(config)
    assert "nothing tells the chain" in describe_beginning(beginning, config)[-1]
    table = load_state_dict(DEMO_WEIGHTS)["timestep_embedder.pe"]
    assert torch.equal(initial_weights(beginning, config)["timestep_embedder.pe"], table)


@pytest.mark.parametrize("arch", ["HybridMamba", "MLP", "PointTrans", "PointTransV2"])
def test_the_other_backbones_of_the_study_of_precision_can_be_trained(tmp_path, monkeypatch, arch):
    monkeypatch.chdir(tmp_path)
    files = [REPO / f"benchmarks/few_steps/{name}.yaml" for name in ("backbones", arch.lower())]
    config = read_config(files, ["training={steps: 7}"])
    architecture = find_beginning(config).architecture
    assert (architecture.arch, architecture.point_feat_dim) == (arch, 3)
    assert config.exp_dir == config.run_dir and config.is_demo_data
    assert (config.training.steps, config.diffusion.steps) == (7, 500)
    assert config.training.batch_size >= 64  # the override keeps the rest


@pytest.mark.parametrize("name", ["points_8192", "perceiver"])
def test_the_configurations_of_the_few_steps_study_can_be_trained(tmp_path, monkeypatch, name):
    """And they are sampled from where their training writes."""
    monkeypatch.chdir(tmp_path)
    files = [REPO / f"benchmarks/few_steps/{name}.yaml", REPO / "config/fast.yaml"]
    config = read_config(files, [])
    architecture = find_beginning(config).architecture
    assert architecture.arch == config.model.arch and architecture.point_feat_dim == 3
    perceiver = load_backbone("Perceiver").defaults
    expected = (
        DEMO_ARCHITECTURE.sizes | {"last_dim": 96} if config.training.init_from else perceiver
    )
    assert architecture.sizes | {"last_dim": architecture.last_dim} == expected
    assert (
        config.exp_dir == config.run_dir and config.is_demo_data and config.diffusion.steps == 500
    )


def test_a_started_training_needs_the_checkpoint_no_more_and_takes_no_other(few_items):
    """It goes on as an undisturbed one does, and its record tells what it began with."""
    first, lines = Path("first/ckpt/model000001.pt"), []
    write_checkpoint(first, architecture_to_train(tiny()), seed=5)
    straight = train(replace(tiny(init_from="first"), exp_name="a"), lines.append)
    assert any(f"begins with {first} (" in line for line in lines)

    # Stopped, and its checkpoint removed.
    half = replace(tiny(init_from="first", steps=2), exp_name="b")
    train(half, lambda line: None)
    sha256 = read_training_record(Path("outputs/b")).started_from["sha256"]
    first.unlink()
    resumed = train(replace(tiny(init_from="first"), exp_name="b"), lines.append)
    expected, found = load_state_dict(straight), load_state_dict(resumed)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert read_training_record(Path("outputs/b")).started_from["sha256"] == sha256

    # Another beginning is another training.
    for init_from in ("demo", None):
        with pytest.raises(CheckpointError, match=r'init_from: "first" there, .* config'):
            check_may_go_on(replace(tiny(init_from=init_from), exp_name="b"))
