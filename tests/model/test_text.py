"""Frozen text encoders: real loading code over small random weights, the real CLIP vocabulary."""

import html
import itertools
import json
import socket

import ftfy
import pytest
import regex
import torch
import transformers
from safetensors.torch import load_file, save_file
from text_encoders import CAPTIONS, vocabulary, write_clip

from cdm.errors import CheckpointError, ConfigError
from cdm.model.text import (
    BATCH_SIZE,
    CONTEXT_LENGTH,
    clean_caption,
    clip_token_ids,
    load_clip_tokenizer,
    load_text_encoder,
)

# ---- CLIP's byte-pair encoding, written from the description of the original tokenizer ----


def bpe_ids(caption: str) -> list[int]:
    """Ids of a cleaned caption, without start and end: merge the best-ranked pair, repeatedly."""
    ids, merges, chars = vocabulary()
    rank = {pair: i for i, pair in enumerate(merges)}
    words = regex.findall(
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", caption, regex.IGNORECASE
    )
    out = []
    for word in words:
        parts = [chars[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(itertools.pairwise(parts), key=lambda p: rank.get(p, 1e9))
            if best not in rank:
                break
            merged, i = [], 0
            while i < len(parts):
                pair = tuple(parts[i : i + 2]) == best
                merged.append("".join(best) if pair else parts[i])
                i += 2 if pair else 1
            parts = merged
        out += [ids[part] for part in parts]
    return out


def expected_ids(caption: str, length: int) -> list[int]:
    text = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
    text = regex.sub(r"\s+", " ", text).strip().lower()
    ids = [49406, *bpe_ids(text), 49407]
    if len(ids) > length:
        ids = [*ids[: length - 1], 49407]
    return ids + [0] * (CONTEXT_LENGTH - len(ids))


# ---- small random weights, saved and loaded by transformers' own classes ----


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a person walks to the table and sits down ##s ."
    (folder / "vocab.txt").write_text("\n".join(words.split()) + "\n")
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(words.split()), hidden_size=20, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=40, max_position_embeddings=48,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a text encoder reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def tokenizer(clip_folder):
    return load_clip_tokenizer(clip_folder)


# ---- tokens ----


def test_captions_are_cleaned_as_openai_clip_does():
    assert clean_caption(CAPTIONS[1]) == "sit on the sofa then stand up."
    assert (
        clean_caption(CAPTIONS[2])
        == "the person's \"left\" hand doesn't touch it \u2013 they've left"
    )
    assert clean_caption(CAPTIONS[3]) == 'cups & plates <on> the table "now"'
    assert clean_caption(CAPTIONS[4]) == "walk to the office first"
    assert clean_caption(CAPTIONS[5]) == "sit down"
    assert clean_caption(" ") == ""


def test_clip_token_ids_of_a_known_caption(tokenizer):
    ids = clip_token_ids(tokenizer, "A photo of a  cat", None)
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407] + [0] * 70


@pytest.mark.parametrize("max_length", [None, 75, 20, 5, 1])
@pytest.mark.parametrize("caption", CAPTIONS)
def test_clip_token_ids_match_the_original_algorithm(tokenizer, caption, max_length):
    length = CONTEXT_LENGTH if max_length is None else max_length + 2
    ids = clip_token_ids(tokenizer, caption, max_length)
    assert ids == expected_ids(caption, length)
    assert len(ids) == CONTEXT_LENGTH and 49407 in ids[:length]


def test_clip_max_length_has_limits(tokenizer):
    for max_length in (0, -1, 76):
        with pytest.raises(ConfigError, match="expected 1 to 75, or null"):
            clip_token_ids(tokenizer, "sit", max_length)


# ---- CLIP ----


def by_hand(folder, caption, length):
    """The caption alone through the same weights, pooled at the end token."""
    model = transformers.CLIPTextModelWithProjection.from_pretrained(str(folder)).eval()
    ids = torch.tensor([expected_ids(caption, length)])
    with torch.no_grad():
        hidden = model(input_ids=ids).last_hidden_state[0, ids[0].tolist().index(49407)]
        return model.text_projection(hidden)


@pytest.mark.parametrize("max_length", [None, 20, 4])
def test_clip_encoder_matches_a_hand_made_composition(clip_folder, max_length):
    encode = load_text_encoder("ViT-B/32", max_length, 24, clip_folder)
    out = encode(CAPTIONS)
    assert out.shape == (len(CAPTIONS), 24) and out.dtype == torch.float32
    assert not out.requires_grad
    length = CONTEXT_LENGTH if max_length is None else max_length + 2
    for row, caption in zip(out, CAPTIONS, strict=True):
        torch.testing.assert_close(row, by_hand(clip_folder, caption, length), rtol=1e-4, atol=1e-5)


def test_clip_pooled_output_agrees_with_transformers(clip_folder, tokenizer):
    model = transformers.CLIPTextModelWithProjection.from_pretrained(str(clip_folder)).eval()
    ids = torch.tensor([clip_token_ids(tokenizer, caption, 20) for caption in CAPTIONS])
    with torch.no_grad():
        expected = model(input_ids=ids).text_embeds
    out = load_text_encoder("ViT-B/32", 20, 24, clip_folder)(CAPTIONS)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eos_token_id", [2, 49407, 1])
def test_clip_pools_at_the_end_token_whatever_the_config_says(clip_folder, tmp_path, eos_token_id):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": eos_token_id}))
    out = load_text_encoder("ViT-B/32", 20, 24, tmp_path)(CAPTIONS)
    assert torch.equal(out, load_text_encoder("ViT-B/32", 20, 24, clip_folder)(CAPTIONS))


def check_batch_independence(encode, captions):
    """Bit for bit the same vector alone, in any slot, and across a batch boundary."""
    many = [f"{captions[i % len(captions)]} {i}" for i in range(BATCH_SIZE + 5)]
    out = encode(many)
    assert torch.equal(encode(many[::-1]).flip(0), out)
    for i in (0, 7, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE + 4):
        assert torch.equal(encode([many[i]])[0], out[i]), f"caption {i} depends on its batch"
    repeated = encode([many[3], many[1], many[3]])
    assert torch.equal(repeated, out[[3, 1, 3]])


def test_clip_vectors_do_not_depend_on_the_batch(clip_folder):
    check_batch_independence(load_text_encoder("ViT-B/32", 20, 24, clip_folder), CAPTIONS)


def test_bert_vectors_do_not_depend_on_the_batch(bert_folder):
    check_batch_independence(load_text_encoder("bert-base-uncased", 20, 20, bert_folder), CAPTIONS)


def test_each_distinct_caption_becomes_tokens_once(clip_folder, monkeypatch):
    from cdm.model import text

    seen = []
    monkeypatch.setattr(text, "_clip_ids", lambda t, caption: seen.append(caption) or [0, 1])
    encode = load_text_encoder("ViT-B/32", 20, 24, clip_folder)
    assert encode.cut(["sit", "stand"]) == set()
    encode(["sit", "stand", "sit", "sit"])
    assert [caption for caption in seen if caption] == ["sit", "stand"]


def test_no_captions_give_an_empty_tensor(clip_folder):
    assert load_text_encoder("ViT-B/32", 20, 24, clip_folder)([]).shape == (0, 24)
    assert load_text_encoder("hashing", None, 8)([]).shape == (0, 8)


@pytest.mark.gpu
def test_clip_on_gpu_matches_cpu(clip_folder):
    on_gpu = load_text_encoder("ViT-B/32", 20, 24, clip_folder, device="cuda")
    out = on_gpu(CAPTIONS)
    assert out.device.type == "cuda"
    expected = load_text_encoder("ViT-B/32", 20, 24, clip_folder)(CAPTIONS)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-3, atol=1e-4)
    check_batch_independence(on_gpu, CAPTIONS)


