"""CLIP's text tower and its tokenizer as torch and tokenizers compute them, without transformers.

To import transformers' models takes twice as long as to import torch, in every job: they bring
torch's compiler and its distributed tensors with them. The tower is the one of Radford et al. 2021
(`CLIPTextModelWithProjection`), with the same operations in the same order, so that a vector has
the same bits. transformers' own form is the naive one, in `cdm.model.text`, and a test holds the
two together. A folder that is not in the plain form of OpenAI's models is left to it.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch
import torch.nn.functional as F
from torch import nn

START, END = "<|startoftext|>", "<|endoftext|>"
# Words, digits one by one, and runs of signs (`SimpleTokenizer.pat` of OpenAI's CLIP).
PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class NotPlain(Exception):
    """A folder that holds something else than OpenAI's models, or is damaged."""


class Sizes(NamedTuple):
    """Sizes of a text tower, by their names in config.json; the defaults are transformers'."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5


def expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every parameter of a text tower, by its name in the files."""
    width, inner = sizes.hidden_size, sizes.intermediate_size
    linear = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
    linear |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    norms = {"layer_norm1": (width,), "layer_norm2": (width,)}
    shapes = {
        "text_model.embeddings.token_embedding.weight": (sizes.vocab_size, width),
        "text_model.embeddings.position_embedding.weight": (sizes.max_position_embeddings, width),
        "text_model.final_layer_norm.weight": (width,),
        "text_model.final_layer_norm.bias": (width,),
        "text_projection.weight": (sizes.projection_dim, width),
    }
    for number in range(sizes.num_hidden_layers):
        for name, shape in (linear | norms).items():
            shapes[f"text_model.encoder.layers.{number}.{name}.weight"] = shape
            shapes[f"text_model.encoder.layers.{number}.{name}.bias"] = shape[:1]
    return shapes


class ClipText(nn.Module):
    """Ids of captions to one vector for each token.

    It has no modules for its layers: torch would draw random weights for them first.

    Args:
        config: sizes of the tower.
        weights: of `expected_shapes`, float32.
    """

    def __init__(self, config: Sizes, weights: dict[str, torch.Tensor]):
        super().__init__()
        self.config = config
        self.weights = nn.ParameterDict(  # torch allows no dots in these names
            {
                key.replace(".", "/"): nn.Parameter(value, requires_grad=False)
                for key, value in weights.items()
            }
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(batch, length) int64 -> (batch, length, hidden_size), before the projection."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        embed = partial(self._embed, "text_model/embeddings")
        x = embed("token_embedding", ids) + embed("position_embedding", positions)
        for number in range(self.config.num_hidden_layers):
            layer = f"text_model/encoder/layers/{number}"
            x = x + self._attend(layer, self._norm(f"{layer}/layer_norm1", x))
            hidden = self._linear(f"{layer}/mlp/fc1", self._norm(f"{layer}/layer_norm2", x))
            hidden = hidden * torch.sigmoid(1.702 * hidden)  # QuickGELU
            x = x + self._linear(f"{layer}/mlp/fc2", hidden)
        return self._norm("text_model/final_layer_norm", x)

    def text_projection(self, x: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) -> (..., projection_dim)."""
        return F.linear(x, self.weights["text_projection/weight"])

    def _attend(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        """Causal attention of several heads."""
        head_dim = x.shape[2] // self.config.num_attention_heads
        q, k, v = (
            self._linear(f"{layer}/self_attn/{name}_proj", x)
            .view(*x.shape[:2], -1, head_dim)
            .transpose(1, 2)
            for name in ("q", "k", "v")
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=head_dim**-0.5)
        return self._linear(f"{layer}/self_attn/out_proj", mixed.transpose(1, 2).reshape(x.shape))

    def _embed(self, part: str, name: str, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.weights[f"{part}/{name}/weight"])

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weights[f"{name}/weight"], self.weights[f"{name}/bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config.layer_norm_eps)


class ClipTokenizer:
    """CLIP's byte-pair encoding, called as a tokenizer of transformers is."""

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]]):
        from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
        from tokenizers.models import BPE

        self._tokenizer = Tokenizer(BPE(vocab, merges, end_of_word_suffix="</w>", unk_token=END))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        self._tokenizer.add_special_tokens([AddedToken(text) for text in (START, END)])
        self.bos_token_id, self.eos_token_id = vocab[START], vocab[END]

    def __call__(self, caption: str, **_: Any) -> dict[str, list[int]]:
        """The ids of a clean caption, without start and end."""
        return {"input_ids": self._tokenizer.encode(caption, add_special_tokens=False).ids}


def read_clip_text(folder: Path) -> tuple[ClipTokenizer, ClipText]:
    """Tokenizer and network, frozen and in float32.

    Raises:
        NotPlain: the folder is to be left to transformers, which reads it or says what is wrong.
    """
    try:
        tokenizer = ClipTokenizer(*_read_vocabulary(folder))
        sizes = _read_sizes(folder)
        network = ClipText(sizes, _read_weights(folder, expected_shapes(sizes)))
    except Exception as error:  # a damaged file can raise anything
        raise NotPlain(str(error)) from error
    return tokenizer, network


def _read_sizes(folder: Path) -> Sizes:
    """The sizes that config.json tells, if it tells nothing else that decides numbers."""
    config = orjson.loads((folder / "config.json").read_bytes())
    section = {"clip": config.get("text_config"), "clip_text_model": config}[config["model_type"]]
    plain = {"hidden_act": "quick_gelu", "dtype": "float32", "torch_dtype": "float32"}
    for key, usual in plain.items():
        if any(part.get(key, usual) not in (usual, None) for part in (config, section)):
            raise NotPlain(f"{key} is not {usual}")
    others = ("quantization_config", "attn_implementation", "_attn_implementation")
    if any(key in part for part in (config, section) for key in others):
        raise NotPlain("weights or attention of another kind")
    return Sizes(**{key: section[key] for key in Sizes._fields if key in section})


def _read_vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids of pieces, and the pairs that are merged, the first ones first."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        _check_special_tokens(orjson.loads(path.read_bytes()) if path.exists() else {})
    whole = folder / "tokenizer.json"
    if whole.exists():
        content = orjson.loads(whole.read_bytes())
        if any(token["content"] not in (START, END) for token in content["added_tokens"]):
            raise NotPlain("tokens of its own")
        vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    else:
        vocab = orjson.loads((folder / "vocab.json").read_bytes())
        lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    pairs = [each.split(" ") if isinstance(each, str) else each for each in merges]
    return vocab, [(first, second) for first, second in pairs]


def _check_special_tokens(settings: dict[str, Any]) -> None:
    """Raise NotPlain if a tokenizer has other special tokens than start and end."""
    for key, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and text not in (START, END, None):
            raise NotPlain(f"{key} is {text}")
        if key.endswith("special_tokens") and value:
            raise NotPlain(f"{key} are not empty")
    added = settings.get("added_tokens_decoder") or {}
    if any(token["content"] not in (START, END) for token in added.values()):
        raise NotPlain("tokens of its own")


def _read_weights(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The values of each parameter; the image tower, which most files hold too, stays unread."""
    path = folder / "model.safetensors"
    if path.exists():
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            # Cloned, because what this gives lives in the file.
            weights = {key: file.get_tensor(key).clone() for key in shapes}
    else:
        content = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        weights = {key: content[key] for key in shapes}
    for key, value in weights.items():
        if value.dtype != torch.float32 or value.shape != shapes[key]:
            raise NotPlain(f"{key} is {value.dtype} {tuple(value.shape)}")
    return weights
