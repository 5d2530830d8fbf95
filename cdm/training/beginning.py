"""What a training begins with: an architecture, and random weights or those of a checkpoint."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdm.commands.config_files import DEMO_DEFAULTS, read_config
from cdm.config import DEMO, Config
from cdm.config.layers import typed_value
from cdm.errors import CheckpointError, ConfigError, NoCheckpoint
from cdm.model.architecture import Architecture
from cdm.model.backbones import BACKBONES, load_backbone
from cdm.model.checkpoint import find_checkpoint, inspect_checkpoint
from cdm.model.point_features import check_configuration, dim_to_train
from cdm.model.state_dict import load_state_dict
from cdm.model.text_weights import HASHING_FEAT_DIM, TEXT_FEAT_DIMS
from cdm.model.training_record import (
    differences,
    read_training_record,
    read_trainings,
    sampling_settings,
    scene_model_difference,
)
from cdm.sampling.diffusion import GaussianDiffusion, create_diffusion

TIME_EMB_DIM = 128  # if the configuration has null
CHAIN = ("diffusion.steps", "diffusion.noise_schedule")


@dataclass(frozen=True)
class Beginning:
    """What a training begins with.

    Attributes:
        architecture: of the model.
        path, sha256: the checkpoint whose weights it begins with; None for random weights.
        trained_with: settings that this checkpoint was trained with, as far as they are known,
            by the keys of `sampling_settings`.
        scene_model: path and sha256 of the scene model that it was trained with, if its training
            recorded them.
    """

    architecture: Architecture
    path: str | None = None
    sha256: str | None = None
    trained_with: dict[str, Any] | None = None
    scene_model: dict[str, Any] | None = None

    def record(self) -> dict[str, Any] | None:
        """`TrainingRecord.started_from`."""
        return None if self.path is None else asdict(self)


def find_beginning(config: Config) -> Beginning:
    """What the training of a configuration begins with, or what it began with.

    A training that was started needs the checkpoint no more: its own record tells the rest.

    Raises:
        ConfigError: this version does not train the backbone, or settings contradict each other.
        CheckpointError: `training.init_from` cannot be read, or contradicts the configuration.
    """
    check_configuration(config)
    if config.training.init_from is None:
        return Beginning(architecture_to_train(config))
    folder = Path(config.run_dir)
    record = read_training_record(folder)
    if record and record.started_from and (folder / "ckpt" / "training.pt").exists():
        kept = dict(record.started_from)
        return Beginning(Architecture(**kept.pop("architecture")), **kept)
    path, experiment = _find_weights(config.training.init_from)
    try:
        checkpoint = inspect_checkpoint(path, config)
    except CheckpointError as error:
        raise CheckpointError(f"training.init_from: {error}") from None
    _check_trained_here(checkpoint.architecture.arch, config)
    trained_with = _trained_with(experiment, config) if experiment else {}
    recorded = experiment is not None and experiment != Path(DEMO)
    told = read_training_record(experiment) if experiment is not None and recorded else None
    scene_model = told.scene_model if told else None
    return Beginning(
        checkpoint.architecture, str(path), checkpoint.sha256, trained_with, scene_model
    )


def architecture_to_train(config: Config) -> Architecture:
    """The architecture that section `model` describes, with afford-motion's sizes for null.

    Raises:
        ConfigError: this version samples the backbone, but does not train it; or sizes contradict
            each other, or are of no model.
    """
    model = config.model
    if model.time_emb_dim is not None and model.time_emb_dim % 2:
        raise ConfigError(
            f"model.time_emb_dim is {model.time_emb_dim}, expected an even number: half of the "
            f"columns are sines, half cosines; set {model.time_emb_dim + 1}, or null"
        )
    arch = model.arch or "PointMamba"
    _check_trained_here(arch, config)
    sizes, last_dim = load_backbone(arch).sizes_to_train(model)
    version = model.text_model.version
    return Architecture(
        arch=arch,
        contact_dim=config.dataset.contact_dim,
        time_emb_dim=model.time_emb_dim or TIME_EMB_DIM,
        text_feat_dim=TEXT_FEAT_DIMS.get(version, HASHING_FEAT_DIM),
        point_feat_dim=dim_to_train(config),
        last_dim=last_dim,
        sizes=sizes,
    )


def check_batches(config: Config, architecture: Architecture) -> None:
    """Refuse batches that are too small to train a backbone.

    Raises:
        ConfigError: says what to set.
    """
    num_points, batch_size = config.dataset.num_points, config.training.batch_size
    backbone = load_backbone(architecture.arch)
    problem = backbone.training_problem(architecture, num_points, batch_size)
    if problem:
        raise ConfigError(problem)


def dropout_to_train(config: Config, arch: str) -> float:
    """Share that training drops where afford-motion does; 0 for a backbone without dropout.

    Raises:
        ConfigError: the configuration asks a backbone for it that has none.
    """
    usual, asked = load_backbone(arch).dropout, config.training.dropout
    if usual is None and asked:
        raise ConfigError(
            f"training.dropout is {asked}, but {arch} has no dropout: set training.dropout: null"
        )
    return (usual or 0.0) if asked is None else asked


def initial_weights(beginning: Beginning, config: Config) -> dict[str, torch.Tensor]:
    """The weights of the checkpoint that a training begins with.

    If the checkpoint's chain is known and is another one, the rows of the time table are moved:
    the model is told of each step what it was told of the step with the same noise. Other chains
    number the same noise differently, and it would take training to learn the new numbers.

    Raises:
        CheckpointError: the file changed since the training was started, or cannot be read.
    """
    assert beginning.path is not None, "a beginning with weights"
    state = load_state_dict(Path(beginning.path), beginning.sha256)
    chains: Any = ([told.get(key) for key in CHAIN] for told in _settings(beginning, config))
    then, now = chains
    if None not in then and then != now:
        rows = same_noise(create_diffusion(*then), create_diffusion(*now))
        table = state["timestep_embedder.pe"]
        state["timestep_embedder.pe"] = table.clone()
        state["timestep_embedder.pe"][: len(rows)] = table[torch.from_numpy(rows)]
    return state


def describe_beginning(
    beginning: Beginning, config: Config, scene_weights: dict[str, Any] | None = None
) -> list[str]:
    """Lines for the log: the checkpoint, and which settings it was trained with that differ.

    Args:
        scene_weights: as from `inspect_scene_model`.
    """
    lines = [f"training.init_from: begins with {beginning.path} ({(beginning.sha256 or '')[:12]})"]
    then, now = _settings(beginning, config)
    changes = differences({key: value for key, value in then.items() if key in now}, now)
    changes += filter(None, [scene_model_difference(beginning.scene_model, scene_weights)])
    lines += [f"training.init_from: {change}" for change in changes]
    if not set(CHAIN) <= then.keys():
        lines.append(
            "training.init_from: nothing tells the chain that it was trained with; it is taken "
            f"for the configured one ({now[CHAIN[0]]} steps, {now[CHAIN[1]]})"
        )
    elif any(then[key] != now[key] for key in CHAIN):
        lines.append(
            "training.init_from: each step takes the time embedding of the step with the same "
            "noise in that chain"
        )
    return lines


def same_noise(then: GaussianDiffusion, now: GaussianDiffusion) -> np.ndarray:
    """For each step of the chain `now`, the step of `then` with the nearest log SNR: int64."""
    of_then, of_now = (
        np.log(chain.alphas_cumprod / (1 - chain.alphas_cumprod)) for chain in (then, now)
    )
    return np.abs(of_now[:, None] - of_then).argmin(axis=1)


def _settings(beginning: Beginning, config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the checkpoint, as far as they are known, and those of this training."""
    return beginning.trained_with or {}, sampling_settings(config)


