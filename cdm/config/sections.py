"""The configuration's sections as frozen dataclasses; `config/schema.yaml` describes each key."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

DEMO = "demo"
DEMO_POINTS = 1024  # points of the built-in rooms, as the built-in weights were trained on
CUSTOM = "ContactMapCustomDataset"  # dataset.name of scans of the user's own
EXAMPLES = "ContactMapExampleDataset"  # dataset.name of a list of items with texts
Auto = Any  # the word "auto"; a plan has numbers in its place


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
    max_items: int | None
    statistics: str | None
    statistics_phase: str | None
    on_bad_item: str
    min_horizon: int
    max_horizon: int
    statistics_sets: tuple[str, ...] | None = None
    examples: str | None = None

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
    """Section `model.arch_pointtrans` (PointTransV2 too); null sizes are read off the weights."""

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
    batch_size: int | Auto
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
    dropout: float | None
    ema_decay: float | None
    noisy_timestep_fraction: float
    precision: str
    checkpoint_every: int
    init_from: str | None


@dataclass(frozen=True)
class WorkflowConfig:
    """Section `workflow`."""

    chunk_size: int | Auto
    dtype: str
    threads: int | Auto
    standby: bool = True
    absolute_paths: bool = False


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

    samplers: tuple[str, ...]
    full_chains: int
    draws: int
    k_samples: int
    first_items: int | None
    max_items: int | None
    detect: float
    projections: int


@dataclass(frozen=True)
class ExportConfig:
    """Section `export`. `for` is a word of Python's own, so its field has a `_` behind it."""

    to: str | None = None
    for_: str | None = None
    overwrite: bool = False
    items: int | tuple[str, ...] = 8


@dataclass(frozen=True)
class ReportConfig:
    """Section `report`."""

    items: int = 48


@dataclass(frozen=True)
class Provenance:
    """Where the values of a configuration come from.

    Attributes:
        places: dotted key -> what tells it; keys that are not there have their default.
        training: the file that tells how the model was trained; None if there is none.
        notes: what else has to be told.
    """

    places: dict[str, str] = field(default_factory=dict)
    training: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """The whole configuration.

    Attributes:
        provenance: None if it is not known. It decides nothing, and is not part of `as_dict`.
    """

    exp_name: str
    exp_dir: str | None
    seed: int
    gpu: int | Auto | None
    dataset: DatasetConfig
    model: ModelConfig
    diffusion: DiffusionConfig
    sampling: SamplingConfig
    training: TrainingConfig
    workflow: WorkflowConfig
    evaluation: EvaluationConfig
    compare: CompareConfig
    export: ExportConfig = ExportConfig()
    report: ReportConfig = ReportConfig()
    reference: str | None = None
    trust: str | None = None
    output_dir: str = "outputs"
    provenance: Provenance | None = field(default=None, compare=False, repr=False)

    @property
    def run_dir(self) -> str:
        """Folder of the run's outputs, relative to the working directory unless output_dir is not.

        It has no time stamp in its name, so that the same command finds it again.
        """
        return f"{self.output_dir.rstrip('/')}/{self.exp_name}"

    @property
    def checkpoint_dir(self) -> str:
        """Folder that holds ckpt/, or "demo"; without exp_dir it is the run's own folder."""
        return self.run_dir if self.exp_dir is None else self.exp_dir

    @property
    def is_demo_data(self) -> bool:
        """Whether the dataset is the built-in one. A rule writes it."""
        return self.dataset.data_dir == DEMO

    @property
    def demo_folder(self) -> str:
        """Folder of the built-in dataset; rooms of another number of points have their own."""
        points = self.dataset.num_points
        name = DEMO if points == DEMO_POINTS else f"{DEMO}-{points}"
        return f"{self.run_dir}/data/{name}"

    @property
    def data_dir(self) -> str:
        """The dataset's folder, or its URL."""
        if self.is_demo_data:
            return self.demo_folder
        assert self.dataset.data_dir is not None, "load_config has put a default in its place"
        return self.dataset.data_dir

    @property
    def stage_2_tests(self) -> bool:
        """Whether stage 2 reads the exported maps when it tests; else it trains on them."""
        if self.export.for_ is not None:
            return self.export.for_ == "test"
        return self.dataset.phase == "test" or self.dataset.name == CUSTOM

    def as_dict(self) -> dict[str, Any]:
        """Nested mapping of JSON types, as records and plans store it."""
        values = dataclasses.asdict(
            dataclasses.replace(self, provenance=None), dict_factory=_by_key
        )
        del values["provenance"]
        return json.loads(json.dumps(values))


def key_of(field_name: str) -> str:
    """The key of a field: a word of Python's own, such as `for`, has a `_` behind it as a field."""
    return field_name.removesuffix("_")


def _by_key(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key_of(name): value for name, value in fields}
