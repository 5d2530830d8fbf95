"""A small CLIP with random weights and the real vocabulary, and captions for text encoders."""

import gzip
import importlib.util
import json
from functools import cache
from pathlib import Path

import pytest
import torch

CAPTIONS = [
    "a photo of a cat",
    "  Sit   on\tthe SOFA\nthen stand up. ",
    "the person\u2019s \u201cleft\u201d hand doesn\u2019t touch it \u2013 they\u2019ve left",
    "cups &amp;amp; plates &lt;on&gt; the table &quot;now&quot;",
    "walk to the o\ufb03ce \ufb01rst",
    "\uff53\uff49\uff54 \uff24\uff2f\uff37\uff2e",
    "caf\u00e9, na\u00efve; \u65e5\u672c\u8a9e 123 4x4 \U0001f600!",
    "we're they'll I'd you'm it's 's''s !!! ... (#1)",
    "cafe&#769; and cafe\u0301, a&nbsp;b, &#xFF21; \u0130",
    "",
    "   ",
    "antidisestablishmentarianism pneumonoultramicroscopic",
    "walk to the chair and sit down " * 20,
]


def vocabulary_file() -> Path:
    spec = importlib.util.find_spec("open_clip")  # finds it without importing it
    path = spec and Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    if not path or not path.exists():
        pytest.skip("needs CLIP's vocabulary: pip install --no-deps open-clip-torch")
    return path


@cache
def vocabulary():
    """(token -> id, list of merges, byte -> printable character) as the original builds them."""
    lines = gzip.open(vocabulary_file(), "rt", encoding="utf-8").read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    chars = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    tokens = [chars[b] for b in printable + rest]
    tokens += [token + "</w>" for token in tokens]
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges, chars


def write_clip_tokenizer(folder):
    ids, merges, _ = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(ids))
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def write_clip(folder):
    """The small CLIP, 24 wide, as transformers' own classes save it."""
    import transformers

    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=32, intermediate_size=64, projection_dim=24,
        num_hidden_layers=2, num_attention_heads=4, hidden_act="quick_gelu",
        bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    transformers.CLIPTextModelWithProjection(config).save_pretrained(folder)
    write_clip_tokenizer(folder)
