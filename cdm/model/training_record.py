"""The settings that a model was trained with, as its training recorded them (no torch).

A checkpoint's tensors do not tell the length of the diffusion chain, the sigma of the contact or
the text encoder. Sampled with other ones than it was trained with, a model gives wrong maps without
an error. `snakemake train` writes them beside its checkpoints, afford-motion's training into its
log. What the user does not set is taken from there, and a plan compares the rest with it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdm.config import DEMO, Config
from cdm.config.layers import typed_value
from cdm.config.reference_keys import DATASETS, H3D_EXAMPLES
from cdm.config.training_log import Training, read_log, read_reference
from cdm.errors import CheckpointError, ConfigError
from cdm.files import read_bytes, seal, typed, unseal, write_bytes
from cdm.model.point_features import DATASET, PointFeatures

SETTINGS = "training/settings.json"  # in the folder that also holds ckpt/
PRETRAINED_WEIGHT = "model.scene_model.pretrained_weight"
INSIST = "--config trust=mine"
OF_CLIPS = ("ContactHumanML3DDataset", H3D_EXAMPLES)  # dataset.name
USUAL_HEADS = 8  # where the configuration has null
HEADS = {
    "Perceiver": (
        "model.arch_perceiver.encoder_num_heads",
        "model.arch_perceiver.decoder_num_heads",
    ),
    "HybridMamba": ("model.arch_hybridmamba.num_heads",),
}


@dataclass(frozen=True)
class TrainingRecord:
    """What a training recorded of its settings. Keys are those of the configuration.

    Attributes:
        sampling: key -> value of what sampling must have in common with the training.
        training: key -> value of what a training that goes on must keep beside it.
        history: since which step which recipe held: {"step": int, "recipe": key -> value}.
        started_from: path, sha256 and architecture of the checkpoint that it began with
            (`training.init_from`); None if it began with random weights.
        scene_model: path and sha256 of the frozen scene model's weights; None if the model was
            trained without it.
        text_probe: what the text encoder makes of a caption (`cdm.model.text_probe`); None if the
            encoder has no weights, or the training is of an earlier version.
    """

    sampling: dict[str, Any]
    training: dict[str, Any]
    history: list[dict[str, Any]]
    started_from: dict[str, Any] | None = None
    scene_model: dict[str, Any] | None = None
    text_probe: list[float] | None = None

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
    if model.arch == "Perceiver":  # what its weights do not tell
        sizes = model.arch_perceiver
        for key in HEADS["Perceiver"]:
            values[key] = getattr(sizes, key.rpartition(".")[2]) or USUAL_HEADS
        if sizes.point_pos_emb is not None:
            values["model.arch_perceiver.point_pos_emb"] = sizes.point_pos_emb
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


def read_trainings(
    folder: str | Path, reference: str | None = None, logs: bool = True
) -> list[Training]:
    """What is known of how a model was trained, the word that counts most first.

    Args:
        folder: that holds ckpt/. Its `training/settings.json` counts before its log.
        reference: a file with the composed configuration of afford-motion.
        logs: whether the folder is an experiment of afford-motion's form.
    Raises:
        ConfigError: a log or the file cannot be read.
        CheckpointError: the record of a training here is damaged.
    """
    found = [read_reference(reference)] if reference is not None else []
    record = read_training_record(Path(folder))
    if record is not None:
        source = str(Path(folder, SETTINGS))
        values = dict(record.sampling)
        if record.training.get("dataset.name") == "ContactMapDataset":
            values["dataset.statistics_sets"] = record.training.get("dataset.sets")
        if record.scene_model is not None:
            values[PRETRAINED_WEIGHT] = record.scene_model["path"]
        return [*found, Training(source, values, dict.fromkeys(values, source))]
    log = read_log(folder) if logs else None
    return [*found, log] if log is not None else found


def check_sampled_as_trained(config: Config, folder: Path) -> None:
    """Compare the configuration with what is known of the model's training.

    Values that the user did not set were taken from there, so what differs was set. With
    `trust: mine` nothing is compared.

    Args:
        folder: that holds ckpt/.
    Raises:
        ConfigError: names every key that differs, with both values and both places.
        CheckpointError: the record of a training here is damaged.
    """
    if config.trust == "mine":
        return
    logs = config.exp_dir not in (None, DEMO)
    for training in read_trainings(folder, config.reference, logs):
        if found := contradictions(config, training):
            listed = "".join(f"\n  {line}" for line in found)
            raise ConfigError(
                f"{training.source}: the model was trained with other settings:{listed}\n"
                "Configure the values of the training to sample this model: what you do not set "
                f"is taken from there. If yours are right: {INSIST}. To train another model, give "
                "a new exp_name"
            )


def check_scene_model_as_trained(
    config: Config, folder: Path, found: dict[str, Any] | None
) -> None:
    """Compare the scene model's weights with those that a training here had, by content.

    Another scene model gives other features, and the model would give wrong maps without an error.
    With `trust: mine` nothing is compared.

    Args:
        folder: that holds ckpt/.
        found: as from `cdm.model.checkpoint.inspect_scene_model`.
    Raises:
        ConfigError: the weights are others; names both files.
        CheckpointError: the record of a training here is damaged.
    """
    if config.trust == "mine":
        return
    record = read_training_record(folder)
    line = scene_model_difference(record.scene_model if record else None, found)
    if line:
        raise ConfigError(
            f"{folder / SETTINGS}: the model was trained with another scene model:\n  {line}\nName "
            f"the weights of the training in {PRETRAINED_WEIGHT}. If yours are right: {INSIST}"
        )


def scene_model_difference(then: dict[str, Any] | None, found: dict[str, Any] | None) -> str:
    """A line that names both files of the scene model's weights; "" if they do not differ.

    Args:
        then: `TrainingRecord.scene_model`; None if nothing is known of it.
        found: as from `cdm.model.checkpoint.inspect_scene_model`.
    """
    if not then or not found or then["sha256"] == found["sha256"]:
        return ""
    was, now = (f"{file['path']} (sha256 {file['sha256'][:12]})" for file in (then, found))
    return f"{PRETRAINED_WEIGHT}: {was} there, {now} configured"


def contradictions(config: Config, training: Training) -> list[str]:
    """One line for each key that has another value than in the training, with both places."""
    places = config.provenance.places if config.provenance else {}
    configured = configured_as_trained(config, training)
    # A key that only one side has depends on another key that differs and is listed.
    found = [
        f"{line} ({places.get(key, 'your configuration')}; there: {place})"
        for key, (value, place) in _told(training).items()
        if key in configured
        for line in differences({key: typed_value(key, value)}, configured)
    ]
    return found + _other_statistics(config, training)


def _other_statistics(config: Config, training: Training) -> list[str]:
    """A line where the file of statistics would be looked for under the name of other data.

    afford-motion names it by the sets, or H3D, that the model was trained on.
    """
    trained_on, sampled = training.trained_on, config.dataset.name
    if trained_on not in (*DATASETS, H3D_EXAMPLES) or config.dataset.statistics is not None:
        return []
    if (trained_on in OF_CLIPS) == (sampled in OF_CLIPS):
        return []
    return [
        f"dataset.name: {trained_on} there, {sampled} configured, so that mean and std would be "
        "those of other data than the model's: name its file Mean_Std_*.npz in dataset.statistics "
        f"({training.places['dataset.name']})"
    ]


def configured_as_trained(config: Config, training: Training) -> dict[str, Any]:
    """`sampling_settings`, and the attention heads of the backbone that was trained."""
    configured = sampling_settings(config)
    for key in HEADS.get(str(training.values.get("model.arch")), ()):
        *_, section, name = key.split(".")
        heads = getattr(getattr(config.model, section), name)
        configured[key] = USUAL_HEADS if heads is None else heads
    return configured


def _told(training: Training) -> dict[str, tuple[Any, str]]:
    """Key -> (value, place) of a training, where null stands for the value of another key."""
    told = {key: (value, training.places[key]) for key, value in training.values.items()}
    openscene = "model.scene_model.use_openscene"
    if told.get(openscene, (None,))[0] is None and "dataset.use_openscene" in told:
        told[openscene] = told["dataset.use_openscene"]
    return told
