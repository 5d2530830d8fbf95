"""Which point features go into the model: none, the scene model's, or the dataset's (no torch).

A contact model sees `dim` columns of features for each point, beside the point's position:

- source "none": dim is 0.
- source "scene_model": the frozen scene model computes 32 columns from positions and colours.
- source "dataset": colours (3 columns), then OpenScene features, as the dataset gives them. A
  model of one column sees an affordance: the dataset reads it from a file, or the model takes the
  dot product of wider features with the caption's feature.

The source follows from the configuration. The dim is read off the weights where the configuration
leaves it open. All that is asked about either is answered here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cdm.config import Config
from cdm.datasets import dataset_class
from cdm.datasets.base import AFFORDANCE_DIM
from cdm.errors import ConfigError
from cdm.model.architecture import Architecture, FeatureWidths

NONE, SCENE_MODEL, DATASET = "none", "scene_model", "dataset"
SCENE_FEAT_DIM = 32  # columns that the frozen PointTransformerSeg gives
COLOR_DIM = 3


@dataclass(frozen=True)
class PointFeatures:
    """Where a model's point features come from, and how many columns they have.

    Attributes:
        source: "none", "scene_model" or "dataset".
        dim: columns that the backbone sees; None where the weights decide.
    """

    source: str
    dim: int | None

    @classmethod
    def of(cls, config: Config) -> "PointFeatures":
        """What the configuration says, sections `model` and `dataset`."""
        scene_model = config.model.scene_model
        if not scene_model.use_scene_model:
            return cls(NONE, 0)
        from_dataset = scene_model.use_openscene
        if from_dataset is None:
            from_dataset = config.dataset.use_openscene
        if from_dataset:
            return cls(DATASET, scene_model.point_feat_dim)
        dim = scene_model.point_feat_dim
        return cls(SCENE_MODEL, SCENE_FEAT_DIM if dim is None else dim)

    def split(self, widths: FeatureWidths, usual_text_dim: int | None) -> tuple[int, int]:
        """Widths of the text and of the point features in some weights.

        Args:
            widths: as the backbone read them. Some backbones show only the sum.
            usual_text_dim: width of the configured text encoder, None where it may be any.
        """
        if widths.text is not None:
            assert widths.point_feat is not None, "told together"
            return widths.text, widths.point_feat
        if self.dim is not None:
            return widths.both - self.dim, self.dim
        text = widths.both if usual_text_dim is None else usual_text_dim
        return text, widths.both - text


@dataclass(frozen=True)
class ColumnsTaken:
    """Columns of features that a model takes for each point of an item.

    Attributes:
        dim: the usual number, 0 for none.
        text_dim: the other number it takes, to be compared with the caption; None for no other.
    """

    dim: int
    text_dim: int | None = None

    def check(self, found: int | None) -> None:
        """Compare with the columns that an item has, None for no features.

        Raises:
            ValueError: the model cannot take them.
        """
        if self.dim and (found is None or found not in (self.dim, self.text_dim)):
            raise ValueError(
                f"c_pc_feat has {found or 'no'} columns, expected {self.dim}"
                + (f" or {self.text_dim}, to be compared with the text" if self.text_dim else "")
            )


def columns_taken(architecture: Architecture, color_dim: int | None = None) -> ColumnsTaken:
    """What a model takes from the dataset.

    Args:
        color_dim: columns of colour that the scene model takes; None where none runs.
    """
    if color_dim is not None:
        return ColumnsTaken(color_dim)
    if architecture.point_feat_dim == AFFORDANCE_DIM:
        return ColumnsTaken(AFFORDANCE_DIM, architecture.text_feat_dim)
    return ColumnsTaken(architecture.point_feat_dim)


def explain_columns(problem: ValueError, item: str, config: Config) -> str:
    """The message for an item whose features the model cannot take."""
    return (
        f"{item}: {problem}; the dataset gives colours (dataset.use_color "
        f"{config.dataset.use_color}), then OpenScene features (dataset.use_openscene "
        f"{config.dataset.use_openscene}): set these as they were in training, and "
        "model.scene_model likewise"
    )


def gives_color(config: Config) -> bool:
    """Whether the items come with colours."""
    return config.dataset.use_color and dataset_class(config.dataset.name).gives_color


# --- the configuration alone ---------------------------------------------------------------------


def check_configuration(config: Config) -> None:
    """Hold the keys about point features against each other.

    Raises:
        ConfigError: some of them contradict each other; all of these are listed.
    """
    problems = list(_contradictions(config))
    if problems:
        raise ConfigError("configuration:\n  " + "\n  ".join(problems))


def _contradictions(config: Config) -> Iterator[str]:
    dataset, scene_model = config.dataset, config.model.scene_model
    if dataset.use_openscene and not dataset_class(dataset.name).gives_openscene:
        yield (
            f"dataset.use_openscene is true but {dataset.name} has no OpenScene features: "
            "set dataset.use_openscene: false"
        )
    features = PointFeatures.of(config)
    if features.source == NONE:
        return
    for key in ("use_color", "num_points"):
        told, given = getattr(scene_model, key), getattr(dataset, key)
        if told not in (None, given):
            yield (
                f"model.scene_model.{key} is {told} but dataset.{key} is {given}: make them "
                "equal, or set the former to null"
            )
    if features.source == SCENE_MODEL and scene_model.pretrained_weight is None:
        yield (
            "model.scene_model.use_scene_model is true but pretrained_weight is null: name the "
            "weights of the frozen scene model, as in\n"
            "    model:\n      scene_model:\n        use_scene_model: true\n"
            "        pretrained_weight: /path/to/model.pth\n"
            "  or set use_openscene: true to have the dataset's features go in as they are"
        )
    if features.source == SCENE_MODEL and dataset.use_openscene:
        yield (
            "model.scene_model.use_openscene is false but dataset.use_openscene is true: the "
            "scene model takes colours alone; set dataset.use_openscene: false"
        )


def dim_to_train(config: Config) -> int:
    """Columns of point features of a model that is trained from scratch.

    Raises:
        ConfigError: the configuration leaves their number open, or names another one than the scene
            model gives.
    """
    features = PointFeatures.of(config)
    if features.source == SCENE_MODEL and features.dim != SCENE_FEAT_DIM:
        raise ConfigError(
            f"model.scene_model.point_feat_dim is {features.dim}, but the frozen scene model gives "
            f"{SCENE_FEAT_DIM} columns: set it to null"
        )
    if features.dim is None:
        raise ConfigError(
            "model.scene_model.point_feat_dim is null, but there are no weights to read it "
            "off: set it to the columns of point features, such as 3 for plain colours"
        )
    return features.dim


def columns_to_read(config: Config, point_feat_dim: int) -> int:
    """Columns of features that a training reads with each point.

    With a scene model these are the colours that go into it, else what the backbone sees.

    Args:
        point_feat_dim: columns that the backbone sees.
    """
    if PointFeatures.of(config).source == SCENE_MODEL:
        return COLOR_DIM * gives_color(config)
    return point_feat_dim


def training_problem(found: int, dim: int) -> str:
    """What is wrong with the columns of a training item's features; "" if nothing is.

    Training compares no features with captions: it takes exactly these columns.
    """
    if dim in (0, found):
        return ""
    return (
        f"has {found} point features, expected {dim}; set model.scene_model.point_feat_dim: {found}"
    )


# --- the configuration against weights -----------------------------------------------------------


def width_contradictions(
    found: Architecture, widths: FeatureWidths, usual_text_dim: int | None, config: Config
) -> Iterator[str]:
    """Widths of text and point features in the weights that the configuration contradicts."""
    features, scene_model = PointFeatures.of(config), config.model.scene_model
    text_dim = found.text_feat_dim if usual_text_dim is None else usual_text_dim
    configured = 0 if features.source == NONE else scene_model.point_feat_dim
    feat_dim = found.point_feat_dim if configured is None else configured
    fewest = 0 if features.source == NONE else 1
    if (
        found.text_feat_dim != text_dim
        or found.text_feat_dim < 1
        or found.point_feat_dim != feat_dim
        or found.point_feat_dim < fewest
    ):
        shown = widths.both if widths.text is None else f"{widths.text} + {widths.point_feat}"
        yield (
            f"text and point features have {shown} columns in the weights "
            f"(contact_model.{widths.where}), the configuration {text_dim} + {feat_dim}: check "
            f"model.text_model.version ({config.model.text_model.version}), "
            "model.scene_model.use_scene_model and model.scene_model.point_feat_dim"
        )


def check_dataset_columns(config: Config, point_feat_dim: int) -> None:
    """Hold the columns that the dataset gives against those that the model was trained on.

    The width of OpenScene features is not known before an item is read; a job checks it then.

    Raises:
        ConfigError: the model cannot have been trained on what the dataset gives.
    """
    dataset = config.dataset
    if point_feat_dim == 0 or PointFeatures.of(config).source == SCENE_MODEL:
        return
    color_dim = COLOR_DIM * gives_color(config)
    given = f"dataset.use_color {dataset.use_color}, dataset.use_openscene {dataset.use_openscene}"
    if not dataset.use_openscene and point_feat_dim != color_dim:
        raise ConfigError(
            f"the model was trained on {point_feat_dim} point features, the dataset gives "
            f"{color_dim} ({given}): set dataset.use_openscene: true to have OpenScene features "
            "or affordances go in, or model.scene_model.use_openscene: false and "
            "pretrained_weight to have the scene model make them"
        )
    if dataset.use_openscene and dataset.use_color and point_feat_dim <= COLOR_DIM:
        raise ConfigError(
            f"the model was trained on {point_feat_dim} point feature(s), the dataset gives 3 of "
            f"colour and more ({given}): set dataset.use_color: false"
        )


def scene_model_contradictions(config: Config, in_dim: int, point_feat_dim: int) -> Iterator[str]:
    """Mismatches between the scene model's sizes and the contact model or the configuration.

    Args:
        in_dim: columns of its first layer, 3 for positions and 6 with colours.
        point_feat_dim: columns that the contact model was trained on.
    """
    if point_feat_dim != SCENE_FEAT_DIM:
        yield (
            f"it gives {SCENE_FEAT_DIM} point features, the contact model was trained on "
            f"{point_feat_dim}; check model.scene_model.use_openscene and exp_dir"
        )
    if in_dim == 3 + COLOR_DIM and not gives_color(config):
        yield (
            "its first layer takes colours, and the dataset gives none (dataset.use_color "
            f"{config.dataset.use_color}, {config.dataset.name}); set dataset.use_color: true or "
            "name weights that were trained on points alone"
        )
