"""Reference checkpoints: found, checked, and their architecture read off the shapes.

A checkpoint is what the reference saves: `exp_dir/ckpt/model*.pt`, a dict name -> tensor without
the frozen encoders. Its shapes decide the architecture; a contradiction with the configuration
is an error that lists every key. How shapes decide it is each backbone's own knowledge.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdm.config import DEMO, Config
from cdm.errors import CheckpointError
from cdm.files import hash_file
from cdm.model.architecture import Architecture, CheckpointShapes, FeatureWidths, Shapes, read_dim
from cdm.model.backbones import BACKBONES, load_backbone
from cdm.model.cache import remembered
from cdm.model.state_dict import is_scene_key, read_shapes
from cdm.model.text import TEXT_FEAT_DIMS

DEMO_EXP_DIR = Path(__file__).parents[1] / "demo" / "exp"
# What every CDM has around its backbone.
SHARED = ("timestep_embedder.", "contact_layer.")
LISTED = 30  # unexpected keys in a message
SCENE_FEAT_DIM = 32  # of the frozen PointTransformerSeg
# Files that say how a checkpoint is read: all of this wing.
SOURCES = sorted(Path(__file__).parent.rglob("*.py"))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file that was found, hashed and understood."""

    path: Path
    sha256: str
    architecture: Architecture


def find_checkpoint(exp_dir: str) -> Path:
    """Newest `ckpt/model*.pt` of an experiment folder, by natural order of the names.

    Raises:
        CheckpointError: the folder, its ckpt/ or a model*.pt in it is missing.
    """
    folder = DEMO_EXP_DIR if exp_dir == DEMO else Path(exp_dir)
    found = sorted(folder.glob("ckpt/model*.pt"), key=_natural)
    if found:
        return found[-1]
    if not folder.is_dir():
        seen = "no such folder"
    elif not (folder / "ckpt").is_dir():
        seen = "the folder has no ckpt/ in it"
    else:
        names = sorted(path.name for path in (folder / "ckpt").iterdir())
        seen = f"ckpt/ holds {', '.join(names[:5]) or 'nothing'}"
    raise CheckpointError(
        f"no checkpoint: looked for {folder}/ckpt/model*.pt ({seen}). Give the experiment folder "
        "that training wrote: --config exp_dir=outputs/my_exp"
    )


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def inspect_checkpoint(path: Path, config: Config) -> Checkpoint:
    """Hash a checkpoint, read its architecture off the shapes, and hold it against the config.

    Raises:
        CheckpointError: damaged file, another architecture, missing or unexpected keys, or sizes
            that contradict the configuration (each listed with its key).
    """
    architecture = infer_architecture(read_shapes(path), config, path)
    return Checkpoint(path, hash_file(path), architecture)


def infer_architecture(shapes: Shapes, config: Config, path: Path | str) -> Architecture:
    """Architecture and sizes from a checkpoint's shapes, held against the configuration.

    The backbones are asked, which imports torch (2 s); so what they said is remembered in the
    user's cache, for these shapes, this configuration and this source.

    Args:
        shapes: as from `read_shapes`.
        config: `model`, `dataset` sections; null sizes accept what the weights say.
        path: named in errors.
    Raises:
        CheckpointError: see `inspect_checkpoint`.
    """
    decided_by = {
        "shapes": shapes,
        "model": asdict(config.model),
        "data_repr": [config.dataset.data_repr, config.dataset.contact_dim],
        "point_feat_dim": _configured_point_feat_dim(config),
        "source": [hash_file(file) for file in SOURCES],
    }

    def infer() -> dict[str, Any]:
        return asdict(_infer(shapes, config, path))

    return Architecture(**remembered("architecture", decided_by, infer))


