"""The weights in a checkpoint file: which of its entries they are, and their values.

Training scripts save a state dict (name -> tensor) plainly, inside a dict of bookkeeping, or under
keys with a prefix. `choose_weights` finds it. The plan applies it to shapes and a job to tensors,
so that both see the same keys.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cdm.errors import CheckpointError, listed, printable
from cdm.model.architecture import Shapes
from cdm.model.weights_file import TensorInfo, hash_open, not_finite, open_regular, read_saved

# Parts of key names that belong to frozen encoders. afford-motion leaves them out of checkpoints.
FROZEN = ("scene_model", "clip_model", "text_model", "bert_model")
# What wrappers put before a key: DataParallel, torch.compile, and modules that hold the model.
PREFIXES = ("module.", "_orig_mod.", "model.")
# A counter that torch's AveragedModel keeps among the weights.
AVERAGED = "n_averaged"
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("num_batches_tracked",)  # ends of keys whose values may be int64
LISTED = 10  # entries in a message


class Kind(NamedTuple):
    """Which weights are wanted.

    Attributes:
        anchor: a key that all weights of this kind have.
        wanted: whether a key is loaded.
    """

    anchor: str
    wanted: Callable[[str], bool]


def is_frozen(key: str) -> bool:
    """Whether a tensor belongs to a frozen encoder, which checkpoints leave out."""
    return any(name in key for name in FROZEN)


def is_scene_key(key: str) -> bool:
    """Whether afford-motion loads this key of a scene model; it leaves the classifier out."""
    return "enc" in key or "dec" in key


CONTACT_WEIGHTS = Kind("contact_layer.weight", lambda key: True)
SCENE_WEIGHTS = Kind("enc1.0.linear.weight", is_scene_key)


class Inspected(NamedTuple):
    """A weights file as the plan sees it.

    Attributes:
        shapes: of every tensor that is loaded, by its key.
        sha256: of the whole file.
        read_as: where the weights were found and what was left out; "" for a plain state dict.
    """

    shapes: Shapes
    sha256: str
    read_as: str


def inspect_weights(path: Path, kind: Kind = CONTACT_WEIGHTS) -> Inspected:
    """Read the names and shapes of a file's tensors, without torch and without running its pickle.

    Raises:
        CheckpointError: truncated, damaged, not a dict of tensors, one that a job could not load
            without a guess (see `choose_weights`), or with values that no model can have.
    """
    with open_regular(path) as file:
        sha256 = hash_open(file)
        content = read_saved(file, path)
        tensors, read_as = choose_weights(content, TensorInfo, kind, path)
        _check_dtypes({key: info.dtype for key, info in tensors.items()}, path)
        _check_finite(not_finite(file, tensors), path)
    return Inspected({key: info.shape for key, info in tensors.items()}, sha256, read_as)


def read_shapes(path: Path, kind: Kind = CONTACT_WEIGHTS) -> Shapes:
    """The shapes of `inspect_weights`."""
    return inspect_weights(path, kind).shapes


def load_state_dict(path: Path, sha256: str | None = None, kind: Kind = CONTACT_WEIGHTS):
    """The tensors of a checkpoint on the CPU, by the keys that `inspect_weights` gives.

    Args:
        path: a file that `inspect_weights` accepted.
        sha256: what the plan saw; None to skip the comparison.
    Raises:
        CheckpointError: the file changed since it was planned, or holds NaN or infinity.
    """
    import torch

    # One open file is hashed and loaded, so that no other file can take its place in between.
    with open_regular(path) as file:
        if sha256 is not None and hash_open(file) != sha256:
            raise CheckpointError(
                f"{path}: changed since the run was planned (sha256 is no longer "
                f"{sha256[:12]}...); start snakemake again"
            )
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise almost anything
            raise CheckpointError(
                f"{path}: torch cannot load it ({type(error).__name__}: {str(error)[:300]}); save "
                "the weights again: torch.save(model.state_dict(), path)"
            ) from None
    state, _ = choose_weights(content, torch.Tensor, kind, path)
    _check_dtypes({key: str(x.dtype).removeprefix("torch.") for key, x in state.items()}, path)
    _check_finite([key for key, x in state.items() if not x.float().isfinite().all()], path)
    return state


def choose_weights(
    content: Any, tensor: type, kind: Kind, path: Path
) -> tuple[dict[str, Any], str]:
    """Find the one state dict in a saved object, and take prefixes off its keys.

    The state dict may be the object itself or lie under up to two names, such as "model" or
    "ema". Entries beside it that are no tensors are left out.

    Args:
        content: what `torch.load` or `read_saved` gave.
        tensor: the type of its tensors.
        kind: decides between several dicts of tensors.
        path: named in errors.
    Returns:
        The weights by their bare keys, and a sentence that says where they were found; "" where
        the object is these weights and no more.
    Raises:
        CheckpointError: there are none, several dicts could be meant, or two keys name one weight.
    """
    place, entries = _find_dict(content, tensor, kind, path)

    # Tensors under names are weights, but for those of frozen encoders and a counter.
    named = {
        key: value
        for key, value in entries.items()
        if isinstance(key, str) and isinstance(value, tensor) and not is_frozen(key)
    }
    if AVERAGED in named and all(key.startswith("module.") for key in named if key != AVERAGED):
        del named[AVERAGED]

    # Each bare key must come from one key of the file.
    weights: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for key, value in named.items():
        bare = _bare(key)
        if not kind.wanted(bare):
            continue
        if bare in origin:
            raise CheckpointError(
                f"{path}: {origin[bare]} and {key} both name the weight {bare}, so it is not known "
                "which of them was trained; save a state dict that has each weight once"
            )
        weights[bare], origin[bare] = value, key
    return weights, _describe(content, place, entries, origin, named, tensor)


def _find_dict(content: Any, tensor: type, kind: Kind, path: Path) -> tuple[tuple[str, ...], dict]:
    """The dict of tensors with the anchor, or the only one there is, and the names leading to it.

    Raises:
        CheckpointError: there is none, or more than one.
    """
    found = list(_dicts_of_tensors(content, tensor)) if isinstance(content, dict) else []
    if not found:
        seen = type(content).__name__
        seen = listed(content, LISTED, ", ") if isinstance(content, dict) else seen
        raise CheckpointError(
            f"{path}: found {seen[:200]}, expected a dict of tensors such as {kind.anchor}"
        )
    likely = [
        (place, entries)
        for place, entries in found
        if any(isinstance(key, str) and _bare(key) == kind.anchor for key in entries)
    ]
    likely = likely or found
    if len(likely) > 1:
        names = [".".join(place) or "the file itself" for place, _ in likely]
        chosen = "".join(f"[{name!r}]" for name in likely[-1][0])
        raise CheckpointError(
            f"{path}: holds several dicts of tensors ({listed(names, LISTED, ', ')}), expected one "
            f"with {kind.anchor}. Save the one that is meant in its place, such as the last:\n"
            f'  python -c "import torch; p = {str(path)!r}; torch.save('
            f'torch.load(p, weights_only=True){chosen}, p)"'
        )
    return likely[0]


def _dicts_of_tensors(content: dict, tensor: type, place: tuple[str, ...] = ()):
    """(names that lead to it, dict) of every dict with tensors under names, two levels down."""
    if any(isinstance(x, tensor) and isinstance(key, str) for key, x in content.items()):
        yield place, content
    for key, value in content.items() if len(place) < 2 else ():
        if isinstance(key, str) and isinstance(value, dict):
            yield from _dicts_of_tensors(value, tensor, (*place, key))


def _bare(key: str) -> str:
    """A key without the prefixes that wrappers add."""
    key = key.replace("_orig_mod.", "")
    return re.sub(rf"^({'|'.join(map(re.escape, PREFIXES))})+", "", key)


def _describe(content, place, entries, origin, named, tensor) -> str:
    """What `choose_weights` did beyond taking the file as it is."""
    told = [f"weights under {'.'.join(place)}"] if place else []
    removed = {key[: len(key) - len(bare)] for bare, key in origin.items() if key.endswith(bare)}
    if any(not key.endswith(bare) for bare, key in origin.items()):
        removed.add("_orig_mod.")
    if removed - {""}:
        told.append(f"{', '.join(sorted(removed - {''}))} taken out of the keys")
    beside = [
        key for key, x in entries.items() if not (isinstance(key, str) and isinstance(x, tensor))
    ]
    beside += [key for key in content if place and key != place[0]]
    beside += [AVERAGED] if AVERAGED in entries and AVERAGED not in named else []
    if beside:
        told.append(f"left out: {listed(beside, LISTED, ', ')}")
    return printable("; ".join(told))


def _check_dtypes(dtypes: dict[str, str], path: Path) -> None:
    """Refuse a file with weights that are no floats; counters may be int64."""
    wrong = [
        f"{key} is {dtype}"
        for key, dtype in dtypes.items()
        if dtype not in FLOATS and not (dtype == "int64" and key.endswith(INTEGERS))
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: weights of a type that a model cannot have:\n  {listed(wrong, LISTED)}\n"
            f"Expected {', '.join(FLOATS)}; save the model's own state dict, not a quantised or "
            "converted one"
        )


def _check_finite(wrong: list[str], path: Path) -> None:
    """Refuse the file if keys are given, whose tensors have values that are no finite float32."""
    if wrong:
        raise CheckpointError(
            f"{path}: NaN or infinity in {listed(wrong, LISTED, ', ')}; every weight must be a "
            "finite float32. Training diverged or the file was damaged: use an earlier checkpoint"
        )
