"""The configuration: a validated mapping turned into frozen dataclasses.

`config/config.yaml` holds every key with its default, `config/schema.yaml` every type, unit and
permitted value. Nothing is filled in silently: a missing or unknown key is an error.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from cdm.errors import ConfigError

DEMO = "demo"
SCHEMA = Path(__file__).parents[1] / "config" / "schema.yaml"


@dataclass(frozen=True)
class DatasetConfig:
    """Section `dataset`; the schema describes each key."""

    name: str
    data_dir: str | None
    phase: str
    sets: tuple[str, ...]
    sets_config: dict[str, dict[str, bool]]
    data_repr: str
    data_repr_joints: tuple[int, ...]
    use_raw_dist: bool
    sigma: float
    num_points: int
    use_color: bool
    use_openscene: bool
    transforms: tuple[str, ...] | None
    captions: str
    statistics: str | None
    on_bad_item: str
    min_horizon: int
    max_horizon: int

    @property
    def contact_dim(self) -> int:
        """Joints per point, J."""
        joints = {"contact_cont_joints": len(self.data_repr_joints), "contact_all_joints": 22}
        return joints.get(self.data_repr, 1)


@dataclass(frozen=True)
class TextModelConfig:
    """Section `model.text_model`."""

    version: str
    max_length: int | None
    path: str | None


@dataclass(frozen=True)
class SceneModelConfig:
    """Section `model.scene_model`."""

    name: str
    use_scene_model: bool
    use_color: bool | None
    use_openscene: bool | None
    num_points: int | None
    point_feat_dim: int | None
    pretrained_weight: str | None
    freeze: bool


@dataclass(frozen=True)
class PointMambaConfig:
    """Section `model.arch_pointmamba`; null sizes are read off the weights."""

    trans_dim: int | None
    depth: int | None
    last_dim: int | None


@dataclass(frozen=True)
class HybridMambaConfig:
    """Section `model.arch_hybridmamba`; null sizes are read off the weights."""

    trans_dim: int | None
    depth: int | None
    last_dim: int | None
    num_latents: int | None
    num_heads: int | None
    use_multi_scan: bool | None
    use_perceiver: bool | None


@dataclass(frozen=True)
class PerceiverConfig:
    """Section `model.arch_perceiver`; null sizes are read off the weights."""

    last_dim: int | None
    point_pos_emb: bool | None
    encoder_q_input_channels: int | None
    encoder_kv_input_channels: int | None
    encoder_num_heads: int | None
    encoder_widening_factor: int | None
    encoder_self_attn_num_layers: int | None
    decoder_q_input_channels: int | None
    decoder_kv_input_channels: int | None
    decoder_num_heads: int | None
    decoder_widening_factor: int | None


@dataclass(frozen=True)
class MLPConfig:
    """Section `model.arch_mlp`; null sizes are read off the weights."""

    last_dim: int | None
    point_mlp_dims: tuple[int, ...] | None
    point_mlp_widening_factor: int | None
    point_mlp_bias: bool | None


@dataclass(frozen=True)
class PointTransConfig:
    """Section `model.arch_pointtrans`, also of PointTransV2; null: read off the weights."""

    last_dim: int | None
    blocks: tuple[int, ...] | None


@dataclass(frozen=True)
class ModelConfig:
    """Section `model`."""

    name: str
    arch: str | None
    data_repr: str | None
    time_emb_dim: int | None
    text_model: TextModelConfig
    scene_model: SceneModelConfig
    arch_pointmamba: PointMambaConfig
    arch_hybridmamba: HybridMambaConfig
    arch_perceiver: PerceiverConfig
    arch_mlp: MLPConfig
    arch_pointtrans: PointTransConfig


@dataclass(frozen=True)
class DiffusionConfig:
    """Section `diffusion`."""

    steps: int
    noise_schedule: str
    timestep_respacing: str | int | None
    predict_xstart: bool


@dataclass(frozen=True)
class SamplingConfig:
    """Section `sampling`."""

    method: str
    eta: float
    batch_size: int
    k_samples: int
    precision: str


@dataclass(frozen=True)
class TrainingConfig:
    """Section `training`."""

    steps: int
    batch_size: int
    lr: float
    lr_schedule: str
    warmup_steps: int
    weight_decay: float
    grad_clip: float | None
    ema_decay: float | None
    noisy_timestep_fraction: float
    precision: str
    checkpoint_every: int


@dataclass(frozen=True)
class WorkflowConfig:
    """Section `workflow`."""

    chunk_size: int
    dtype: str
    threads: int | str


@dataclass(frozen=True)
class EvaluationConfig:
    """Section `evaluation`."""

    distance_thresholds: tuple[float, ...]
    iou_thresholds: tuple[float, ...]
    top_k: tuple[int, ...]
    wde_sigma: tuple[float, ...]
    soft_sigma: tuple[float, ...]
    found_radius: float
    min_contact: float
    resamples: int
    confidence: float
    seed: int


@dataclass(frozen=True)
class CompareConfig:
    """Section `compare`."""

    methods: tuple[str, ...]
    steps: tuple[int, ...]
    k_samples: int
    max_items: int | None
    projections: int


@dataclass(frozen=True)
class Config:
    """The whole configuration."""

    exp_name: str
    exp_dir: str | None
    seed: int
    gpu: int | str | None
    dataset: DatasetConfig
    model: ModelConfig
    diffusion: DiffusionConfig
    sampling: SamplingConfig
    training: TrainingConfig
    workflow: WorkflowConfig
    evaluation: EvaluationConfig
    compare: CompareConfig

    @property
    def run_dir(self) -> str:
        """Where the outputs lie, relative to the working directory; never a time stamp in it."""
        return f"outputs/{self.exp_name}"

    @property
    def checkpoint_dir(self) -> str:
        """Folder that holds ckpt/, or "demo"; without exp_dir it is the run's own folder."""
        return self.run_dir if self.exp_dir is None else self.exp_dir

    @property
    def is_demo_data(self) -> bool:
        """Whether the dataset is the built-in one, which a rule writes."""
        return self.dataset.data_dir == DEMO

    @property
    def data_dir(self) -> str:
        """The dataset's folder."""
        return f"{self.run_dir}/data/demo" if self.is_demo_data else self.dataset.data_dir

    @property
    def runs_scene_model(self) -> bool:
        """Whether the frozen scene model makes the point features; else the dataset gives them."""
        given = self.model.scene_model.use_openscene
        given = self.dataset.use_openscene if given is None else given
        return self.model.scene_model.use_scene_model and not given

    def as_dict(self) -> dict[str, Any]:
        """Plain mapping of JSON types, for provenance."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def is_demo(raw: Mapping[str, Any]) -> bool:
    """Whether nothing is configured, so that the built-in demo runs."""
    data_dir = (raw.get("dataset") or {}).get("data_dir")
    return raw.get("exp_dir") in (None, "null", DEMO) and data_dir in (None, "null", DEMO)


def load_config(raw: Mapping[str, Any]) -> Config:
    """Validate a configuration and freeze it.

    Args:
        raw: nested mapping as Snakemake merged it. Values that came through `--config` may be
            strings ("16", "null", "[a, b]"); they are read as the type the schema wants.
    Raises:
        ConfigError: unknown key (with the nearest valid one), wrong type or value, missing key,
            or settings that contradict each other. All of them are listed at once.
    """
    schema = yaml.safe_load(SCHEMA.read_text())
    values = _coerce(raw, schema)
    validator = jsonschema.Draft202012Validator(schema)
    problems = [text for error in validator.iter_errors(values) for text in _explain(error, schema)]
    if problems:
        raise ConfigError("configuration:\n  " + "\n  ".join(sorted(problems)))
    config = _build(Config, values)
    if config.exp_dir is not None and config.dataset.data_dir is None:
        dataset = dataclasses.replace(config.dataset, data_dir="data")
        config = dataclasses.replace(config, dataset=dataset)
    contradictions = list(_contradictions(config))
    if contradictions:
        raise ConfigError("configuration:\n  " + "\n  ".join(contradictions))
    return config


def _coerce(value: Any, schema: Mapping[str, Any]) -> Any:
    """Read strings from the command line as the type the schema wants."""
    if isinstance(value, Mapping):
        props = schema.get("properties", {})
        return {key: _coerce(item, props.get(key, {})) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_coerce(item, schema.get("items", {})) for item in value]
    if not schema or _fits(value, schema):
        return value
    if isinstance(value, str):
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        if isinstance(parsed, str):  # YAML 1.1 takes 1e-4, without a dot, for text
            try:
                return float(parsed) if _fits(float(parsed), schema) else value
            except ValueError:
                return value
        return _coerce(parsed, schema)
    if isinstance(value, int | float) and not isinstance(value, bool) and _fits(str(value), schema):
        return str(value)  # exp_name=123
    return value


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a scalar is valid; a string "null" never is where null is permitted."""
    validator = jsonschema.Draft202012Validator(schema)
    if value == "null" and validator.is_valid(None):
        return False
    return validator.is_valid(value)