def _infer(shapes: Shapes, config: Config, path: Path | str) -> Architecture:
    backbone = _find_backbone(shapes, path)
    try:
        contact_dim, last_dim = (read_dim(shapes, "contact_layer.weight", i) for i in (0, 1))
        time_emb_dim = read_dim(shapes, "timestep_embedder.pe", 2)
        point_feat_dim = _configured_point_feat_dim(config)
        weights = CheckpointShapes(shapes, contact_dim, time_emb_dim, point_feat_dim, config.model)
        sizes = backbone.read_sizes(weights)
        columns = backbone.read_widths(weights, sizes)
    except KeyError as missing:
        raise CheckpointError(
            f"{path}: key {missing} is missing, so its sizes cannot be read; expected a whole "
            f"{backbone.__name__} state dict of {len(shapes)} or more keys. Save the checkpoint "
            "again"
        ) from None
    except CheckpointError as problem:
        raise CheckpointError(f"{path}: {problem}") from None
    text_feat_dim, point_feat_dim = _split(columns, config)
    architecture = Architecture(
        arch=backbone.__name__,
        contact_dim=contact_dim,
        time_emb_dim=time_emb_dim,
        text_feat_dim=text_feat_dim,
        point_feat_dim=point_feat_dim,
        last_dim=last_dim,
        sizes=sizes,
    )
    problems = [*_contradictions(architecture, columns, backbone.section, config)]
    if text_feat_dim > 0 and point_feat_dim >= 0:
        problems += _key_faults(architecture, shapes)
    if problems:
        raise CheckpointError(
            f"{path}: weights and configuration disagree:\n  " + "\n  ".join(problems)
        )
    return architecture


def _find_backbone(shapes: Shapes, path: Path | str) -> type:
    """The backbone whose signature is among the keys."""
    for arch in BACKBONES:
        backbone = load_backbone(arch)
        if any(re.match(backbone.signature, key) for key in shapes):
            return backbone
    keys = [key for key in sorted(shapes) if not key.startswith(SHARED)]
    listed = "\n  ".join(f"{key} {shapes[key]}" for key in keys[:LISTED])
    more = f"\n  and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    raise CheckpointError(
        f"{path}: these are the weights of no backbone known here ({', '.join(BACKBONES)}). "
        f"Unexpected keys:\n  {listed or 'none: there is no backbone in it'}{more}\nexp_dir must "
        "name the experiment of a stage-1 contact diffusion model (CDM)"
    )


def _split(columns: FeatureWidths, config: Config) -> tuple[int, int]:
    """Widths of the text and point features; where weights tell only the sum, by the config."""
    if columns.text is not None:
        return columns.text, columns.point_feat
    point_feat_dim = _configured_point_feat_dim(config)
    if point_feat_dim is None:
        text_feat_dim = TEXT_FEAT_DIMS.get(config.model.text_model.version, columns.both)
        point_feat_dim = columns.both - text_feat_dim
    return columns.both - point_feat_dim, point_feat_dim


def _configured_point_feat_dim(config: Config) -> int | None:
    """Columns of point features by the configuration; None if it leaves that to the weights."""
    scene_model = config.model.scene_model
    if not scene_model.use_scene_model:
        return 0
    if scene_model.point_feat_dim is None and config.runs_scene_model:
        return SCENE_FEAT_DIM
    return scene_model.point_feat_dim


def _contradictions(
    found: Architecture, columns: FeatureWidths, section: str | None, config: Config
):
    """Each configured size that the weights contradict."""
    model = config.model
    in_weights = found.sizes | {"last_dim": found.last_dim}
    pairs = {"model.arch": (model.arch, found.arch)}
    pairs["model.time_emb_dim"] = (model.time_emb_dim, found.time_emb_dim)
    for key, configured in asdict(getattr(model, section)).items() if section else ():
        if key in in_weights:  # else of a part that this model does not have
            pairs[f"model.{section}.{key}"] = (configured, in_weights[key])
    for key, (configured, seen) in pairs.items():
        configured = list(configured) if isinstance(configured, tuple) else configured
        if configured not in (None, seen):
            yield f"{key} is {configured}, the weights have {seen}; set it to null"
    if config.dataset.contact_dim != found.contact_dim:
        yield (
            f"dataset.data_repr {config.dataset.data_repr} has {config.dataset.contact_dim} "
            f"joints, the weights (contact_layer.weight) have {found.contact_dim}; set "
            "dataset.data_repr to what the model was trained on"
        )
    version = model.text_model.version
    text_feat_dim = TEXT_FEAT_DIMS.get(version, found.text_feat_dim)
    scene_model = model.scene_model
    configured = scene_model.point_feat_dim if scene_model.use_scene_model else 0
    point_feat_dim = found.point_feat_dim if configured is None else configured
    wrong_text = found.text_feat_dim != text_feat_dim or found.text_feat_dim < 1
    wrong_feat = found.point_feat_dim != point_feat_dim or found.point_feat_dim < bool(
        scene_model.use_scene_model
    )
    if wrong_text or wrong_feat:
        weights = f"{columns.text} + {columns.point_feat}"
        yield (
            f"text and point features have {columns.both if columns.text is None else weights} "
            f"columns in the weights (contact_model.{columns.where}), the configuration "
            f"{text_feat_dim} + {point_feat_dim}: check model.text_model.version ({version}), "
            "model.scene_model.use_scene_model and model.scene_model.point_feat_dim"
        )


