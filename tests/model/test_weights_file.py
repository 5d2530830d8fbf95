"""Files of torch.save: what is read without torch is what torch loads, and damage is refused."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from cdm.errors import CheckpointError
from cdm.model.weights_file import TensorInfo, hash_open, open_regular, read_legacy, read_saved

STATE = {
    "w": torch.arange(6.0).reshape(2, 3),
    "bias": torch.arange(3.0),
    "count": torch.tensor(4),
}


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


def read(path, **options):
    with open_regular(path) as file:
        return read_saved(file, path, **options)


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Write the archive anew after change({name: bytes}); names are whole."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (change(members) or members).items():
            archive.writestr(name, content)
    return path


def edit_pickle(path, old, new):
    """Replace bytes of data.pkl."""

    def change(members):
        [name] = [name for name in members if name.endswith("data.pkl")]
        assert old in members[name]
        members[name] = members[name].replace(old, new)

    return rewrite(path, change)


def test_what_is_read_is_what_torch_loads(tmp_path):
    content = {
        "f32": torch.zeros(2, 3),
        "f64": torch.zeros(1, dtype=torch.float64),
        "bf16": torch.zeros(4, dtype=torch.bfloat16),
        "f16": torch.zeros(2, 2, dtype=torch.float16),
        "f8": torch.zeros(3).to(torch.float8_e4m3fn),
        "u16": torch.zeros(3, dtype=torch.uint16),
        "c64": torch.zeros(3, dtype=torch.complex64),
        "i64": torch.tensor(1),
        "flag": torch.tensor([True]),
        "empty": torch.zeros(0, 5),
        "view": torch.arange(12.0).reshape(3, 4)[1:, ::2],
        "transposed": torch.zeros(2, 5).t(),
        "parameter": torch.nn.Parameter(torch.zeros(3)),
        "nested": OrderedDict(a=[torch.zeros(2)], b=(1, None, "x", 0.5)),
        "size": torch.zeros(2, 3).shape,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        7: "seven",
    }
    path = save(tmp_path / "x.pt", content)
    found, loaded = read(path), torch.load(path, weights_only=True)
    for key, value in loaded.items():
        if torch.is_tensor(value):
            expected = TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."))
            assert found[key] == expected
    assert found["nested"] == {"a": [TensorInfo((2,), "float32")], "b": (1, None, "x", 0.5)}
    assert found["size"] == (2, 3) and found[7] == "seven"


def test_tensors_of_one_storage_are_read(tmp_path):
    whole = torch.arange(10.0)
    found = read(save(tmp_path / "x.pt", {"a": whole, "b": whole[3:], "c": whole[::3]}))
    assert [info.shape for info in found.values()] == [(10,), (7,), (4,)]


def test_the_hash_is_that_of_the_whole_file(tmp_path):
    import hashlib

    path = save(tmp_path / "x.pt", STATE)
    with open_regular(path) as file:
        file.read(100)
        assert hash_open(file) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = save(tmp_path / "x.pt", STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"\(it (is empty|may be truncated)"):
        read(path)


def test_a_flipped_bit_of_a_value_is_noticed(tmp_path):
    path = save(tmp_path / "x.pt", STATE)
    whole = bytearray(path.read_bytes())
    whole[whole.index(STATE["w"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read(path)
    assert read(path, read_values=False)["w"].shape == (2, 3)


def test_no_flipped_byte_ends_in_another_error(tmp_path):
    """Anywhere in the file: it is refused, or it reads as before (a byte that nothing uses)."""
    path = save(tmp_path / "x.pt", STATE)
    whole, expected = path.read_bytes(), read(path)
    refused = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert read(path) == expected
        except CheckpointError:
            refused += 1
    assert refused > 50


def test_no_damage_of_the_pickle_ends_in_another_error(tmp_path):
    """With checksums that fit: whatever reads is what torch loads too."""
    original = save(tmp_path / "x.pt", STATE).read_bytes()
    path, seen = tmp_path / "y.pt", set()
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        size = archive.getinfo("x/data.pkl").file_size
    for place in range(0, size, 3):
        path.write_bytes(original)

        def flip(members, place=place):
            content = bytearray(members["x/data.pkl"])
            content[place] ^= 0x11
            members["x/data.pkl"] = bytes(content)

        rewrite(path, flip)
        try:
            found = read(path)
            seen.add("read")
        except CheckpointError:
            seen.add("refused")
            continue
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        assert isinstance(loaded, dict) == isinstance(found, dict)
    assert seen == {"read", "refused"}


def without(name):
    return lambda members: {k: v for k, v in members.items() if not k.endswith(name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("data/0"), "storage 0 is missing"),
        (without("data.pkl"), "no data.pkl"),
        (without("/version"), "no data.pkl and version"),
        (lambda m: m | {"x/data/0": m["x/data/0"][:-4]}, "storage 0 is 20 bytes, expected 6 val"),
        (lambda m: m | {"x/data/0": m["x/data/0"] + b"1234"}, "storage 0 is 28 bytes"),
        (lambda m: m | {"x/constants.pkl": b""}, "TorchScript"),
        (lambda m: m | {"y/data.pkl": b""}, "one folder"),
        (lambda m: m | {"x/data.pkl": b""}, "EOFError"),
        (lambda m: m | {"x/data.pkl": b"\x80\x02}q"}, "data.pkl"),
        (lambda m: m | {"x/data.pkl": b"\x80\x05\x96" + b"\xff" * 7 + b"\x00."}, "data.pkl"),
        (lambda m: m | {"x/data.pkl": b"\x80\x02Nr\xff\xff\xff\x7f}."}, "data.pkl|^$"),
    ],
)
def test_archives_that_torch_would_not_load_are_refused(tmp_path, change, message):
    path = rewrite(save(tmp_path / "x.pt", STATE), change)
    try:
        found = read(path)
    except CheckpointError as error:
        assert any(part in str(error) for part in message.split("|"))
    else:
        assert message.endswith("^$") and found == {}  # a huge memo number costs no memory


SIZE, STRIDE = b"K\x02K\x03\x86", b"K\x03K\x01\x86"  # of the tensor "w"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (SIZE, b"K\x09K\x03\x86", "shape (9, 3)"),
        (SIZE, b"K\x02K\x04\x86", "shape (2, 4)"),
        (SIZE, b"J\xff\xff\xff\xffK\x03\x86", "-1 is not a number of values"),
        (SIZE, b"G@\x00\x00\x00\x00\x00\x00\x00K\x03\x86", "2.0 is not a number"),
        (SIZE, b"K\x06\x85", "strides"),
        (STRIDE, b"K\x09K\x01\x86", "does not fit into the 6 values"),
        (STRIDE, b"K\x00K\x00\x86", None),  # every value is the first one: torch takes it
        (SIZE, b"J\xff\xff\xff\x7fK\x03\x86", "does not fit"),
    ],
)
def test_shapes_and_strides_that_leave_the_storage_are_refused(tmp_path, old, new, message):
    path = edit_pickle(save(tmp_path / "x.pt", STATE), old, new)
    if message is None:
        assert read(path)["w"].shape == tuple(torch.load(path, weights_only=True)["w"].shape)
        return
    with pytest.raises(CheckpointError) as error:
        read(path)
    assert message in str(error.value)


def test_a_tensor_that_repeats_few_values_without_end_is_refused(tmp_path):
    path = save(tmp_path / "x.pt", {"w": torch.zeros(1).expand(10**9)})
    with pytest.raises(CheckpointError, match="does not fit into the 1 values"):
        read(path)


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path):
    """A few kilobytes could unpack to gigabytes."""
    path = save(tmp_path / "x.pt", {"w": torch.zeros(10**6)})
    rewrite(path, lambda members: members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="members are compressed"):
        read(path)


def test_members_that_share_bytes_are_refused(tmp_path):
    """The directory of a zip file may name the same bytes many times."""
    path = save(tmp_path / "x.pt", {"w": torch.zeros(1000)})
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    entry = whole.index(b"PK\x01\x02", start + 4)
    end = whole.rindex(b"PK\x05\x06")
    many = whole[:entry] + whole[entry:end] * 3 + whole[end:]
    path.write_bytes(many)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read(path)


class Evil:
    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize("content", [{"w": Evil()}, torch.nn.Linear(1, 1), {1, 2}])
def test_a_pickle_that_needs_code_is_refused_without_running_it(tmp_path, content, capsys):
    with pytest.raises(CheckpointError, match="not a plain state dict"):
        read(save(tmp_path / "x.pt", content))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("make", ["folder", "pipe", "nothing", "dead link", "long", "nul"])
def test_what_is_no_file_is_told_and_not_waited_for(tmp_path, make):
    path = tmp_path / "model1.pt"
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    elif make == "dead link":
        path.symlink_to("nowhere")
    elif make == "long":
        path = tmp_path / ("x" * 300)
    elif make == "nul":
        path = tmp_path / "a\0b"
    expected = {"folder": "is a folder", "pipe": "is a pipe"}.get(make, "cannot be read")
    with pytest.raises(CheckpointError, match=expected):
        open_regular(path)


def test_the_format_before_torch_1_6_is_told_from_damage(tmp_path):
    path = save(tmp_path / "x.pt", STATE, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch 1\.6 or newer"):
        read(path)
    with open_regular(path) as file:
        assert read_legacy(file, path)["w"] == TensorInfo((2, 3), "float32")
    for content in (pickle.dumps(STATE["w"].tolist()), path.read_bytes()[:-1], b""):
        path.write_bytes(content)
        with open_regular(path) as file, pytest.raises(CheckpointError, match="not a readable"):
            read_legacy(file, path)


def test_weights_in_another_format_are_called_by_its_name(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    with path.open("rb") as file, pytest.raises(CheckpointError, match=r"\(it is of torch before"):
        read_saved(file, path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with (
        path.open("rb") as file,
        pytest.raises(CheckpointError, match=r"\(it is a git-LFS pointer"),
    ):
        read_saved(file, path)
