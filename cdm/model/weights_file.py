"""Files that `torch.save` wrote, read without torch and without running their pickle.

A file is a zip archive: `data.pkl` describes the object that was saved, and `data/KEY` holds the
values of one storage. A tensor is a view (offset, size, stride) of a storage. Everything that
`torch.load` relies on is checked here, so that a job can load what the plan has accepted.
"""

import hashlib
import io
import math
import os
import pickle
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

import numpy as np

from cdm.errors import CheckpointError
from cdm.files import HEAD, kind_of_weights

# dtype and bytes per value of torch's storage classes.
STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "UntypedStorage": ("bytes", 1),
}
VALUES = {"float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2"}  # for numpy
ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of torch before 1.6
DTYPE = re.compile(r"(float|bfloat|int|uint|complex)\d+(_\w+)?|bool")
OPCODES = (  # those that torch.load knows when it runs no code
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT, pickle.BINUNICODE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.SHORT_BINSTRING),
    *(pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_TUPLE),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_SET),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS, pickle.BINPERSID),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
)
ZIP_FAULTS = (  # what zipfile raises for damaged archives
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
)


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of a tensor.

    Attributes:
        shape: of the tensor.
        dtype: by torch's name, such as "float32".
        storage: key of its values in the file; "" if the tensor is not all of that storage.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: str = field(default="", compare=False)


class _Storage(NamedTuple):
    dtype: str
    numel: int
    key: str


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes.

    Raises:
        CheckpointError: there is none, it may not be read, or a folder, a pipe or a device has its
            name. A pipe is not waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problem = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{str(path)!r}: cannot be read ({problem}); check that path"
        ) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise CheckpointError(
            f"{path}: is {kind}, expected a file of weights; move it away or name another path"
        )
    return open(descriptor, "rb")


def hash_open(file: io.BufferedReader) -> str:
    """sha256 of an open file's bytes, in hex."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def is_zip(file: BinaryIO) -> bool:
    """Whether a file begins as those of torch 1.6 and newer; leaves it at its start."""
    file.seek(0)
    begins = file.read(len(ZIP_START)) == ZIP_START
    file.seek(0)
    return begins


def read_saved(file: BinaryIO, path: Path, read_values: bool = True) -> Any:
    """The object in a file of `torch.save`, with a `TensorInfo` in place of each tensor.

    Checks the CRC of every member of the archive, and every tensor against the size of its
    storage.

    Args:
        file: open, at any position.
        path: named in errors.
        read_values: whether to read the values for their CRC; the sizes are checked in any case.
    Raises:
        CheckpointError: truncated or damaged, compressed, of another format, or an object that is
            more than containers, numbers, strings and tensors.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _unpickle(archive, _members(archive, file, read_values), path)
    except ZIP_FAULTS as error:
        file.seek(0)
        known, reason = kind_of_weights(file.read(HEAD), path), error or type(error).__name__
        found = known or f"may be truncated: {reason}"
        raise CheckpointError(
            f"{path}: not a readable checkpoint (it {found}). Expected a file that torch.save of "
            "torch 1.6 or newer wrote: copy it again, or move it away so that the one before it is "
            "used"
        ) from None


def not_finite(file: BinaryIO, tensors: dict[str, TensorInfo]) -> list[str]:
    """Keys of tensors with NaN, infinity, or a value that float32 cannot hold.

    Tensors that share a storage with others are left to the job, which has them in memory.

    Args:
        file: one that `read_saved` accepted.
        tensors: some of those it returned.
    """
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        folder = names[0].partition("/")[0]
        big = f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") == b"big"
        return [
            key
            for key, info in tensors.items()
            if info.storage
            and info.dtype in VALUES
            and not _finite(archive.read(f"{folder}/data/{info.storage}"), info.dtype, big)
        ]


