"""Arrays from files: read whole, remembered by content, and checked before anything is unpacked."""

import hashlib
import io
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import IO

import numpy as np

from cdm.errors import BadItem, DataError, listed
from cdm.files import (
    HEAD,
    FileContent,
    FileState,
    Place,
    RemotePath,
    RemoteState,
    map_files,
    odd_kind,
    place_of,
    read_with_state,
    safe_name,
    state_of,
)
from cdm.files.npy import Header, read_array, read_header
from cdm.files.remote import LARGEST

UNSAFE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f-\x9f]")  # what `safe_name` refuses
SKIP = "or set dataset.on_bad_item to skip"
REBUILD = f"rebuild the file, {SKIP}"


class FileReader:
    """Reads files below a folder, on disk or on a server, and remembers exactly what it returned.

    `contents` maps each relative path to the `FileContent` that was read. A chunk's
    record keeps it, so that a later plan can tell a touched file from an edited one. A file that
    holds other bytes when it is read again is an error: several captions of one item, and the
    maps of one chunk, come from the same file. `unread` has the paths that could not be read at
    some time, whatever lies there now.
    """

    def __init__(self, data_dir, num_shared: int = 4):
        self.data_dir = place_of(data_dir)
        self.contents: dict[str, FileContent] = {}
        self.unread: set[str] = set()
        self._shared: OrderedDict[str, np.ndarray] = OrderedDict()
        self._num_shared = num_shared
        self._lock = threading.RLock()  # `read_shared` holds it while it reads

    def read_ahead(self, relpaths: Iterable[str]) -> None:
        """Begin to read small files in the order in which they will be asked for.

        Only files on a server: an answer takes long, and many requests at once take no longer.
        """
        if isinstance(self.data_dir, RemotePath):
            self.data_dir.folder.read_ahead(relpaths)

    def path(self, relpath: str) -> Place:
        """Where the file lies; BadItem where the name leads out of the folder."""
        return safe_path(self.data_dir, relpath)

    def read(self, relpath: str) -> bytes:
        """The file's bytes."""
        path = self.path(relpath)
        try:
            data, state = read_regular(path)
        except BadItem:
            self.unread.add(relpath)
            raise
        content = FileContent(state, hashlib.sha256(data).hexdigest())
        with self._lock:
            before = self.contents.setdefault(relpath, content)
        if before.sha256 != content.sha256:
            raise DataError(
                f"{path}: was replaced while this job ran (sha256 {before.sha256[:12]} when it "
                f"was first read, {content.sha256[:12]} now); its maps would mix both files. "
                "Run the same command again once the file stays as it is"
            )
        self.contents[relpath] = content
        return data

    def read_shared(self, relpath: str) -> np.ndarray:
        """A large array many items refer to; the last few are kept decoded."""
        with self._lock:
            if relpath not in self._shared:
                self._shared[relpath] = load_npy(self, relpath, (None, None))
            self._shared.move_to_end(relpath)
            if len(self._shared) > self._num_shared:
                self._shared.popitem(last=False)
            return self._shared[relpath]


def without_skip(problem: object) -> str:
    """The message, where `on_bad_item` is skip already or is told of beside it."""
    return str(problem).replace(f", {SKIP}", "")


def to_restore(problem: BadItem) -> BadItem:
    """The same problem where the item has a map already, and `on_bad_item` skips none."""
    return BadItem(str(problem).replace(REBUILD, "restore or rebuild the file"))


def check_relpath(data_dir: Place, relpath: str) -> None:
    """Look whether the name of a file stays below the data folder.

    Raises:
        BadItem: a part of the name is absolute, `..`, empty, or holds a control character.
    """
    if UNSAFE.search(relpath):  # one look at each of many paths; what is wrong is said below
        for part in relpath.split("/"):
            safe_name(part, f"{data_dir}/{relpath!r}", BadItem)


def safe_path(data_dir: Place, relpath: str) -> Place:
    """The path of a file below the data folder; `check_relpath` says what it refuses."""
    check_relpath(data_dir, relpath)
    return data_dir / relpath


def quick_path(data_dir: Place, relpath: str) -> str | Place:
    """`safe_path` as plain text, where it is on disk: for many files, to make a Path takes long."""
    if isinstance(data_dir, RemotePath):
        return safe_path(data_dir, relpath)
    check_relpath(data_dir, relpath)
    return f"{data_dir}/{relpath}"


def exists(path: Place) -> bool:
    """Whether there is something of this name."""
    try:
        return path.exists()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False


def find_states(data_dir: Place, names: list[str]) -> Mapping[str, FileState | RemoteState | None]:
    """State of every file below a folder, None for a missing one; many are asked for at once."""
    if isinstance(data_dir, RemotePath):
        return data_dir.folder.states(names)

    def stat(name: str) -> FileState | RemoteState | None:
        try:
            return state_of(f"{data_dir}/{name}")
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return None

    return dict(zip(names, map_files(stat, names), strict=True))


def read_regular(path: str | Place) -> tuple[bytes, FileState | RemoteState]:
    """The bytes of a plain file and its state at that time.

    Raises:
        BadItem: not there, not readable, not a plain file, too large, or changed while it was read.
        Unreachable: it lies on a server that does not answer.
    """
    try:
        data, state = read_with_state(path, LARGEST)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise BadItem(f"{path}: cannot be read ({reason}); {REBUILD}") from error
    if state.size is not None and len(data) != state.size:
        raise BadItem(f"{path}: changed while it was read; run again once it is complete")
    return data, state


