"""Frozen text encoders: captions to the vectors a contact model was trained on.

CLIP (Radford et al. 2021) and BERT (Devlin et al. 2019) are loaded from the files that
`cdm.model.text_weights` finds. The network is never used. "hashing" needs no weights.
"""

import hashlib
import html
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from cdm.errors import CheckpointError, ConfigError
from cdm.model.text_weights import find_text_weights

CONTEXT_LENGTH = 77  # ids of a caption in CLIP
# Every batch has this many rows; empty captions fill the last one. All matrix products then have
# one shape, and a caption's vector has the same bits whatever is encoded beside it.
BATCH_SIZE = 32
GPU_BATCH_SIZE = 256  # a smaller batch leaves most of a GPU idle


@dataclass(frozen=True)
class TextEncoder:
    """A frozen encoder. Called with n captions, it gives an (n, text_feat_dim) float32 tensor.

    Attributes:
        encode: captions to features, on the device where the network is.
        num_tokens: tokens of a whole caption, start and end included.
        length: how many of them are read, start and end included; None for all.
        network: what computes the features; None if none is needed.
    """

    encode: Callable[[list[str]], Any]
    num_tokens: Callable[[str], int] | None = None
    length: int | None = None
    network: Any = None

    def __call__(self, captions: list[str]):
        return self.encode(captions)

    def to(self, device: str) -> "TextEncoder":
        """This encoder, with its network on another device."""
        if self.network is not None:
            self.network.to(device)
        return self

    def cut(self, captions: Iterable[str]) -> frozenset[str]:
        """Those captions that have more tokens than are read, so that their ends are cut off."""
        if self.num_tokens is None or self.length is None:
            return frozenset()
        return frozenset(c for c in captions if self.num_tokens(c) > self.length)


def load_text_encoder(
    version: str, max_length: int | None, text_feat_dim: int, path=None, device="cpu"
) -> TextEncoder:
    """Load an encoder.

    Args:
        version: a key of TEXT_FEAT_DIMS, or "hashing" (any width).
        max_length: tokens that are kept: for CLIP besides start and end, for BERT with [CLS] and
            [SEP] among them, both as in afford-motion. None keeps as many as the encoder can take.
        text_feat_dim: width the contact model expects.
        path: folder with the weights; None looks into the hub cache.
    Returns:
        The encoder. It raises a CheckpointError where a vector has NaN or infinity.
    Raises:
        CheckpointError: weights are missing, damaged, incomplete, or of another width.
    """
    if version == "hashing":  # reads a caption of any length
        return TextEncoder(lambda captions: _hashing(captions, text_feat_dim).to(device))
    folder = find_text_weights(version, path)[0].parent
    load = _load_bert if version.startswith("bert") else _load_clip
    try:
        loaded = load(folder, max_length, device)
    except ImportError as error:
        raise CheckpointError(
            f"transformers cannot provide {version} ({error}). Most often torchvision is there in "
            "a build for another torch: pip uninstall torchvision, or install the one of your torch"
        ) from error
    if loaded.width != text_feat_dim:
        raise CheckpointError(
            f"{folder}: {version} gives text features of width {loaded.width}, but the contact "
            f"model expects text_feat_dim {text_feat_dim}; set model.text_model.version to the "
            "encoder it was trained with"
        )
    return TextEncoder(
        lambda captions: _encode_distinct(captions, loaded),
        loaded.num_tokens,
        loaded.length,
        loaded.network,
    )


class Loaded(NamedTuple):
    """An encoder's parts.

    Args:
        tokenize: a caption to its ids, cut and padded to one length.
        embed: (batch, ids) int64 to (batch, width) float32.
        width: of the features.
        num_tokens, length, network: as in `TextEncoder`.
    """

    tokenize: Callable[[str], list[int]]
    embed: Callable
    width: int
    num_tokens: Callable[[str], int]
    length: int
    network: Any


