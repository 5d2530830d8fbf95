"""How a training is named by its settings, and what may change while it goes on (no torch).

The file that `snakemake train` has to write is named by the settings. With other settings that
file is not there, so the job starts, and either goes on or says why it does not.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cdm.config import Config
from cdm.datasets import Sample, dataset_class
from cdm.errors import CDMError, CheckpointError
from cdm.files import digest, read_bytes, seal, unseal, write_bytes
from cdm.model.point_features import SCENE_MODEL, PointFeatures
from cdm.model.text_probe import probe_difference
from cdm.model.training_record import (
    PRETRAINED_WEIGHT,
    SETTINGS,
    TrainingRecord,
    differences,
    read_training_record,
    sampling_settings,
    scene_model_difference,
    write_training_record,
)
from cdm.run.dataset import open_dataset

# A finished training may be given more steps; when models are written decides no number.
MAY_CHANGE_AT_THE_END = {"training.steps"}
DECIDES_NOTHING = {"checkpoint_every"}
# Keys that earlier versions did not record, with the value that says what they did. With this value
# a key changes neither the name of a finished training's record nor what may go on.
ADDED_LATER = {"training.init_from": None, "training.dropout": None, "dataset.transforms": None}
NOT_TOLD_EARLIER = {"dataset.transforms"}  # a record without it does not say what they did


def training_settings(config: Config) -> dict[str, Any]:
    """What must not change while a training goes on, beside `sampling_settings`: key -> value."""
    dataset, model = config.dataset, asdict(config.model)
    values = {
        "seed": config.seed,
        "dataset.name": dataset.name,
        "dataset.sets": list(dataset.sets),
        "dataset.num_points": dataset.num_points,
        "dataset.transforms": _transforms(config),
        "model.arch": config.model.arch,
        "model.time_emb_dim": config.model.time_emb_dim,
        "model.scene_model.point_feat_dim": config.model.scene_model.point_feat_dim,
        "training.ema_decay": config.training.ema_decay,
        "training.init_from": config.training.init_from,
    }
    for section, sizes in model.items():
        if section.startswith("arch_"):
            values |= {f"model.{section}.{key}": value for key, value in sizes.items()}
    # What is compared there must not be compared here: a null that has a meaning is resolved there,
    # and the next run takes the resolved value from the record.
    beside = values.keys() - sampling_settings(config).keys()
    values = {key: value for key, value in values.items() if key in beside}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def _transforms(config: Config) -> list[str] | None:
    """How items are turned; None for what afford-motion does with the dataset."""
    asked = config.dataset.transforms
    usual = dataset_class(config.dataset.name).default_transforms
    return None if asked is None or tuple(asked) == usual else list(asked)


def recipe(config: Config) -> dict[str, Any]:
    """What may change while a training is not finished, such as the learning rate: key -> value."""
    return {
        f"training.{key}": value
        for key, value in asdict(config.training).items()
        if key not in DECIDES_NOTHING | {"ema_decay", "init_from"}
    }


def changes_since(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`differences`, also from a record of an earlier version, which lacks some keys."""
    told = ADDED_LATER.keys() - NOT_TOLD_EARLIER
    added = {key: ADDED_LATER[key] for key in told & now.keys()}
    return differences(added | recorded, now)


def _base(config: Config) -> str:
    """A key of everything that decides the weights of a finished training."""
    parts = [sampling_settings(config), training_settings(config), recipe(config)]
    if PointFeatures.of(config).source == SCENE_MODEL:
        path = os.path.normpath(config.model.scene_model.pretrained_weight or "")
        parts.append({PRETRAINED_WEIGHT: path})
    kept = [
        {k: v for k, v in part.items() if k not in ADDED_LATER or ADDED_LATER[k] != v}
        for part in parts
    ]
    return digest(kept)


def finished_path(config: Config) -> Path:
    """The record that a training with these settings writes when it is finished.

    It has another name if the model that it tells of is no longer there: then the training writes
    the model again.
    """
    folder = Path(config.run_dir, "training")
    base = _base(config)
    stale = []
    for path in sorted(folder.glob("finished-*.json")):
        try:
            content = unseal(read_bytes(path))
            same, model = content["base"] == base, Path(config.run_dir, "ckpt", content["model"])
        except (OSError, ValueError, KeyError, TypeError):
            same, model = path.stem == f"finished-{base}", None
        if same and model and model.exists():
            return path
        stale += [path.name] if same else []
    return folder / f"finished-{digest([base, stale]) if stale else base}.json"


def write_finished(path: Path, config: Config, model: Path, listing: str | None = None) -> None:
    """Write the record of a finished training in place of older ones.

    Args:
        path: `finished_path`, as it was when the training began.
        model: the last model that it wrote.
        listing: `listing_digest` of what it trained on; None to compare it with nothing later.
    """
    base = _base(config)
    for old in path.parent.glob("finished-*.json"):
        if old != path:
            old.unlink()
    write_bytes(path, seal({"base": base, "model": model.name, "index": listing}))