def _check_trained_here(arch: str, config: Config) -> None:
    """Refuse a backbone that this version does not train."""
    backbones = {name: load_backbone(name) for name in BACKBONES}
    if arch in backbones and backbones[arch].trained:
        return
    able = ", ".join(name for name, backbone in backbones.items() if backbone.trained)
    what = "is sampled but not trained by this version" if arch in backbones else "is not known"
    raise ConfigError(f"model.arch {arch} {what}, expected one of {able}")


def _find_weights(init_from: str) -> tuple[Path, Path | None]:
    """The file of weights that `training.init_from` names, and the experiment that it lies in."""
    if init_from != DEMO and (init_from.endswith((".pt", ".pth")) or os.path.isfile(init_from)):
        path = Path(init_from)
        return path, path.parents[1] if path.parent.name == "ckpt" else None
    try:
        path = find_checkpoint(init_from)
    except NoCheckpoint as error:
        found = str(error).partition(". Give ")[0]
        raise CheckpointError(
            f"training.init_from is {init_from}: {found}. Name a .pt file, an experiment folder "
            "with ckpt/model*.pt in it, or demo"
        ) from None
    return path, Path(DEMO) if init_from == DEMO else path.parents[1]


def _trained_with(experiment: Path, config: Config) -> dict[str, Any]:
    """What an experiment tells of its training, of the keys of `sampling_settings`."""
    if experiment == Path(DEMO):
        return sampling_settings(read_config([DEMO_DEFAULTS], []))
    wanted = sampling_settings(config)
    return {
        key: typed_value(key, value)
        for training in read_trainings(experiment)[:1]
        for key, value in training.values.items()
        if key in wanted
    }