def _finite(content: bytes, dtype: str, big_endian: bool) -> bool:
    order: Literal["<", ">"] = ">" if big_endian else "<"
    values = np.frombuffer(content, np.dtype(VALUES[dtype]).newbyteorder(order))
    if dtype == "bfloat16":  # the upper half of a float32: all bits of the exponent are set
        return bool(((values & 0x7F80) != 0x7F80).all())
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(np.float32)).all())


def _members(archive: zipfile.ZipFile, file: BinaryIO, read_values: bool) -> dict[str, int]:
    """Size of every member by its name below the archive's one folder.

    Raises:
        ValueError or an error of zipfile: torch would not load the archive.
    """
    # The frame: what torch.save writes, and no more bytes than the file has.
    if not is_zip(file):
        raise ValueError("it does not begin as a zip archive of torch.save")
    entries = archive.infolist()
    if any(
        entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size
        for entry in entries
    ):
        raise ValueError("its members are compressed, torch.save writes them as they are")
    if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
        raise ValueError("its members are larger than the file")
    broken = archive.testzip() if read_values else None
    if broken:
        raise ValueError(f"{broken} fails its checksum")

    # The names: one folder, each name once.
    folders = {entry.filename.partition("/")[0] for entry in entries}
    members = {entry.filename.partition("/")[2]: entry.file_size for entry in entries}
    if len(members) != len(entries) or len(folders) != 1:
        raise ValueError("its members do not lie in one folder, each under its own name")
    if "constants.pkl" in members:
        raise ValueError("it holds a TorchScript program")
    if "data.pkl" not in members or not {"version", ".data/version"} & members.keys():
        raise ValueError("no data.pkl and version inside")
    return members


def _unpickle(archive: zipfile.ZipFile, members: dict[str, int], path: Path) -> Any:
    folder = archive.namelist()[0].partition("/")[0]
    content = archive.read(f"{folder}/data.pkl")
    try:
        return _Unpickler(io.BytesIO(content), members).load()
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a plain state dict ({error}). Save the weights alone: "
            "torch.save(model.state_dict(), path)"
        ) from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(
            f"{path}: not a readable checkpoint (data.pkl: {type(error).__name__} {error}). Copy "
            "it again, or move it away so that the one before it is used"
        ) from None


def read_legacy(file: BinaryIO, path: Path) -> Any:
    """`read_saved` for the format before torch 1.6; values are not read, their size is checked.

    The format: pickles of a magic number, a version, the machine, the object and the keys of its
    storages; then for each key the number of values (8 bytes) and the values.

    Raises:
        CheckpointError: truncated, or not such a file.
    """
    try:
        magic, _, _ = (_Unpickler(file, {}).load() for _ in range(3))
        if magic != LEGACY_MAGIC:
            raise ValueError("it does not begin as a file of torch.save")
        reader = _LegacyUnpickler(file, {})
        content = reader.load()
        keys = _Unpickler(file, {}).load()
        end = file.tell() + sum(8 + reader.num_bytes[key] for key in keys)
        size = os.fstat(file.fileno()).st_size
        if end != size:
            raise ValueError(f"{size} bytes, expected {end}")
    except Exception as error:  # a damaged pickle raises almost anything
        raise CheckpointError(
            f"{path}: not a readable file of weights ({type(error).__name__}: {error}); copy it "
            "again"
        ) from None
    return content


class _Opaque:
    """Stands for a value that says nothing of the weights, such as a torch.device."""

    def __init__(self, *args):
        pass