def clean_caption(caption: str) -> str:
    """Clean a caption as OpenAI's CLIP does: repair encoding, resolve entities, lower case.

    Matches `basic_clean` and `whitespace_clean` of CLIP's `simple_tokenizer.py`.
    """
    import ftfy

    caption = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
    return re.sub(r"\s+", " ", caption).strip().lower()


def clip_token_ids(tokenizer, caption: str, max_length: int | None) -> list[int]:
    """The CONTEXT_LENGTH ids of a caption: start, pieces, end, then zeros.

    A caption that is too long is cut to max_length + 2 ids, and the last of these becomes the end
    token, as `clip.tokenize(truncate=True)` does. The padding is id 0, not the end token.
    """
    return _cut_and_padded(_clip_ids(tokenizer, caption), tokenizer, max_length)


def _cut_and_padded(ids: list[int], tokenizer, max_length: int | None) -> list[int]:
    """The ids that `clip_token_ids` gives of all ids of a caption."""
    ids = ids[: _clip_length(max_length)]
    ids[-1] = tokenizer.eos_token_id
    return ids + [0] * (CONTEXT_LENGTH - len(ids))


def _clip_ids(tokenizer, caption: str) -> list[int]:
    """All ids of a caption: start, pieces, end."""
    pieces = tokenizer(clean_caption(caption), add_special_tokens=False, verbose=False)["input_ids"]
    return [tokenizer.bos_token_id, *pieces, tokenizer.eos_token_id]


def _clip_length(max_length: int | None) -> int:
    """How many ids of a caption CLIP reads, start and end included."""
    length = CONTEXT_LENGTH if max_length is None else max_length + 2
    if not 2 < length <= CONTEXT_LENGTH:
        raise ConfigError(
            f"model.text_model.max_length is {max_length}, expected 1 to {CONTEXT_LENGTH - 2}, or "
            "null"
        )
    return length


def _bert_length(max_length: int | None, limit: int) -> int:
    """How many ids of a caption BERT reads, [CLS] and [SEP] included.

    afford-motion hands `max_length` to BERT's tokenizer, which counts these two. For CLIP it adds
    two to it.
    """
    length = limit if max_length is None else max_length
    if not 2 <= length <= limit:
        raise ConfigError(
            f"model.text_model.max_length is {max_length}, expected 2 to {limit}, or null: with "
            "BERT it counts [CLS] and [SEP]"
        )
    return length


def naive_clip_text(folder: Path):
    """Tokenizer and network by transformers; `cdm.model.clip_text` does without its long import."""
    from transformers import CLIPTextModelWithProjection

    return load_clip_tokenizer(folder), _load_model(CLIPTextModelWithProjection, folder, "cpu")


def load_clip_tokenizer(folder: Path):
    """CLIP's byte-pair encoding, without normalisation: `clean_caption` does that before it."""
    from tokenizers import normalizers
    from transformers import CLIPTokenizerFast

    tokenizer = _offline(CLIPTokenizerFast, folder)
    # transformers composes characters (NFC) after entities are resolved. The original does not.
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([])
    return tokenizer


def _load_clip(folder: Path, max_length, device) -> Loaded:
    from cdm.model.clip_text import NotPlain, read_clip_text

    try:
        tokenizer, model = read_clip_text(folder)
    except NotPlain:
        tokenizer, model = naive_clip_text(folder)
    return clip_parts(tokenizer, model.to(device), max_length)


def clip_parts(tokenizer, model, max_length: int | None) -> Loaded:
    """The encoder's parts, from either form of tokenizer and network."""
    import torch

    # A job looks which captions are too long while it waits for a GPU, and encodes them there.
    all_ids = cache(partial(_clip_ids, tokenizer))

    def tokenize(caption):
        return _cut_and_padded(all_ids(caption), tokenizer, max_length)

    def embed(ids):  # (batch, CONTEXT_LENGTH) int64 -> (batch, width)
        # The vector at the first end token. It is found here and not by transformers, which relies
        # on `eos_token_id`: older configurations state that wrongly.
        position = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        hidden = model(ids)
        hidden = getattr(hidden, "last_hidden_state", hidden)  # transformers gives several things
        return model.text_projection(hidden[torch.arange(len(ids), device=ids.device), position])

    return Loaded(
        tokenize,
        embed,
        width=model.config.projection_dim,
        num_tokens=lambda caption: len(all_ids(caption)),
        length=_clip_length(max_length),
        network=model,
    )


