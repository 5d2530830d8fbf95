"""Reference checkpoints: found, checked and read off without torch, loaded strictly with it.

A checkpoint is what the reference saves: `exp_dir/ckpt/model*.pt`, a dict name -> tensor without
the frozen encoders. Its shapes decide the architecture; a contradiction with the configuration
is an error that lists every key.
"""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from cdm.architecture import Architecture
from cdm.config import DEMO, Config
from cdm.errors import CheckpointError
from cdm.files import hash_file
from cdm.text import TEXT_FEAT_DIMS

Shapes = dict[str, tuple[int, ...]]

DEMO_EXP_DIR = Path(__file__).parent / "demo" / "exp"
# Frozen encoders, which the reference leaves out of its checkpoints.
FROZEN = ("scene_model", "clip_model", "text_model", "bert_model")
# A key only this backbone has, most telling first.
SIGNATURES = {
    "HybridMamba": r"contact_model\.(mamba_encoder|mamba_layers|film|scan_fusion)\.",
    "PointMamba": r"contact_model\.layers\.\d+\.mamba\.",
    "Perceiver": r"contact_model\.encoder_adapter\.",
    "MLP": r"contact_model\.point_mlp",
    "PointTransV2": r"contact_model\.ctx4\.",
    "PointTrans": r"contact_model\.ctx\.",
}


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


def read_shapes(path: Path) -> Shapes:
    """Names and shapes of a checkpoint's tensors, without torch and without running its pickle.

    Reads the zip archive that `torch.save` has written since torch 1.6, checks the CRC of every
    member, and unpickles with stand-ins for the four names a state dict needs.

    Raises:
        CheckpointError: truncated, damaged, or not a dict of tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken:
                raise zipfile.BadZipFile(f"{broken} fails its checksum")
            member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            content = _ShapeUnpickler(io.BytesIO(archive.read(member))).load()
    except (OSError, zipfile.BadZipFile, StopIteration, EOFError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({error or 'no data.pkl inside'}). Expected a file "
            "that torch.save of torch 1.6 or newer wrote; it may be truncated: copy it again, or "
            "move it away so that the one before it is used"
        ) from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: not a plain state dict ({error})") from None
    tensors = {}
    if isinstance(content, dict):
        tensors = {key: value for key, value in content.items() if isinstance(value, tuple)}
    if not tensors:
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path}: found {keys[:200]}, expected a dict of tensors such as contact_layer.weight"
        )
    return {_bare(key): shape for key, shape in tensors.items() if _is_own(key)}


class _ShapeUnpickler(pickle.Unpickler):
    """Turns tensors into their shapes and refuses every other global."""

    def persistent_load(self, pid):
        return pid

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name.startswith("_rebuild_tensor"):
            return lambda storage, offset, size, *rest: tuple(size)
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return lambda data, *rest: data
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return SimpleNamespace
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def _bare(key: str) -> str:
    """A key without the prefix that torch's DataParallel adds."""
    return key.removeprefix("module.")


def _is_own(key: str) -> bool:
    return not any(name in key for name in FROZEN)


def infer_architecture(shapes: Shapes, config: Config, path: Path | str) -> Architecture:
    """Architecture and sizes from a checkpoint's shapes, held against the configuration.

    Args:
        shapes: as from `read_shapes`.
        config: `model`, `dataset` sections; null sizes accept what the weights say.
        path: named in errors.
    Raises:
        CheckpointError: see `inspect_checkpoint`.
    """
    arch = next(
        (name for name, key in SIGNATURES.items() if any(re.match(key, k) for k in shapes)), None
    )
    if arch != "PointMamba":
        seen = f"of a {arch}" if arch else "of no architecture known here"
        raise CheckpointError(
            f"{path}: these are weights {seen} (keys {', '.join(sorted(shapes)[:4])}, ...); this "
            "version samples PointMamba checkpoints"
        )
    try:
        architecture = _point_mamba(shapes, config)
    except KeyError as missing:
        raise CheckpointError(
            f"{path}: key {missing} is missing, so its sizes cannot be read; expected a whole "
            f"{arch} state dict of {len(shapes)} or more keys. Save the checkpoint again"
        ) from None
    problems = [*_contradictions(architecture, config), *_key_faults(architecture, shapes)]
    if problems:
        raise CheckpointError(
            f"{path}: weights and configuration disagree:\n  " + "\n  ".join(problems)
        )
    return architecture


def _point_mamba(shapes: Shapes, config: Config) -> Architecture:
    first = shapes["contact_model.embedding.net.0.weight"]
    contact_dim, last_dim = shapes["contact_layer.weight"]
    time_emb_dim = shapes["timestep_embedder.pe"][-1]
    # Input columns are [x, text, time, xyz, point features]; text and features share what is left.
    text_and_features = first[1] - contact_dim - time_emb_dim - 3
    text_feat_dim = TEXT_FEAT_DIMS.get(config.model.text_model.version)
    if not config.model.scene_model.use_scene_model:
        point_feat_dim = 0
    elif config.model.scene_model.point_feat_dim is not None:
        point_feat_dim = config.model.scene_model.point_feat_dim
    else:
        point_feat_dim = text_and_features - (text_feat_dim or text_and_features)
    layer = "contact_model.layers.0.mamba."
    d_inner, d_state = shapes[layer + "A_log"]
    layers = {key.split(".")[2] for key in shapes if key.startswith("contact_model.layers.")}
    return Architecture(
        arch="PointMamba",
        contact_dim=contact_dim,
        time_emb_dim=time_emb_dim,
        text_feat_dim=text_and_features - point_feat_dim,
        point_feat_dim=point_feat_dim,
        last_dim=last_dim,
        sizes={
            "trans_dim": shapes["contact_model.layers.0.norm.weight"][0],
            "depth": len(layers),
            "hidden_dim": first[0],
            "d_inner": d_inner,
            "d_state": d_state,
            "d_conv": shapes[layer + "conv1d.weight"][-1],
            "dt_rank": shapes[layer + "dt_proj.weight"][-1],
        },
    )


