"""The settings that a model was trained with, as its training recorded them (no torch).

A checkpoint's tensors do not tell the length of the diffusion chain, the sigma of the contact or
the text encoder. Sampled with other ones than it was trained with, a model gives wrong maps without
an error. So `snakemake train` writes them beside its checkpoints, and a plan compares them with the
configuration.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdm.config import Config
from cdm.errors import CheckpointError, ConfigError
from cdm.files import read_bytes, seal, typed, unseal, write_bytes
from cdm.model.point_features import DATASET, PointFeatures

SETTINGS = "training/settings.json"  # in the folder that also holds ckpt/


@dataclass(frozen=True)
class TrainingRecord:
    """What a training recorded of its settings. Keys are those of the configuration.

    Attributes:
        sampling: key -> value of what sampling must have in common with the training.
        training: key -> value of what a training that goes on must keep beside it.
        history: since which step which recipe held: {"step": int, "recipe": key -> value}.
        started_from: path, sha256 and architecture of the checkpoint that it began with
            (`training.init_from`); None if it began with random weights.
    """

    sampling: dict[str, Any]
    training: dict[str, Any]
    history: list[dict[str, Any]]
    started_from: dict[str, Any] | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe that held last."""
        return self.history[-1]["recipe"]


def sampling_settings(config: Config) -> dict[str, Any]:
    """What a model must be sampled with as it was trained: key -> JSON value."""
    dataset, model = config.dataset, config.model
    values = {
        "diffusion.steps": config.diffusion.steps,
        "diffusion.noise_schedule": config.diffusion.noise_schedule,
        "dataset.data_repr": dataset.data_repr,
        "dataset.use_raw_dist": dataset.use_raw_dist,
        "dataset.sigma": dataset.sigma,
        "model.text_model.version": model.text_model.version,
        "model.scene_model.use_scene_model": model.scene_model.use_scene_model,
    }
    if dataset.data_repr == "contact_cont_joints":
        values["dataset.data_repr_joints"] = dataset.data_repr_joints
    if model.text_model.version != "hashing":  # which reads a caption of any length
        values["model.text_model.max_length"] = model.text_model.max_length
    if model.scene_model.use_scene_model:
        values["dataset.use_color"] = dataset.use_color
        from_dataset = PointFeatures.of(config).source == DATASET
        values["model.scene_model.use_openscene"] = from_dataset
    return json.loads(json.dumps(values))


def read_training_record(folder: Path) -> TrainingRecord | None:
    """What the training in an experiment folder recorded; None if it recorded nothing.

    Raises:
        CheckpointError: the record is damaged.
    """
    path = folder / SETTINGS
    try:
        record = typed(TrainingRecord, unseal(read_bytes(path)))
        if not record.history or not isinstance(record.recipe, dict):
            raise ValueError("it tells no recipe")
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not the record of a training ({error}), so the configuration cannot be "
            f"compared with it. Restore it; or, if you know the settings to be right: rm {path}"
        ) from None


def write_training_record(folder: Path, record: TrainingRecord) -> None:
    """Write the record into an experiment folder, sealed."""
    write_bytes(folder / SETTINGS, seal(asdict(record)))


def differences(recorded: dict[str, Any], configured: dict[str, Any]) -> list[str]:
    """Lines `key: X there, Y configured`, for every recorded key that has another value now."""
    return [
        f"{key}: {json.dumps(then)} there, {json.dumps(configured.get(key))} configured"
        for key, then in recorded.items()
        if configured.get(key) != then
    ]


def check_sampled_as_trained(config: Config, folder: Path) -> None:
    """Compare the configuration with what the training in an experiment folder recorded.

    Raises:
        ConfigError: names every key that differs, with both values.
        CheckpointError: the record is damaged.
    """
    record = read_training_record(folder)
    if record is None:
        return
    # A key that only one side has depends on another key that differs and is listed.
    configured = sampling_settings(config)
    common = {key: value for key, value in record.sampling.items() if key in configured}
    found = differences(common, configured)
    if found:
        listed = "".join(f"\n  {line}" for line in found)
        raise ConfigError(
            f"{folder / SETTINGS}: the model was trained with other settings:{listed}\n"
            "Configure the values of the training to sample this model. To train another one, "
            "give a new exp_name"
        )