# ---- BERT ----


@pytest.mark.parametrize("max_length", [None, 20, 4, 2])
def test_bert_encoder_matches_a_caption_alone_without_padding(bert_folder, max_length):
    captions = ["a person walks to the table and sits down.", "", "Sits  DOWN", "a table " * 40]
    out = load_text_encoder("bert-base-uncased", max_length, 20, bert_folder)(captions)
    assert out.shape == (4, 20) and out.dtype == torch.float32

    model = transformers.BertModel.from_pretrained(str(bert_folder)).eval()
    tokens = transformers.BertTokenizerFast.from_pretrained(str(bert_folder))
    for row, caption in zip(out, captions, strict=True):
        length = 48 if max_length is None else max_length  # [CLS] and [SEP] among them
        ids = tokens(caption, truncation=True, max_length=length, return_tensors="pt").input_ids
        with torch.no_grad():
            torch.testing.assert_close(row, model(ids).pooler_output[0], rtol=1e-4, atol=1e-5)


def test_bert_reads_as_many_tokens_as_afford_motion_with_its_two_own(bert_folder):
    encode = load_text_encoder("bert-base-uncased", 5, 20, bert_folder)  # three words are read
    same, other = "a person walks to the table", "a person walks"
    assert torch.equal(encode([same])[0], encode([other])[0])
    assert not torch.equal(encode(["a person sits"])[0], encode([other])[0])