def _load_bert(folder: Path, max_length, device) -> Loaded:
    from transformers import BertModel, BertTokenizerFast

    tokenizer = _offline(BertTokenizerFast, folder)
    model = _load_model(BertModel, folder, device)
    length = _bert_length(max_length, model.config.max_position_embeddings)

    def tokenize(caption):
        return tokenizer(
            caption, max_length=length, truncation=True, padding="max_length", verbose=False
        )["input_ids"]

    def embed(ids):  # (batch, length) int64 -> (batch, width)
        mask = ids != tokenizer.pad_token_id
        return model(input_ids=ids, attention_mask=mask.long()).pooler_output

    def num_tokens(caption):
        return len(tokenizer(caption, verbose=False)["input_ids"])

    return Loaded(tokenize, embed, model.config.hidden_size, num_tokens, length, model)


def _offline(cls, folder: Path, **kwargs):
    try:
        return cls.from_pretrained(str(folder), local_files_only=True, **kwargs)
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{folder}: {cls.__name__} cannot be loaded: {error}") from error


def _load_model(cls, folder: Path, device):
    """Frozen float32 weights.

    Raises:
        CheckpointError: keys are missing; transformers would leave those weights random.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # else it lists the image tower of every CLIP file as unexpected
    logging.disable_progress_bar()
    model, info = _offline(cls, folder, output_loading_info=True)
    if info["missing_keys"]:
        raise CheckpointError(
            f"{folder}: not the weights of a {cls.__name__}, {len(info['missing_keys'])} keys are "
            f"missing, such as {min(info['missing_keys'])}; check model.text_model.version and path"
        )
    return model.float().to(device).eval().requires_grad_(False)


def _encode_distinct(captions: list[str], loaded: Loaded):
    """Encode each distinct caption once, in batches of one shape."""
    import torch

    device = next(loaded.network.parameters()).device
    batch_size = BATCH_SIZE if device.type == "cpu" else GPU_BATCH_SIZE
    distinct = list(dict.fromkeys(captions))
    features = torch.empty(len(distinct), loaded.width)
    for start in range(0, len(distinct), batch_size):
        batch = distinct[start : start + batch_size]
        filled = batch + [""] * (batch_size - len(batch))
        ids = torch.tensor([loaded.tokenize(caption) for caption in filled], device=device)
        with torch.inference_mode():
            features[start : start + len(batch)] = loaded.embed(ids)[: len(batch)].cpu()
    if not features.isfinite().all():
        bad = distinct[int(features.isfinite().all(dim=1).logical_not().nonzero()[0, 0])]
        raise CheckpointError(
            f"the text encoder gave NaN or infinity for {bad!r}: its weights are damaged; copy "
            "them again, or look at model.text_model.path"
        )
    row = {caption: i for i, caption in enumerate(distinct)}
    return features[[row[caption] for caption in captions]].to(device)


def _hashing(captions: list[str], width: int):
    """Vectors of length sqrt(width) by signed hashing of words and word pairs.

    After Weinberger et al. 2009. The length makes entries about 1, as large as a model's other
    inputs. There are no weights and nothing is random. A caption without a word gives zeros.
    """
    import numpy as np
    import torch

    counts = np.zeros((len(captions), width))  # torch takes ten times as long to add 1 to an entry
    for row, caption in zip(counts, captions, strict=True):
        words = re.findall(r"\w+", caption.lower())
        for term in words + [f"{a} {b}" for a, b in itertools.pairwise(words)]:
            code = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")
            row[(code >> 1) % width] += 1 if code & 1 else -1
    return (width**0.5 * torch.nn.functional.normalize(torch.from_numpy(counts), dim=1)).float()
