"""Frozen text encoders: captions to the vectors a contact model was trained on.

CLIP (Radford et al. 2021) and BERT (Devlin et al. 2019) come from a local folder or the hub
cache, never from the network; "hashing" needs no weights at all. Finding the files imports
neither torch nor transformers, so a plan can do it.
"""

import hashlib
import html
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path

from cdm.errors import CheckpointError, ConfigError

TEXT_FEAT_DIMS = {"ViT-B/32": 512, "ViT-L/14@336px": 768, "bert-base-uncased": 768}
HASHING_FEAT_DIM = 128  # of models trained here; a checkpoint may have any
HUB_REPOS = {
    "ViT-B/32": ["openai/clip-vit-base-patch32"],
    "ViT-L/14@336px": ["openai/clip-vit-large-patch14-336"],
    "bert-base-uncased": ["google-bert/bert-base-uncased", "bert-base-uncased"],
}
CONTEXT_LENGTH = 77  # CLIP's
# Every batch has this many rows, empty captions filling the last one: matrix products then have
# one shape, and a caption's vector has the same bits whatever is encoded beside it.
BATCH_SIZE = 32

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is loaded
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json")


def load_text_encoder(
    version: str, max_length: int | None, text_feat_dim: int, path=None, device="cpu"
) -> Callable:
    """Load an encoder: encode(captions: list[str]) -> (n, text_feat_dim) float32 tensor.

    Args:
        version: a key of TEXT_FEAT_DIMS, or "hashing" (any width).
        max_length: tokens kept besides start and end; None keeps what the encoder can take.
        text_feat_dim: width the contact model expects.
        path: folder with the weights; None looks into the hub cache.
    Raises:
        CheckpointError: weights are missing, incomplete, or of another width.
    """
    if version == "hashing":
        return lambda captions: _hashing(captions, text_feat_dim).to(device)
    folder = find_text_weights(version, path)[0].parent
    load = _load_bert if version.startswith("bert") else _load_clip
    try:
        tokenize, embed, width = load(folder, max_length, device)
    except ImportError as error:
        raise CheckpointError(
            f"transformers cannot provide {version} ({error}). Most often torchvision is there in "
            "a build for another torch: pip uninstall torchvision, or install the one of your torch"
        ) from error
    if width != text_feat_dim:
        raise CheckpointError(
            f"{folder}: {version} gives text features of width {width}, but the contact model "
            f"expects text_feat_dim {text_feat_dim}; set model.text_model.version to the encoder "
            "it was trained with"
        )
    return lambda captions: _encode_distinct(captions, tokenize, embed, width, device)


def find_text_weights(version: str, path=None) -> list[Path]:
    """Files that decide the numbers: config, weights, tokenizer; [] for "hashing".

    Looks into `path`, or else the hub cache (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface).
    """
    if version == "hashing":
        return []
    if version not in HUB_REPOS:
        known = ", ".join([*HUB_REPOS, "hashing"])
        raise ConfigError(f"model.text_model.version is {version!r}, expected one of {known}")

    looked = []
    for folder in [Path(path).expanduser()] if path else _hub_snapshots(HUB_REPOS[version]):
        missing = _missing(folder)
        if not missing:
            return _files(folder)
        looked.append(f"  {folder}: {missing}")
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
    cache = Path(cache or home / "hub").expanduser()
    folders = []
    for repo in repos:
        root = cache / f"models--{repo.replace('/', '--')}"
        main = root / "refs/main"
        head = main.read_text().strip() if main.is_file() else None
        found = [p for p in root.glob("snapshots/*") if p.is_dir()]
        found.sort(key=lambda p: (p.name == head, p.stat().st_mtime), reverse=True)
        folders += found or [root]
    return folders


def _missing(folder: Path) -> str:
    """What keeps a folder from being loaded, "" if nothing does."""
    if not folder.is_dir():
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


def clean(caption: str) -> str:
    """OpenAI CLIP's text cleaning (`simple_tokenizer.py`): encoding, entities, spaces, case."""
    import ftfy

    caption = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
    return re.sub(r"\s+", " ", caption).strip().lower()


def clip_token_ids(tokenizer, caption: str, max_length: int | None) -> list[int]:
    """The CONTEXT_LENGTH ids of a caption: start, pieces, end, then zeros.

    Too long a caption is cut to max_length + 2 ids, the last of which becomes the end, as with
    `clip.tokenize(truncate=True)`; the filling is id 0, not the end token.
    """
    length = _length(max_length, CONTEXT_LENGTH)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    pieces = tokenizer(clean(caption), add_special_tokens=False, verbose=False)["input_ids"]
    ids = [start, *pieces, end][:length]
    ids[-1] = end
    return ids + [0] * (CONTEXT_LENGTH - len(ids))