@pytest.mark.parametrize("max_length", [1, 0, 49])
def test_bert_max_length_has_limits(bert_folder, max_length):
    with pytest.raises(ConfigError, match=r"expected 2 to 48, or null.*\[CLS\] and \[SEP\]"):
        load_text_encoder("bert-base-uncased", max_length, 20, bert_folder)


# ---- captions longer than what is read ----


def test_captions_that_lose_words_are_told(clip_folder, bert_folder):
    captions = ["a person walks", "a person walks to", "", "A person  walks to"]
    clip = load_text_encoder("ViT-B/32", 3, 24, clip_folder)
    bert = load_text_encoder("bert-base-uncased", 5, 20, bert_folder)
    for encode in (clip, bert):
        assert encode.cut(captions) == {captions[1], captions[3]}
        # What is cut makes no difference to the vector.
        assert torch.equal(encode(captions)[0], encode(captions)[1])
    whole = load_text_encoder("ViT-B/32", None, 24, clip_folder)
    assert whole.cut([*captions, "sit " * 76]) == {"sit " * 76}
    assert whole.cut(["sit " * 75]) == set()
    assert load_text_encoder("hashing", 3, 8).cut(["a very long caption of words"]) == set()


# ---- hashing ----


def test_hashing_is_deterministic_of_one_length_and_case_blind():
    encode = load_text_encoder("hashing", None, 64)
    out = encode(["Sit on the sofa", "sit on the SOFA!", "the sofa on sit", "", "..."])
    assert out.shape == (5, 64) and out.dtype == torch.float32
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])
    torch.testing.assert_close(out[:3].norm(dim=1), torch.full((3,), 8.0))
    assert (out[3:] == 0).all()
    one_word = load_text_encoder("hashing", None, 7)(["walk", "walk walk"])
    assert one_word[0].abs().sum() == one_word[0].abs().max() > 2.6


# ---- weights that a job refuses ----


def test_contradicting_width_names_both(clip_folder):
    with pytest.raises(CheckpointError, match=r"width 24.*text_feat_dim 512"):
        load_text_encoder("ViT-B/32", 20, 512, clip_folder)


def test_weights_of_another_model_are_refused(clip_folder, bert_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(bert_folder / "model.safetensors")
    state |= {"text_projection.weight": torch.zeros(24, 32)}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not the weights of a CLIPTextModelWithProjection"):
        load_text_encoder("ViT-B/32", 20, 24, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"cannot be loaded|not the weights"):
        load_text_encoder("ViT-B/32", 20, 24, tmp_path)


def test_an_encoder_that_gives_nan_is_refused(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(clip_folder / "model.safetensors")
    state["text_projection.weight"][3] = torch.nan
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="NaN or infinity for 'sit'"):
        load_text_encoder("ViT-B/32", 20, 24, tmp_path)(["sit"])
