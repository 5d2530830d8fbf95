"""Weights of the frozen text encoders: found on disk and checked (no torch, no transformers).

They lie in a local folder or in the hub cache. A plan looks at them here; a job then loads them.
"""

import contextlib
import math
import os
import re
from pathlib import Path
from typing import BinaryIO

import orjson

from cdm.errors import CheckpointError, ConfigError
from cdm.model.weights_file import TensorInfo, is_zip, open_regular, read_legacy, read_saved

TEXT_FEAT_DIMS = {"ViT-B/32": 512, "ViT-L/14@336px": 768, "bert-base-uncased": 768}
HASHING_FEAT_DIM = 128  # of models trained here; a checkpoint may have any
HUB_REPOS = {
    "ViT-B/32": ["openai/clip-vit-base-patch32"],
    "ViT-L/14@336px": ["openai/clip-vit-large-patch14-336"],
    "bert-base-uncased": ["google-bert/bert-base-uncased", "bert-base-uncased"],
}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is loaded
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json")
LFS_POINTER = b"version https://git-lfs"
MAX_HEADER_BYTES = 100_000_000  # the limit that the safetensors library has


def find_text_weights(
    version: str, path: str | Path | None = None, text_feat_dim: int | None = None
) -> list[Path]:
    """Files that decide an encoder's numbers: config, weights, tokenizer; [] for "hashing".

    Looks into `path`, or else the hub cache (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface), and
    takes the first folder whose files are all there and whole.

    Args:
        version: a key of TEXT_FEAT_DIMS, or "hashing".
        path: folder with the files.
        text_feat_dim: width the contact model expects; None to accept any.
    Raises:
        ConfigError: an unknown version.
        CheckpointError: files are missing, truncated, pointers of git-LFS, or of another encoder.
    """
    if version == "hashing":
        return []
    if version not in HUB_REPOS:
        known = ", ".join([*HUB_REPOS, "hashing"])
        raise ConfigError(f"model.text_model.version is {version!r}, expected one of {known}")

    looked = []
    given = [Path(os.path.expanduser(path))] if path else []
    for folder in given or _hub_snapshots(HUB_REPOS[version]):
        try:
            problem = _missing(folder) or _damaged(folder, version, text_feat_dim)
        except OSError as error:
            problem = str(error)
        if not problem:
            return _files(folder)
        looked.append(f"  {folder}: {problem}")
    raise CheckpointError(
        f"no weights of the text encoder {version}; looked in\n"
        + "\n".join(looked)
        + "\nName a folder that holds them, as in\n"
        "  model:\n    text_model:\n      path: /path/to/folder\n"
        "or, on a machine with internet, fill the hub cache:\n"
        f"  hf download {HUB_REPOS[version][0]}"
    )


def _hub_snapshots(repos: list[str]) -> list[Path]:
    """Snapshot folders of these hub repositories: the one `main` points to, then newest first."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    home = Path(os.environ.get("HF_HOME", home))
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    folder = Path(os.path.expanduser(cache or home / "hub"))
    folders = []
    for repo in repos:
        root = folder / f"models--{repo.replace('/', '--')}"
        head = None
        with contextlib.suppress(OSError):
            head = (root / "refs/main").read_text(errors="replace").strip()
        found = [p for p in root.glob("snapshots/*") if p.is_dir()]
        found.sort(key=lambda p: (p.name == head, p.stat().st_mtime), reverse=True)
        folders += found or [root]
    return folders


def _missing(folder: Path) -> str:
    """Which files a folder lacks, "" if none."""
    if not os.path.isdir(folder):
        return "no such folder"
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any((folder / name).is_file() for name in WEIGHTS):
        missing.append(" or ".join(WEIGHTS))
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        missing.append(" or ".join("+".join(names) for names in TOKENIZERS))
    return f"missing {', '.join(missing)}" if missing else ""


def _files(folder: Path) -> list[Path]:
    weights = next(name for name in WEIGHTS if (folder / name).is_file())
    tokenizer = [name for names in TOKENIZERS for name in names] + list(OPTIONAL)
    names = ["config.json", weights, *(n for n in tokenizer if (folder / n).is_file())]
    return [folder / name for name in names]


def _damaged(folder: Path, version: str, text_feat_dim: int | None) -> str:
    """What is wrong with the files of a folder that lacks none, "" if nothing is."""
    for path in _files(folder):
        try:
            with open_regular(path) as file:
                problem = _problem(file, path, version, text_feat_dim)
        except CheckpointError as error:
            return f"{path.name}: {str(error).removeprefix(f'{path}: ')}"
        if problem:
            return f"{path.name} {problem}"
    return ""


def _problem(file: BinaryIO, path: Path, version: str, text_feat_dim: int | None) -> str:
    """What is wrong with one file, by its name; raises a ValueError for damaged content."""
    start = file.read(len(LFS_POINTER))
    if not start:
        return "is empty"
    if start == LFS_POINTER:
        return "is a git-LFS pointer and not the file itself; fetch it with: git lfs pull"
    file.seek(0)
    if path.suffix == ".json":
        try:
            fits = isinstance(orjson.loads(file.read()), dict)
        except ValueError:
            fits = False
        return "" if fits else "is not a JSON object; it may be truncated: copy it again"
    if path.name not in WEIGHTS:
        return ""
    try:
        shapes = _safetensors(file) if path.suffix == ".safetensors" else _bin(file, path)
    except ValueError as error:
        return f"is damaged ({error}); copy it again"

    # A tensor whose first axis is the width of the encoder's output.
    key = "pooler.dense.weight" if version.startswith("bert") else "text_projection.weight"
    widths = [shape[0] for name, shape in shapes.items() if name.endswith(key) and shape]
    if not widths:
        return f"holds no {key}, so it is not the encoder {version}"
    if text_feat_dim not in (None, widths[0]):
        return (
            f"gives text features of width {widths[0]}, but the contact model expects "
            f"text_feat_dim {text_feat_dim}; set model.text_model.version to the encoder it was "
            "trained with"
        )
    return ""


def _safetensors(file: BinaryIO) -> dict[str, tuple[int, ...]]:
    """Shapes of a safetensors file, whose length is held against its header.

    The format: the header's length (8 bytes, little endian), the header (JSON), the values.

    Raises:
        ValueError: it is not such a file, or not all of it.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {size} bytes")
    header = orjson.loads(file.read(length))
    shapes, last = {}, 0
    try:
        header.pop("__metadata__", None)
        for key, entry in header.items():
            start, end = entry["data_offsets"]
            bits = int((re.search(r"\d+", entry["dtype"]) or "8")[0])
            if end - start != math.prod(entry["shape"]) * bits // 8:
                raise ValueError(f"{key} has {end - start} bytes and shape {entry['shape']}")
            shapes[key], last = tuple(entry["shape"]), max(last, end)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"a header of another form: {error!r}") from None
    if last != size - 8 - length:
        raise ValueError(f"{size - 8 - length} bytes of values, the header names {last}")
    return shapes


def _bin(file: BinaryIO, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a file of torch.save, of the present format or that before torch 1.6.

    The values are not read: the files are large and the plan is made often.
    """
    saved = read_saved(file, path, read_values=False) if is_zip(file) else read_legacy(file, path)
    if not isinstance(saved, dict):
        raise ValueError(f"a {type(saved).__name__}, expected a dict of tensors")
    return {str(key): info.shape for key, info in saved.items() if isinstance(info, TensorInfo)}
