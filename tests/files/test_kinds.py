"""A file of another kind is called by its name, with what to type."""

import gzip
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from cdm.files import HEAD, kind_of_weights, odd_kind, utf8_text

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.mark.parametrize(
    "head, told",
    [
        (b"", "is empty"),
        (POINTER, "is a git-LFS pointer"),
        (b"\n<!DOCTYPE html><title>Virus scan warning</title>", "is a web page"),
        (b"\xef\xbb\xbf<HTML>", "is a web page"),
        (gzip.compress(b"x", mtime=0), "is packed by gzip"),
        (bytes(HEAD), "begins with zeros"),
    ],
)
def test_what_downloads_leave_behind_is_named(head, told):
    assert odd_kind(head).startswith(told)


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x93NUMPY", b"\0\0\x01", b"<x"])
def test_nothing_is_said_of_other_bytes(head):
    assert odd_kind(head) == kind_of_weights(head, "x.pt") == ""


@pytest.mark.parametrize("kind", ["safetensors", "torch before 1.6"])
def test_what_is_to_be_typed_makes_a_file_of_torch(tmp_path, kind):
    path, state = tmp_path / "model 1.pt", {"a": torch.arange(3.0)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=False)
    told = kind_of_weights(path.read_bytes()[:HEAD], path)
    assert f"is a {kind}" in told or f"is of {kind}" in told
    code = told.partition('python -c "')[2].removesuffix('"')
    exec(code, {})
    assert path.read_bytes()[:2] == b"PK"
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2]


def test_text_is_utf8_with_or_without_a_mark():
    assert utf8_text("\ufeff坐\n".encode()) == utf8_text("坐\n".encode()) == "坐\n"


@pytest.mark.parametrize(
    "encoding, found, advice",
    [("gb18030", "line 2 has the byte 0xd7", "-f GB18030"), ("utf-16", "line 1", "-f UTF-16")],
)
def test_text_in_another_encoding_is_refused_with_the_command_that_converts_it(
    tmp_path, encoding, found, advice
):
    data = "a\n坐下\n".encode(encoding)
    with pytest.raises(ValueError, match=f"cannot be read as UTF-8 text .{found}.*") as told:
        utf8_text(data)
    assert advice in str(told.value)
    (tmp_path / "OLD").write_bytes(data)
    subprocess.run(str(told.value).rpartition("by: ")[2], shell=True, cwd=tmp_path, check=True)
    assert utf8_text((tmp_path / "NEW").read_bytes()) == "a\n坐下\n"
