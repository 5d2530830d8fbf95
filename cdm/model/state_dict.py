"""Weights files: read without torch for their shapes, or with it, never by running their pickle.

A file is what `torch.save` writes of a state dict, a dict name -> tensor.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

from cdm.errors import CheckpointError
from cdm.files import hash_file
from cdm.model.architecture import Shapes

# Frozen encoders, which the reference leaves out of its checkpoints.
FROZEN = ("scene_model", "clip_model", "text_model", "bert_model")


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
    return {_bare(key): shape for key, shape in tensors.items() if not is_frozen(key)}


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


def is_frozen(key: str) -> bool:
    """Whether a tensor belongs to a frozen encoder, which checkpoints leave out."""
    return any(name in key for name in FROZEN)


def is_scene_key(key: str) -> bool:
    """Whether the reference takes this key of a scene model's weights; it leaves the classifier."""
    return "enc" in key or "dec" in key


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
    return {_bare(key): value for key, value in content.items() if not is_frozen(key)}