class _Unpickler(pickle._Unpickler):
    """Makes containers and `TensorInfo`, and refuses every other class or function.

    This is Python's own unpickler in Python: the one in C reserves memory for any number that a
    damaged file names.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code] for code in b"".join(OPCODES)
    }

    stack: list[Any]  # of the class above it, which says nothing of it

    def __init__(self, file: BinaryIO, members: dict[str, int]):
        super().__init__(file)
        self._sizes = members
        self._storages: dict[str, _Storage] = {}

    def load_build(self):
        """Give an OrderedDict its attributes (a state dict has `_metadata`), and nothing else."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or not isinstance(state, dict):
            raise pickle.UnpicklingError(
                f"it gives attributes to a {type(self.stack[-1]).__name__}"
            )
        self.stack[-1].__dict__.update(state)

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module, name):
        """A stand-in for each of the few names that torch.save writes for a state dict."""
        plain = {
            "collections.OrderedDict": OrderedDict,
            "collections.Counter": Counter,
            "torch.Size": tuple,
            "torch.device": _Opaque,
            "torch._utils._rebuild_tensor": _view,
            "torch._utils._rebuild_tensor_v2": _view,
            "torch._utils._rebuild_tensor_v3": _view_of_bytes,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
        }
        if found := plain.get(f"{module}.{name}"):
            return found
        if module in ("torch", "torch.storage") and name in STORAGES:
            return name
        if module == "torch" and DTYPE.fullmatch(name):
            return name
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid):
        """The storage that an id of torch.save names: ("storage", class, key, device, numel)."""
        kind, name, key, _, numel = pid
        if kind != "storage" or name not in STORAGES or type(key) is not str:
            raise ValueError(f"{pid!r:.200} is not a storage")
        dtype, itemsize = STORAGES[name]
        stored = _Storage(dtype, _size(numel), key)
        if self._storages.setdefault(key, stored) != stored:
            raise ValueError(f"storage {key} is described twice, and differently")
        size = self._sizes.get(f"data/{key}")
        if size != numel * itemsize:
            found = "missing" if size is None else f"{size} bytes"
            raise ValueError(f"storage {key} is {found}, expected {numel} values of {dtype}")
        return stored


class _LegacyUnpickler(_Unpickler):
    """Also adds up `num_bytes` of each storage, whose values follow the pickles."""

    stack: list[Any]  # of the class above it, which says nothing of it

    def __init__(self, file: BinaryIO, members: dict[str, int]):
        super().__init__(file, members)
        self.num_bytes: dict[str, int] = {}

    def persistent_load(self, pid):
        """The storage of an id, which has a sixth part: None, or a view of another storage."""
        *known, view = pid
        _, name, key, _, numel = known
        self.num_bytes[key] = self._sizes[f"data/{key}"] = numel * STORAGES[name][1]
        if view is not None:
            raise ValueError("a storage that is a view of another one")
        return super().persistent_load(tuple(known))


def _view(storage, offset, size, stride, *_, dtype=None, itemsize=1) -> TensorInfo:
    """A tensor as a view of its storage, all of which must lie inside it."""
    size, stride = tuple(map(_size, size)), tuple(map(_size, stride))
    if len(size) != len(stride):
        raise ValueError(f"a tensor has shape {size} and strides {stride}")
    values = math.prod(size)
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if values else -1
    there = storage.numel // itemsize
    if max(_size(offset) + last + 1, values) > there:
        raise ValueError(
            f"a tensor of shape {size}, strides {stride} and offset {offset} does not fit into "
            f"the {there} values stored for it"
        )
    key = storage.key if values == there and dtype is None else ""
    return TensorInfo(size, dtype or storage.dtype, key)


def _view_of_bytes(storage, offset, size, stride, grad, hooks, dtype, *_) -> TensorInfo:
    """A tensor whose dtype has no storage class, such as float8."""
    [bits] = map(int, re.findall(r"^\D*(\d+)", dtype))
    return _view(storage, offset, size, stride, dtype=dtype, itemsize=max(bits // 8, 1))


def _parameter(tensor, *_) -> TensorInfo:
    if not isinstance(tensor, TensorInfo):
        raise ValueError("a parameter is not a tensor")
    return tensor


def _size(number) -> int:
    """A count of values.

    Raises:
        ValueError: it is no integer of 0 or more.
    """
    if type(number) is not int or not 0 <= number < 2**62:
        raise ValueError(f"{number!r:.100} is not a number of values")
    return number
