"""Checkpoints: found, checked, and their architecture read off the shapes of their tensors.

A checkpoint is what afford-motion saves: `exp_dir/ckpt/model*.pt`, a dict name -> tensor without
the frozen encoders. Its shapes decide the architecture. A contradiction with the configuration is
an error that lists every key. How shapes decide sizes is known by each backbone.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdm.config import DEMO, Config
from cdm.config.contradictions import NOT_BUILT
from cdm.errors import CheckpointError, NoCheckpoint, listed
from cdm.files import hash_file, typed
from cdm.model.architecture import (
    Architecture,
    CheckpointShapes,
    Shapes,
    read_dim,
)
from cdm.model.backbones import BACKBONES, load_backbone
from cdm.model.cache import remembered
from cdm.model.point_features import (
    SCENE_MODEL,
    PointFeatures,
    gives_color,
    scene_model_contradictions,
    width_contradictions,
)
from cdm.model.state_dict import SCENE_WEIGHTS, inspect_weights
from cdm.model.text_weights import TEXT_FEAT_DIMS

DEMO_EXP_DIR = Path(__file__).parents[1] / "demo" / "exp"
# What every CDM has around its backbone.
SHARED = ("timestep_embedder.", "contact_layer.")
# Keys of backbones that the public forks name and that are not built here.
NOT_BUILT_KEYS = {
    "EnhancedPerceiver": r"contact_model\.(text_encoder|point_encoder|physics_constraint)\.",
    "PointMambaUNet": r"contact_model\.(enc1\.mamba_fwd|mid_mamba|down1\.proj)\b",
}
LISTED = 30  # unexpected keys in a message
# All files of this wing: they say how a checkpoint is read.
SOURCES = sorted(Path(__file__).parent.rglob("*.py"))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file that was found, hashed and understood.

    Attributes:
        read_as: where in the file the weights were found and what was left out; "" for a plain
            state dict.
    """

    path: Path
    sha256: str
    architecture: Architecture
    read_as: str = ""


def find_checkpoint(exp_dir: str) -> Path:
    """Newest `ckpt/model*.pt` of an experiment folder, by natural order of the names.

    Raises:
        CheckpointError: the folder, its ckpt/ or a model*.pt in it is missing, or two names have
            the same number, so that neither is the newer one.
    """
    folder = DEMO_EXP_DIR if exp_dir == DEMO else Path(exp_dir)
    try:
        names = sorted(os.listdir(folder / "ckpt"))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _no_checkpoint(folder, _why_not(folder, error)) from None
    found = [name for name in names if name.startswith("model") and name.endswith(".pt")]
    if not found:
        seen = ", ".join(names[:5]) or "nothing"
        raise _no_checkpoint(folder, f"ckpt/ holds {seen}")
    *_, newest = found = sorted(found, key=_natural)
    twins = [name for name in found if _natural(name) == _natural(newest)]
    if len(twins) > 1:
        raise CheckpointError(
            f"{folder}/ckpt: {' and '.join(twins)} have the same number, so neither is the newest; "
            "move all but one of them to another folder"
        )
    return folder / "ckpt" / newest


def _why_not(folder: Path, error: OSError | ValueError) -> str:
    """What is wrong with an experiment folder whose ckpt/ cannot be listed."""
    try:
        if isinstance(error, FileNotFoundError):
            return "the folder has no ckpt/ in it" if folder.is_dir() else "no such folder"
    except OSError as other:
        error = other
    return str(getattr(error, "strerror", None) or error)


def _no_checkpoint(folder: Path, seen: str) -> NoCheckpoint:
    return NoCheckpoint(
        f"no checkpoint: looked for {folder}/ckpt/model*.pt ({seen}). Give the experiment folder "
        f"that training wrote: --config exp_dir={_meant(folder)}"
    )


def _meant(folder: Path) -> str:
    """The experiment folder, where its ckpt/ or a file in that was given in its place."""
    inside = next((place for place in (folder, folder.parent) if place.name == "ckpt"), None)
    return str(inside.parent) if inside is not None and inside.is_dir() else "outputs/my_exp"


