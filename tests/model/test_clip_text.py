"""CLIP without transformers: the same ids and the same bits, and what is left to transformers."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_encoders import CAPTIONS, write_clip

from cdm.model.clip_text import NotPlain, Sizes, expected_shapes, read_clip_text
from cdm.model.text import clip_parts, clip_token_ids, naive_clip_text


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


@pytest.fixture
def folder(clip_folder, tmp_path):
    """A copy of the small CLIP, to change."""
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def both(clip_folder):
    """(tokenizer, network) without transformers, and by it."""
    return read_clip_text(clip_folder), naive_clip_text(clip_folder)


def change(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def vectors(form, captions, max_length=None):
    loaded = clip_parts(*form, max_length)
    with torch.inference_mode():
        return loaded.embed(torch.tensor([loaded.tokenize(caption) for caption in captions]))


@pytest.mark.parametrize("caption", [*CAPTIONS, "<|endoftext|> !!! <|startoftext|>x", "\u2581\x00"])
def test_ids_are_those_of_transformers(both, caption):
    (fast, _), (naive, _) = both
    assert clip_token_ids(fast, caption, None) == clip_token_ids(naive, caption, None)
    assert (fast.bos_token_id, fast.eos_token_id) == (49406, 49407)


@pytest.mark.parametrize("max_length", [None, 20, 1])
@pytest.mark.parametrize("rows", [1, 5, len(CAPTIONS)])
def test_vectors_have_the_bits_of_transformers(both, max_length, rows):
    fast, naive = (vectors(form, CAPTIONS[:rows], max_length) for form in both)
    assert fast.dtype == torch.float32 and fast.shape == (rows, 24)
    assert torch.equal(fast, naive)


def test_hidden_vectors_of_a_wider_network_have_the_same_bits(tmp_path):
    import transformers

    torch.manual_seed(2)
    config = transformers.CLIPTextConfig(
        hidden_size=192, intermediate_size=768, projection_dim=96, num_hidden_layers=3,
        num_attention_heads=3, vocab_size=1000, layer_norm_eps=1e-4,
    )  # fmt: skip
    transformers.CLIPTextModelWithProjection(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    naive = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    ids = torch.randint(1000, (32, 77), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = naive(input_ids=ids).last_hidden_state
        assert torch.equal(read_clip_text(tmp_path)[1](ids), expected)


def test_a_file_with_the_image_tower_and_a_nested_configuration_is_read(both, folder):
    config = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "clip", "text_config": config, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(whole))
    state = load_file(folder / "model.safetensors")
    state |= {"vision_model.x": torch.zeros(3), "logit_scale": torch.zeros(())}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(vectors(read_clip_text(folder), CAPTIONS), vectors(both[1], CAPTIONS))


def test_weights_saved_by_torch_and_one_tokenizer_file_are_read(both, folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    both[1][0].save_pretrained(folder)  # tokenizer.json
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    assert (folder / "tokenizer.json").exists()
    assert torch.equal(vectors(read_clip_text(folder), CAPTIONS), vectors(both[1], CAPTIONS))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"hidden_act": "gelu"}),
        ("config.json", {"dtype": "float16"}),
        ("config.json", {"quantization_config": {}}),
        ("config.json", {"model_type": "siglip"}),
        ("config.json", {"num_hidden_layers": 3}),
        ("config.json", {"projection_dim": 25}),
        ("tokenizer_config.json", {"pad_token": "!"}),
        ("special_tokens_map.json", {"additional_special_tokens": ["<person>"]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": "<person>"}}}),
        ("vocab.json", {"<|endoftext|>": "x"}),
    ],
)
def test_what_is_not_in_the_plain_form_is_left_to_transformers(folder, name, changes):
    change(folder / name, **changes)
    with pytest.raises(NotPlain):
        read_clip_text(folder)


def test_half_precision_and_damaged_weights_are_left_to_transformers(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file({key: value.half() for key, value in state.items()}, path)
    with pytest.raises(NotPlain, match="float16"):
        read_clip_text(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(NotPlain):
        read_clip_text(folder)


def test_the_sizes_of_vit_b_32_have_63_million_parameters():
    shapes = expected_shapes(Sizes())
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 63_428_096
    assert len(shapes) == 5 + 12 * 16


def test_clip_needs_neither_transformers_nor_a_compiler(clip_folder):
    code = (
        "import sys; from cdm.model.text import load_text_encoder\n"
        f"load_text_encoder('ViT-B/32', 20, 24, {str(clip_folder)!r})(['sit', 'stand up'])\n"
        "print({'transformers', 'torch._dynamo', 'sympy', 'torch.distributed.tensor'}"
        " & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