def _length(max_length: int | None, limit: int) -> int:
    """Ids kept, start and end included."""
    length = limit if max_length is None else max_length + 2
    if not 2 < length <= limit:
        raise ConfigError(
            f"model.text_model.max_length is {max_length}, expected 1 to {limit - 2}, or null"
        )
    return length


def load_clip_tokenizer(folder: Path):
    """CLIP's byte-pair encoding alone: normalising the text is `clean`'s part."""
    from tokenizers import normalizers
    from transformers import CLIPTokenizerFast

    tokenizer = _offline(CLIPTokenizerFast, folder)
    # transformers composes characters (NFC) after entities are resolved, the original does not.
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([])
    return tokenizer


def _load_clip(folder: Path, max_length, device):
    import torch
    from transformers import CLIPTextModelWithProjection

    tokenizer = load_clip_tokenizer(folder)
    model = _load_model(CLIPTextModelWithProjection, folder, device)

    def tokenize(caption):
        return clip_token_ids(tokenizer, caption, max_length)

    def embed(ids):  # (batch, CONTEXT_LENGTH) int64 -> (batch, width)
        # The vector at the first end token. Done here because where transformers looks for it
        # depends on `eos_token_id`, which older configurations state wrongly.
        position = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        hidden = model(input_ids=ids).last_hidden_state
        return model.text_projection(hidden[torch.arange(len(ids), device=ids.device), position])

    return tokenize, embed, model.text_projection.out_features


def _load_bert(folder: Path, max_length, device):
    from transformers import BertModel, BertTokenizerFast

    tokenizer = _offline(BertTokenizerFast, folder)
    model = _load_model(BertModel, folder, device)
    length = _length(max_length, model.config.max_position_embeddings)

    def tokenize(caption):
        return tokenizer(
            caption, max_length=length, truncation=True, padding="max_length", verbose=False
        )["input_ids"]

    def embed(ids):  # (batch, length) int64 -> (batch, width)
        mask = ids != tokenizer.pad_token_id
        return model(input_ids=ids, attention_mask=mask.long()).pooler_output

    return tokenize, embed, model.config.hidden_size


def _offline(cls, folder: Path, **kwargs):
    try:
        return cls.from_pretrained(str(folder), local_files_only=True, **kwargs)
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{folder}: {cls.__name__} cannot be loaded: {error}") from error


def _load_model(cls, folder: Path, device):
    """Frozen float32 weights; a key that is not in the file would silently stay random."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # or it lists the image tower of every CLIP file as unexpected
    logging.disable_progress_bar()
    model, info = _offline(cls, folder, output_loading_info=True)
    if info["missing_keys"]:
        raise CheckpointError(
            f"{folder}: not the weights of a {cls.__name__}, {len(info['missing_keys'])} keys are "
            f"missing, such as {min(info['missing_keys'])}; check model.text_model.version and path"
        )
    return model.float().to(device).eval().requires_grad_(False)


def _encode_distinct(captions: list[str], tokenize, embed, width: int, device):
    """Each distinct caption once, in batches of one shape."""
    import torch

    distinct = list(dict.fromkeys(captions))
    features = torch.empty(len(distinct), width)
    for start in range(0, len(distinct), BATCH_SIZE):
        batch = distinct[start : start + BATCH_SIZE]
        filled = batch + [""] * (BATCH_SIZE - len(batch))
        ids = torch.tensor([tokenize(caption) for caption in filled], device=device)
        with torch.inference_mode():
            features[start : start + len(batch)] = embed(ids)[: len(batch)].cpu()
    row = {caption: i for i, caption in enumerate(distinct)}
    return features[[row[caption] for caption in captions]].to(device)


def _hashing(captions: list[str], width: int):
    """Signed hashing of words and word pairs (Weinberger et al. 2009), of length sqrt(width).

    Entries are about 1, so that a model hears the words beside its other inputs. Deterministic
    and without weights; a caption without a word gives zeros.
    """
    import torch

    features = torch.zeros(len(captions), width, dtype=torch.float64)
    for row, caption in zip(features, captions, strict=True):
        words = re.findall(r"\w+", caption.lower())
        for term in words + [f"{a} {b}" for a, b in itertools.pairwise(words)]:
            code = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")
            row[(code >> 1) % width] += 1 if code & 1 else -1
    return (width**0.5 * torch.nn.functional.normalize(features, dim=1)).float()