def _natural(name: str) -> list[int | str]:
    """Text and numbers by turns: "model12.pt" comes after "model9.pt"."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def inspect_checkpoint(path: Path, config: Config) -> Checkpoint:
    """Hash a checkpoint, read its architecture off the shapes, and compare it with the config.

    Raises:
        CheckpointError: damaged file, another architecture, missing or unexpected keys, or sizes
            that contradict the configuration (each listed with its key).
    """
    found = inspect_weights(path)
    architecture = infer_architecture(found.shapes, config, path)
    return Checkpoint(path, found.sha256, architecture, found.read_as)


def infer_architecture(shapes: Shapes, config: Config, path: Path | str) -> Architecture:
    """Architecture and sizes from a checkpoint's shapes, compared with the configuration.

    The backbones are asked, which imports torch (2 s). Their answer is kept in the user's cache,
    under these shapes, this configuration and this source.

    Args:
        shapes: as from `read_shapes`.
        config: `model`, `dataset` sections; null sizes accept what the weights say.
        path: named in errors.
    Raises:
        CheckpointError: see `inspect_checkpoint`.
    """
    features = PointFeatures.of(config)
    decided_by = {
        "shapes": shapes,
        "model": asdict(config.model),
        "data_repr": [config.dataset.data_repr, config.dataset.contact_dim],
        "point_features": [features.source, features.dim],
        "source": [hash_file(file) for file in SOURCES],
    }

    def infer() -> dict[str, Any]:
        return asdict(_infer(shapes, config, path))

    def holds(kept: dict[str, Any]) -> bool:
        return _agrees(typed(Architecture, kept), shapes)

    return Architecture(**remembered("architecture", decided_by, infer, holds))


def _agrees(kept: Architecture, shapes: Shapes) -> bool:
    """Whether an architecture has the sizes that shapes tell without asking its backbone."""
    around = kept.contact_dim, kept.last_dim, kept.time_emb_dim
    seen = *shapes["contact_layer.weight"], shapes["timestep_embedder.pe"][2]
    return kept.arch in BACKBONES and around == seen


def _infer(shapes: Shapes, config: Config, path: Path | str) -> Architecture:
    # The backbone, and what it reads off the shapes.
    backbone = _find_backbone(shapes, path)
    features = PointFeatures.of(config)
    try:
        contact_dim, last_dim = (read_dim(shapes, "contact_layer.weight", i) for i in (0, 1))
        time_emb_dim = read_dim(shapes, "timestep_embedder.pe", 2)
        weights = CheckpointShapes(shapes, contact_dim, time_emb_dim, features.dim, config.model)
        sizes = backbone.read_sizes(weights)
        widths = backbone.read_widths(weights, sizes)
    except KeyError as missing:
        raise CheckpointError(
            f"{path}: key {missing} is missing, so its sizes cannot be read; expected a whole "
            f"{backbone.__name__} state dict of {len(shapes)} or more keys. Save the checkpoint "
            "again"
        ) from None
    except CheckpointError as problem:
        raise CheckpointError(f"{path}: {problem}") from None
    except ZeroDivisionError:
        raise CheckpointError(
            f"{path}: a size of the {backbone.__name__} is 0; save the checkpoint again"
        ) from None

    # The architecture.
    usual_text_dim = TEXT_FEAT_DIMS.get(config.model.text_model.version)
    text_feat_dim, point_feat_dim = features.split(widths, usual_text_dim)
    architecture = Architecture(
        arch=backbone.__name__,
        contact_dim=contact_dim,
        time_emb_dim=time_emb_dim,
        text_feat_dim=text_feat_dim,
        point_feat_dim=point_feat_dim,
        last_dim=last_dim,
        sizes=sizes,
    )

    # Every contradiction with the configuration, and every key and shape.
    problems = [
        *_contradictions(architecture, backbone.section, config),
        *width_contradictions(architecture, widths, usual_text_dim, config),
    ]
    if text_feat_dim > 0 and point_feat_dim >= 0:
        problems += _differences(_buildable_shapes(architecture, path), shapes)
    if problems:
        raise CheckpointError(
            f"{path}: weights and configuration disagree:\n  " + "\n  ".join(problems)
        )
    return architecture


def _buildable_shapes(architecture: Architecture, path: Path | str) -> Shapes:
    """`expected_shapes`, with an error for sizes of which no model can be made."""
    try:
        return expected_shapes(architecture)
    except (ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        sizes = ", ".join(f"{key} {value}" for key, value in architecture.sizes.items())
        raise CheckpointError(
            f"{path}: no {architecture.arch} has these sizes, which the weights and the "
            f"configuration give: {sizes} ({error}). Check section model, or save the checkpoint "
            "again"
        ) from None


def _find_backbone(shapes: Shapes, path: Path | str) -> Any:
    """The backbone whose signature is among the keys."""
    for arch, signature in NOT_BUILT_KEYS.items():
        if any(re.match(signature, key) for key in shapes):
            raise CheckpointError(
                f"{path}: these are the weights of {arch}, which cannot be sampled: "
                f"{NOT_BUILT[arch]}. docs/models.md says what it would take to build it"
            )
    for arch in BACKBONES:
        backbone = load_backbone(arch)
        if any(re.match(backbone.signature, key) for key in shapes):
            return backbone
    keys = [key for key in sorted(shapes) if not key.startswith(SHARED)]
    shown = listed([f"{key} {shapes[key]}" for key in keys], LISTED)
    raise CheckpointError(
        f"{path}: these are the weights of no backbone known here ({', '.join(BACKBONES)}). "
        f"Unexpected keys:\n  {shown or 'none: there is no backbone in it'}\nexp_dir must "
        "name the experiment of a stage-1 contact diffusion model (CDM)"
    )


def _contradictions(found: Architecture, section: str | None, config: Config) -> Iterator[str]:
    """Configured sizes that the weights contradict."""
    model = config.model
    in_weights = found.sizes | {"last_dim": found.last_dim}
    pairs: dict[str, tuple[Any, Any]] = {"model.arch": (model.arch, found.arch)}
    pairs["model.time_emb_dim"] = (model.time_emb_dim, found.time_emb_dim)
    for key, configured in asdict(getattr(model, section)).items() if section else ():
        if key in in_weights:  # else of a part that this model does not have
            pairs[f"model.{section}.{key}"] = (configured, in_weights[key])
    places = config.provenance.places if config.provenance else {}
    for key, (configured, seen) in pairs.items():
        configured = list(configured) if isinstance(configured, tuple) else configured
        if configured not in (None, seen):
            place = f" ({places[key]})" if key in places else ""
            yield f"{key} is {configured}{place}, the weights have {seen}; set it to null"
    if config.dataset.contact_dim != found.contact_dim:
        yield (
            f"dataset.data_repr {config.dataset.data_repr} has {config.dataset.contact_dim} "
            f"joints, the weights (contact_layer.weight) have {found.contact_dim}; set "
            "dataset.data_repr to what the model was trained on"
        )


def _differences(expected: Shapes, shapes: Shapes) -> Iterator[str]:
    """Missing, misshapen and unexpected keys."""
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
        path and sha256, and read_as (as in `Checkpoint`) unless it is ""; None where no scene
        model runs.
    Raises:
        CheckpointError: no such file, damaged, missing, unexpected or misshapen keys, or sizes
            that contradict the configuration.
    """
    if PointFeatures.of(config).source != SCENE_MODEL:
        return None
    path = Path(os.path.expanduser(config.model.scene_model.pretrained_weight or ""))
    if not os.path.exists(path):
        raise CheckpointError(
            f"{path}: no such file; model.scene_model.pretrained_weight must name the weights of "
            "the frozen PointTransformerSeg (a .pth file): --config "
            "'model={scene_model: {pretrained_weight: /path/to/model.pth}}'"
        )
    found = inspect_weights(path, SCENE_WEIGHTS)

    # The keys and shapes of a scene model with or without colours, whichever it resembles.
    in_dim = (found.shapes.get("enc1.0.linear.weight") or (0,))[-1]
    in_dim = in_dim if in_dim in (3, 6) else 3 + 3 * gives_color(config)
    decided_by = {"in_dim": in_dim, "source": [hash_file(file) for file in SOURCES]}

    def holds(kept: dict[str, Any]) -> bool:
        return kept["enc1.0.linear.weight"][-1] == in_dim

    kept = remembered("scene_model", decided_by, lambda: _scene_model_shapes(in_dim), holds)
    expected = {key: tuple(shape) for key, shape in kept.items()}

    # Every difference.
    problems = [
        *_differences(expected, found.shapes),
        *scene_model_contradictions(config, in_dim, point_feat_dim),
    ]
    if problems:
        raise CheckpointError(
            f"{path}: not the scene model that is wanted:\n  {listed(problems, LISTED)}"
        )
    told = {"read_as": found.read_as} if found.read_as else {}
    return {"path": str(path), "sha256": found.sha256, **told}


def _scene_model_shapes(in_dim: int) -> Shapes:
    """Every key of the scene model with its shape; imports torch."""
    import torch

    from cdm.model.scene_model import PointTransformerSeg

    with torch.device("meta"):
        model = PointTransformerSeg(in_dim)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}