def _key_faults(architecture: Architecture, shapes: Shapes):
    """Missing, unexpected and misshapen keys."""
    return _differences(expected_shapes(architecture), shapes)


def _differences(expected: Shapes, shapes: Shapes):
    for key in expected:
        if key not in shapes:
            yield f"{key} is missing, expected {expected[key]}"
        elif shapes[key] != expected[key]:
            yield f"{key} is {shapes[key]}, expected {expected[key]}"
    for key in shapes:
        if key not in expected:
            yield f"{key} {shapes[key]} is unexpected"


def expected_shapes(architecture: Architecture) -> Shapes:
    """Every key of a checkpoint of this architecture with its shape; imports torch."""
    import torch

    from cdm.model.cdm import CDM

    with torch.device("meta"):
        model = CDM(architecture)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def inspect_scene_model(config: Config, point_feat_dim: int) -> dict[str, Any] | None:
    """Find, check and hash the weights of the frozen scene model.

    Args:
        config: sections `model` and `dataset`.
        point_feat_dim: columns of point features the contact model sees.
    Returns:
        path and sha256; None where no scene model runs.
    Raises:
        CheckpointError: no such file, damaged, missing, unexpected or misshapen keys, or sizes
            that contradict the configuration.
    """
    if not config.runs_scene_model:
        return None
    path = Path(config.model.scene_model.pretrained_weight).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; model.scene_model.pretrained_weight must name the weights of "
            "the frozen PointTransformerSeg (a .pth file)"
        )
    shapes = {key: shape for key, shape in read_shapes(path).items() if is_scene_key(key)}
    in_dim = (shapes.get("enc1.0.linear.weight") or (0,))[-1]
    in_dim = in_dim if in_dim in (3, 6) else 3 + 3 * config.dataset.use_color
    decided_by = {"in_dim": in_dim, "source": [hash_file(file) for file in SOURCES]}
    expected = remembered("scene_model", decided_by, lambda: _scene_model_shapes(in_dim))
    expected = {key: tuple(shape) for key, shape in expected.items()}
    problems = [
        *_differences(expected, shapes),
        *_scene_contradictions(config, in_dim, point_feat_dim),
    ]
    if problems:
        listed = "\n  ".join(problems[:LISTED])
        more = f"\n  and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise CheckpointError(f"{path}: not the scene model that is wanted:\n  {listed}{more}")
    return {"path": str(path), "sha256": hash_file(path)}


def _scene_contradictions(config: Config, in_dim: int, point_feat_dim: int):
    """Sizes the scene model has, and the contact model or the configuration has not."""
    if point_feat_dim != SCENE_FEAT_DIM:
        yield (
            f"it gives {SCENE_FEAT_DIM} point features, the contact model was trained on "
            f"{point_feat_dim}; check model.scene_model.use_openscene and exp_dir"
        )
    dataset = config.dataset
    gives_color = dataset.use_color and dataset.name != "ContactHumanML3DDataset"
    if in_dim == 6 and not gives_color:
        yield (
            "its first layer takes colours, and the dataset gives none (dataset.use_color "
            f"{dataset.use_color}, {dataset.name}); set dataset.use_color: true or name weights "
            "that were trained on points alone"
        )


def _scene_model_shapes(in_dim: int) -> Shapes:
    """Every key of the scene model with its shape; imports torch."""
    import torch

    from cdm.model.scene_model import PointTransformerSeg

    with torch.device("meta"):
        model = PointTransformerSeg(in_dim)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}