def _explain(error: jsonschema.ValidationError, schema: Mapping[str, Any]) -> list[str]:
    """One readable line per fault: where, what was found, what was expected."""
    path = ".".join(str(part) for part in error.absolute_path)
    here = f"{path}." if path else ""
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        return [
            f"unknown key '{here}{key}'; {_nearest(key, path, known, schema)}"
            for key in error.instance
            if key not in known
        ]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"missing key '{here}{key}' (see config/config.yaml)" for key in missing]
    expected = {key: value for key, value in error.schema.items() if key != "description"}
    meaning = error.schema.get("description", "")
    wanted = ", ".join(f"{key} {json.dumps(value)}" for key, value in expected.items())
    return [f"{path}: found {json.dumps(error.instance)}, expected {wanted} ({meaning})"]


def _nearest(key: str, path: str, known: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The valid key a mistyped or misplaced one most likely stands for."""
    here = f"{path}." if path else ""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{here}{close[0]}'?"
    everywhere = list(_paths(schema))
    same = [name for name in everywhere if name.rsplit(".", 1)[-1] == key]
    if same:
        return f"did you mean '{same[0]}'?"
    leaves = {name.rsplit(".", 1)[-1]: name for name in reversed(everywhere)}
    close = difflib.get_close_matches(key, leaves, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{leaves[close[0]]}'?"
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0) or list(known)[:1]
    return f"the nearest valid key is '{here}{nearest[0]}'; valid here: {', '.join(known)}"


def _paths(schema: Mapping[str, Any], prefix: str = ""):
    for key, sub in schema.get("properties", {}).items():
        yield prefix + key
        yield from _paths(sub, f"{prefix}{key}.")


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    """Fill a dataclass, recursing into fields that are dataclasses; lists become tuples."""
    fields = {}
    for field in dataclasses.fields(cls):
        value = values[field.name]
        if dataclasses.is_dataclass(field.type):
            value = _build(field.type, value)
        fields[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**fields)


def _contradictions(config: Config):
    """Settings that cannot hold together, each with what to change."""
    dataset, model, sampling = config.dataset, config.model, config.sampling
    if model.data_repr not in (None, dataset.data_repr):
        yield (
            f"model.data_repr is {model.data_repr} but dataset.data_repr is {dataset.data_repr}: "
            "the model would be asked for maps it was not trained on; make them equal"
        )
    if dataset.min_horizon >= dataset.max_horizon:
        yield (
            f"dataset.min_horizon is {dataset.min_horizon} but dataset.max_horizon is "
            f"{dataset.max_horizon}: no clip can be at least as long as the one and shorter "
            "than the other"
        )
    if sampling.method != "ddim" and sampling.eta != 0:
        yield (
            f"sampling.eta is {sampling.eta} but sampling.method is {sampling.method}, which has "
            "no eta: set sampling.method to ddim or eta to 0"
        )
    yield from _point_feature_contradictions(config)
    if model.text_model.version == "hashing" and model.text_model.path is not None:
        yield (
            f"model.text_model.path is '{model.text_model.path}' but version is hashing, which "
            "has no weights: set the encoder's version or path: null"
        )
    if dataset.name == "ContactMapCustomDataset" and dataset.transforms:
        yield (
            f"dataset.transforms is {list(dataset.transforms)} but ContactMapCustomDataset never "
            "rotates: set dataset.transforms to null"
        )
    if dataset.name == "ContactHumanML3DDataset" and dataset.use_openscene:
        yield (
            "dataset.use_openscene is true but ContactHumanML3DDataset has no point features: "
            "set dataset.use_openscene: false"
        )


def _point_feature_contradictions(config: Config):
    """Those of point features: none, colours through the scene model, or as the dataset gives."""
    dataset, scene_model = config.dataset, config.model.scene_model
    if not scene_model.use_scene_model:
        return
    for key in ("use_color", "num_points"):
        told, given = getattr(scene_model, key), getattr(dataset, key)
        if told not in (None, given):
            yield (
                f"model.scene_model.{key} is {told} but dataset.{key} is {given}: make them "
                "equal, or set the former to null"
            )
    if config.runs_scene_model and scene_model.pretrained_weight is None:
        yield (
            "model.scene_model.use_scene_model is true but pretrained_weight is null: name the "
            "weights of the frozen scene model, as in\n"
            "    model:\n      scene_model:\n        use_scene_model: true\n"
            "        pretrained_weight: /path/to/model.pth\n"
            "  or set use_openscene: true to have the dataset's features go in as they are"
        )
    if config.runs_scene_model and dataset.use_openscene:
        yield (
            "model.scene_model.use_openscene is false but dataset.use_openscene is true: the "
            "scene model takes colours alone; set dataset.use_openscene: false"
        )