def load_npz(
    reader: FileReader,
    relpath: str,
    shapes: dict[str, tuple],
    missing: str = REBUILD,
    indices: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Arrays of an .npz, checked.

    Args:
        shapes: name -> expected shape. A tuple stands for alternatives, None for any size.
        missing: next step to name when an array is not in the file.
        indices: names of arrays that hold row numbers.
    Returns:
        name -> float32 array; int64 for indices.
    Raises:
        BadItem: damaged file, missing array, wrong shape or type, NaN or infinity.
    """
    place = str(reader.path(relpath))
    return decode_npz(reader.read(relpath), place, shapes, missing, indices)


def load_npy(reader: FileReader, relpath: str, shape: tuple) -> np.ndarray:
    """The array of an .npy as float32, checked like `load_npz`."""
    return decode_npy(reader.read(relpath), str(reader.path(relpath)), shape)


def decode_npz(
    data: bytes,
    place: str,
    shapes: dict[str, tuple],
    missing: str = REBUILD,
    indices: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Like `load_npz`, of bytes; `place` is what messages call them."""
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        raise BadItem(f"{place}: is one array, expected an .npz archive; {REBUILD}")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        found = [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:  # damaged bytes raise anything: zip, struct, memory
        problem = odd_kind(data[:HEAD]) or f"{_damaged(error)}, {len(data)} bytes"
        raise BadItem(f"{place}: {problem}; {REBUILD}") from error
    absent = [name for name in shapes if name not in found]
    if absent:
        names, there = ", ".join(map(repr, absent)), listed(found, 8, ", ") or "nothing"
        raise BadItem(f"{place}: {names} not in the file, found {there}; {missing}")
    twice = [name for name in shapes if found.count(name) > 1]
    if twice:
        raise BadItem(f"{place}: {', '.join(twice)} comes twice, expected once; {REBUILD}")
    members = dict(zip(found, archive.infolist(), strict=True))
    arrays = {}
    for name, shape in shapes.items():
        open_file = partial(archive.open, members[name])
        if name in indices:
            array = _decode(open_file, f"{place}: '{name}'", shape, "iu")
            arrays[name] = array.astype(np.int64, casting="unsafe")
        else:
            array = _decode(open_file, f"{place}: '{name}'", shape, "fiub")
            arrays[name] = _as_numbers(array, f"{place}: '{name}'")
    return arrays


def decode_npy(data: bytes, place: str, shape: tuple, finite: bool = True) -> np.ndarray:
    """Like `load_npy`, of bytes.

    Args:
        place: what messages call them.
        finite: refuse NaN and infinity.
    """
    if data.startswith(b"PK"):
        raise BadItem(f"{place}: is an .npz archive, expected one array; {REBUILD}")
    if problem := odd_kind(data[:HEAD]):
        raise BadItem(f"{place}: {problem}; {REBUILD}")
    array = _decode(lambda: io.BytesIO(data), f"{place}: the array", shape, "fiub")
    return _as_numbers(array, f"{place}: the array", finite)


def _decode(open_file: Callable[[], IO[bytes]], place: str, shape: tuple, kinds: str) -> np.ndarray:
    """An array in numpy's format.

    Type and shape stand in front of the data. They are checked first, so that neither a pickle nor
    an archive that unpacks to gigabytes is ever unpacked.
    """
    try:
        with open_file() as file:
            header = read_header(file)
            problem = _problem(header, shape, kinds)
            if not problem:
                return read_array(file, header)
    except Exception as error:  # damaged bytes raise anything: zip, zlib, numpy, memory
        raise BadItem(f"{place} is {_damaged(error)}; {REBUILD}") from error
    raise BadItem(f"{place} is {problem}; {REBUILD}")


def _problem(header: Header, shape: tuple, kinds: str) -> str:
    """What is wrong with type or shape of an array, or ""."""
    found = header.shape
    if header.dtype.kind not in kinds:
        wanted = "numbers" if "f" in kinds else "integers"
        return f"of type {header.dtype}, expected {wanted}"
    fits = [
        want is None or size in (want if isinstance(want, tuple) else (want,))
        for size, want in zip(found, shape, strict=False)
    ]
    if len(found) == len(shape) and all(fits):
        return ""
    # An array of (points, columns) that lacks nothing but the configured number of points.
    advice = ""
    if len(found) == len(shape) == 2 and fits[1] and found[0] and shape[0] != 1:
        advice = f" (if all items have {found[0]} points, set dataset.num_points: {found[0]})"
    return f"{found}, expected {_shape_text(shape)}{advice}"


def _damaged(error: Exception) -> str:
    return f"damaged, truncated or not numeric ({type(error).__name__}: {error})"


def _as_numbers(array: np.ndarray, place: str, finite: bool = True) -> np.ndarray:
    """As float32: integers too, as their squares and negatives would overflow."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        array = array.astype(np.float32, copy=False)
    if not finite:
        return array
    num_bad = array.size - np.count_nonzero(np.isfinite(array))
    if num_bad:
        row = np.argwhere(~np.isfinite(array))[0].tolist()
        raise BadItem(
            f"{place} holds {num_bad} NaN or infinite numbers, the first at {row}, expected none; "
            f"{REBUILD}"
        )
    return array


def _shape_text(shape: tuple) -> str:
    def text(want):
        return " or ".join(map(str, want)) if isinstance(want, tuple) else str(want or "any")

    return f"({', '.join(map(text, shape))}{',' if len(shape) == 1 else ''})"
