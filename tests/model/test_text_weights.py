"""Text encoders' files: found, and refused by the plan where a job could not load them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cdm.errors import CheckpointError, ConfigError
from cdm.model.text_weights import TEXT_FEAT_DIMS, find_text_weights

CLIP, BERT = "ViT-B/32", "bert-base-uncased"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605157884\n"
WIDTH = 24


def write_folder(folder: Path, version: str = CLIP, name: str = "model.safetensors") -> Path:
    """Files that look like an encoder's to one who does not run it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = "pooler.dense.weight" if version == BERT else "text_projection.weight"
    state = {key: torch.randn(WIDTH, 32), "position_ids": torch.arange(7)}
    if name.endswith(".safetensors"):
        save_file(state, folder / name, metadata={"format": "pt"})
    else:
        torch.save(state, folder / name)
    (folder / "config.json").write_text("{}")
    if version == BERT:
        (folder / "vocab.txt").write_text("[PAD]\n")
    else:
        (folder / "vocab.json").write_text("{}")
        (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path / "hub"


def test_the_files_that_decide_the_numbers_are_named(tmp_path):
    names = [path.name for path in find_text_weights(CLIP, write_folder(tmp_path / "clip"))]
    assert names == ["config.json", "model.safetensors", "vocab.json", "merges.txt"]
    bert = write_folder(tmp_path / "bert", BERT)
    names = [path.name for path in find_text_weights(BERT, str(bert), WIDTH)]
    assert names == ["config.json", "model.safetensors", "vocab.txt"]
    assert find_text_weights("hashing") == []


def test_the_hub_cache_is_read(hub):
    root = hub / "models--openai--clip-vit-base-patch32"
    (root / "snapshots" / "old").mkdir(parents=True)
    for commit in ("wanted", "newest"):
        write_folder(root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs/main").write_text("wanted")
    assert {path.parent.name for path in find_text_weights(CLIP)} == {"wanted"}
    (root / "refs/main").write_text("old")  # an unfinished download
    assert find_text_weights(CLIP)[0].exists()


def test_missing_weights_say_where_and_what_to_type(hub, tmp_path):
    with pytest.raises(CheckpointError) as error:
        find_text_weights("ViT-L/14@336px")
    for part in (
        str(hub / "models--openai--clip-vit-large-patch14-336"),
        "hf download openai/clip-vit-large-patch14-336",
        "path: /path/to/folder",
    ):
        assert part in str(error.value)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"missing model\.safetensors or"):
        find_text_weights(CLIP, tmp_path)
    for folder in (tmp_path / "nowhere", "a\0b", "x" * 300):
        with pytest.raises(CheckpointError, match="no such folder"):
            find_text_weights(BERT, folder)


def test_unknown_encoder_lists_the_known_ones():
    with pytest.raises(ConfigError, match="ViT-B/32, ViT-L/14@336px, bert-base-uncased, hashing"):
        find_text_weights("ViT-B/16")
    assert TEXT_FEAT_DIMS == {"ViT-B/32": 512, "ViT-L/14@336px": 768, "bert-base-uncased": 768}


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json"]
)
@pytest.mark.parametrize(("content", "message"), [(LFS, "git-LFS pointer"), ("", "is empty")])
def test_a_git_lfs_pointer_or_an_empty_file_is_refused(tmp_path, name, content, message):
    (write_folder(tmp_path) / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name} {'is a ' * (content != '')}{message}"):
        find_text_weights(CLIP, tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, '{"a": NaN}'])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path, content):
    (write_folder(tmp_path) / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not a JSON object"):
        find_text_weights(CLIP, tmp_path)


def with_header(change):
    """The bytes of a safetensors file after a change of its header."""

    def damage(whole: bytes) -> bytes:
        length = int.from_bytes(whole[:8], "little")
        header = json.dumps(change(json.loads(whole[8 : 8 + length]))).encode()
        return len(header).to_bytes(8, "little") + header + whole[8 + length :]

    return damage


def longer_entry(header):
    header["text_projection.weight"]["data_offsets"][1] += 4
    return header


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:20],
        lambda whole: whole[:5],
        lambda whole: whole + b"x",
        lambda whole: (2**63).to_bytes(8, "little") + whole[8:],
        lambda whole: whole.replace(b'{"', b'["', 1),
        with_header(lambda header: dict.fromkeys(header, 1)),
        with_header(lambda header: list(header)),
        with_header(longer_entry),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path, damage):
    path = write_folder(tmp_path) / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        find_text_weights(CLIP, tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_bin_files_of_both_formats_are_taken_whole_and_refused_truncated(tmp_path, zipped):
    path = write_folder(tmp_path, name="pytorch_model.bin") / "pytorch_model.bin"
    state = {"text_projection.weight": torch.randn(WIDTH, 32), "ids": torch.arange(5)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    assert path in find_text_weights(CLIP, tmp_path, WIDTH)
    for size in (len(whole) - 1, len(whole) // 2, 30, 3):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="not a readable"):
            find_text_weights(CLIP, tmp_path)


def test_weights_of_another_encoder_or_width_are_refused(tmp_path):
    write_folder(tmp_path, BERT)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#")
    with pytest.raises(CheckpointError, match=r"holds no text_projection\.weight"):
        find_text_weights(CLIP, tmp_path)
    with pytest.raises(CheckpointError, match=r"width 24, but the contact model expects .* 512"):
        find_text_weights(BERT, tmp_path, 512)


def test_a_pipe_in_place_of_weights_is_not_waited_for(tmp_path):
    path = write_folder(tmp_path) / "model.safetensors"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"missing model\.safetensors or"):
        find_text_weights(CLIP, tmp_path)


def test_finding_weights_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from cdm.model.text_weights import find_text_weights;"
        "find_text_weights('hashing');"
        "assert not {'torch', 'transformers', 'ftfy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