def listing_digest(samples: Iterable[Sample]) -> str:
    """A digest of the items and captions that a split lists."""
    return digest([[s.set, s.index, s.caption_idx, s.text] for s in samples])


def changed_since_finished(config: Config) -> str | None:
    """What to say of a finished training whose split lists others now; None if it does not.

    Without the data, or with a record of an earlier version, nothing is said. No item is read.
    """
    split = replace(config.dataset, phase="train", captions="all", max_items=None)
    try:
        then = unseal(read_bytes(finished_path(config))).get("index")
        if then is None:
            return None
        dataset = open_dataset(replace(config, dataset=split), 0)
        if then == listing_digest(dataset.samples()):
            return None
    except (OSError, ValueError, CDMError):
        return None
    return (
        f"{config.run_dir}/training: this training is finished, and its items or captions were "
        "others than the training split lists now. To train on those, give a new exp_name with "
        f"training.init_from: {config.run_dir}"
    )


def check_may_go_on(config: Config) -> None:
    """Compare the settings with those of the training that lies in the run's folder, if any.

    Raises:
        CheckpointError: it is another training, or a finished one with another recipe; there are
            models without the state to go on from; or more steps are done than configured.
    """
    folder = Path(config.run_dir)
    record = read_training_record(folder)
    state = folder / "ckpt" / "training.pt"
    models = sorted(path.name for path in folder.glob("ckpt/model*.pt"))
    anew = _anew(folder)
    if models and not state.exists():
        raise CheckpointError(
            f"{folder}/ckpt: holds {models[-1]} but no training.pt to go on from. {anew}"
        )
    if record is None or not state.exists():
        return
    found = differences(record.sampling, sampling_settings(config))
    found += changes_since(record.training, training_settings(config))
    finished = [*folder.glob("training/finished-*.json")]
    if finished:
        settled = {k: v for k, v in record.recipe.items() if k not in MAY_CHANGE_AT_THE_END}
        found += changes_since(settled, recipe(config))
    if found:
        listed = "".join(f"\n  {line}" for line in found)
        what = "a finished training" if finished else "another training"
        raise CheckpointError(
            f"{folder / SETTINGS}: {folder}/ckpt is of {what}:{listed}\nRestore these settings to "
            f"go on. {anew}"
        )


def check_same_scene_model(config: Config, found: dict[str, Any] | None) -> None:
    """Compare the scene model's weights with those of the training that lies in the run's folder.

    The file may move while a training goes on; its content may not change.

    Args:
        found: as from `cdm.model.checkpoint.inspect_scene_model`.
    Raises:
        CheckpointError: the weights are others.
    """
    folder = Path(config.run_dir)
    if not (folder / "ckpt" / "training.pt").exists():
        return
    record = read_training_record(folder)
    line = scene_model_difference(record.scene_model if record else None, found)
    if line:
        raise CheckpointError(
            f"{folder / SETTINGS}: {folder}/ckpt is of a training with another scene model:\n  "
            f"{line}\nName the weights of that training to go on. {_anew(folder)}"
        )


def check_same_encoder(config: Config, now: list[float] | None) -> None:
    """Compare the text encoder with that of the training that lies in the run's folder.

    Args:
        now: as from `cdm.model.text_probe.probe_of`.
    Raises:
        CheckpointError: it is another one.
    """
    folder = Path(config.run_dir)
    record = read_training_record(folder)
    if record is None or not (folder / "ckpt" / "training.pt").exists():
        return
    problem = probe_difference(record.text_probe, now)
    if problem:
        raise CheckpointError(
            f"{folder / SETTINGS}: {folder}/ckpt is of a training with another text encoder: "
            f"{problem}. Name the folder of that encoder in model.text_model.path to go on. "
            f"{_anew(folder)}"
        )


def _anew(folder: Path) -> str:
    return (
        "Give a new exp_name to train another model (with training.init_from: "
        f"{folder} it begins with the newest one of here); or, to train from the start here: "
        f"rm -rf {folder}/ckpt {folder}/training {folder}/Mean_Std_*.npz"
    )


def record_settings(
    config: Config,
    step: int,
    started_from: dict[str, Any] | None = None,
    scene_model: dict[str, Any] | None = None,
    text_probe: list[float] | None = None,
) -> list[str]:
    """Write down the settings with which a training begins or goes on, at a step.

    Args:
        started_from, scene_model, text_probe: as in `TrainingRecord`.
    Returns:
        Lines that tell which part of the recipe is new since then.
    """
    folder, now = Path(config.run_dir), recipe(config)
    settings = sampling_settings(config), training_settings(config)
    record = TrainingRecord(*settings, [], started_from, scene_model, text_probe)
    before = read_training_record(folder) if step else None
    history = before.history if before else []
    changes = changes_since(history[-1]["recipe"], now) if history else []
    if changes or not history:
        history = [*history, {"step": step, "recipe": now}]
    write_training_record(folder, replace(record, history=history))
    return changes