def _contradictions(found: Architecture, config: Config):
    """Each configured size that the weights contradict."""
    model = config.model
    sizes = model.arch_pointmamba
    pairs = {
        "model.time_emb_dim": (model.time_emb_dim, found.time_emb_dim),
        "model.arch_pointmamba.trans_dim": (sizes.trans_dim, found.sizes["trans_dim"]),
        "model.arch_pointmamba.depth": (sizes.depth, found.sizes["depth"]),
        "model.arch_pointmamba.last_dim": (sizes.last_dim, found.last_dim),
    }
    for key, (configured, in_weights) in pairs.items():
        if configured not in (None, in_weights):
            yield f"{key} is {configured}, the weights have {in_weights}; set it to null"
    if config.dataset.contact_dim != found.contact_dim:
        yield (
            f"dataset.data_repr {config.dataset.data_repr} has {config.dataset.contact_dim} "
            f"joints, the weights (contact_layer.weight) have {found.contact_dim}; set "
            "dataset.data_repr to what the model was trained on"
        )
    version = model.text_model.version
    expected = TEXT_FEAT_DIMS.get(version, found.text_feat_dim)
    if found.text_feat_dim != expected or found.text_feat_dim < 1:
        left = found.text_feat_dim + found.point_feat_dim
        yield (
            f"text and point features have {left} columns in the weights "
            f"(contact_model.embedding.net.0.weight), the configuration {expected} + "
            f"{found.point_feat_dim}: check model.text_model.version ({version}), "
            "model.scene_model.use_scene_model and model.scene_model.point_feat_dim"
        )


def _key_faults(architecture: Architecture, shapes: Shapes):
    """Missing, unexpected and misshapen keys."""
    expected = expected_shapes(architecture)
    for key in expected:
        if key not in shapes:
            yield f"{key} is missing, expected {expected[key]}"
        elif shapes[key] != expected[key]:
            yield f"{key} is {shapes[key]}, expected {expected[key]}"
    for key in shapes:
        if key not in expected:
            yield f"{key} {shapes[key]} is unexpected"


def expected_shapes(architecture: Architecture) -> Shapes:
    """Every key of a reference PointMamba checkpoint with its shape."""
    a, s = architecture, architecture.sizes
    d, inner, state, rank = s["trans_dim"], s["d_inner"], s["d_state"], s["dt_rank"]
    columns = a.contact_dim + a.text_feat_dim + a.time_emb_dim + 3 + a.point_feat_dim
    shapes = {
        "timestep_embedder.pe": (1000, 1, a.time_emb_dim),
        **_linear("timestep_embedder.time_embed.0", a.time_emb_dim, a.time_emb_dim),
        **_linear("timestep_embedder.time_embed.2", a.time_emb_dim, a.time_emb_dim),
        **_linear("contact_model.embedding.net.0", s["hidden_dim"], columns),
        **_linear("contact_model.embedding.net.2", d, s["hidden_dim"]),
        **_norm("contact_model.embedding.net.3", d),
        **_linear("contact_model.out_proj", a.last_dim, d),
        **_linear("contact_layer", a.contact_dim, a.last_dim),
    }
    for i in range(s["depth"]):
        layer = f"contact_model.layers.{i}"
        shapes |= {
            **_norm(f"{layer}.norm", d),
            f"{layer}.mamba.in_proj.weight": (2 * inner, d),
            f"{layer}.mamba.conv1d.weight": (inner, 1, s["d_conv"]),
            f"{layer}.mamba.conv1d.bias": (inner,),
            f"{layer}.mamba.x_proj.weight": (rank + 2 * state, inner),
            **_linear(f"{layer}.mamba.dt_proj", inner, rank),
            f"{layer}.mamba.A_log": (inner, state),
            f"{layer}.mamba.D": (inner,),
            f"{layer}.mamba.out_proj.weight": (d, inner),
        }
    return shapes


def _linear(key: str, out_dim: int, in_dim: int) -> Shapes:
    return {f"{key}.weight": (out_dim, in_dim), f"{key}.bias": (out_dim,)}


def _norm(key: str, dim: int) -> Shapes:
    return {f"{key}.weight": (dim,), f"{key}.bias": (dim,)}


def load_state_dict(path: Path, sha256: str | None = None):
    """Tensors of a checkpoint on the CPU, without encoder weights and `module.` prefixes.

    Args:
        path: a file that `inspect_checkpoint` accepted.
        sha256: what the plan saw; None to skip the comparison.
    Raises:
        CheckpointError: the file changed since it was planned.
    """
    import torch

    if sha256 is not None and hash_file(path) != sha256:
        raise CheckpointError(
            f"{path}: changed since the run was planned (sha256 is no longer {sha256[:12]}...); "
            "start snakemake again"
        )
    content = torch.load(path, map_location="cpu", weights_only=True)
    return {_bare(key): value for key, value in content.items() if _is_own(key)}
