"""Reading files: index files for the plan, arrays for the items, each with its own plain errors."""

import csv
import hashlib
import io
import math
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdm.errors import BadItem, DataError
from cdm.files import FileContent, FileState

COLUMNS = ("scene_id", "scene_trans_x", "scene_trans_y", "scene_trans_z", "utterance")
REBUILD = "rebuild the file, or set dataset.on_bad_item to skip"


class AnnoRow(NamedTuple):
    """One row of an anno.csv."""

    scene_id: str
    scene_trans: tuple[float, float, float]
    utterance: str

    def captions(self) -> list[tuple[int, str]]:
        """(caption_idx, text) of the captions, which `$$` separates; blank ones are no captions."""
        return [(i, text) for i, text in enumerate(self.utterance.split("$$")) if text.strip()]


class FileReader:
    """Reads files below a folder and remembers exactly what it returned.

    `contents` maps each relative path to the `FileContent` that was read. A chunk's
    record keeps it, so that a later plan can tell a touched file from an edited one. A file that
    holds other bytes when it is read again is an error: several captions of one item, and the
    maps of one chunk, come from the same file.
    """

    def __init__(self, data_dir, num_shared: int = 4):
        self.data_dir = Path(data_dir)
        self.contents: dict[str, FileContent] = {}
        self._shared: OrderedDict[str, np.ndarray] = OrderedDict()
        self._num_shared = num_shared
        self._lock = threading.RLock()  # `read_shared` holds it while it reads

    def path(self, relpath: str) -> Path:
        return self.data_dir / relpath

    def read(self, relpath: str) -> bytes:
        """The file's bytes."""
        path = self.path(relpath)
        try:
            with open(path, "rb") as file:
                data = file.read()
                stat = os.fstat(file.fileno())
        except OSError as error:
            raise BadItem(f"{path}: cannot be read ({error.strerror}); {REBUILD}") from error
        if len(data) != stat.st_size:
            raise BadItem(f"{path}: changed while it was read; run again once it is complete")
        content = FileContent(FileState.of(stat), hashlib.sha256(data).hexdigest())
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


def load_npz(reader: FileReader, relpath: str, shapes: dict, missing: str = REBUILD) -> dict:
    """Arrays of an .npz, checked.

    Args:
        shapes: name -> expected shape. A tuple stands for alternatives, None for any size.
        missing: next step to name when an array is not in the file.
    Returns:
        name -> array: real numbers as float32, integers and booleans as they are.
    Raises:
        BadItem: damaged file, missing array, wrong shape or type, NaN or infinity.
    """
    place = reader.path(relpath)
    with _decode(reader, relpath) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise BadItem(f"{place}: is one array, expected an .npz archive; {REBUILD}")
        absent = [name for name in shapes if name not in archive.files]
        if absent:
            names, found = ", ".join(map(repr, absent)), ", ".join(archive.files) or "nothing"
            raise BadItem(f"{place}: {names} not in the file, found {found}; {missing}")
        try:
            arrays = {name: archive[name] for name in shapes}
        except Exception as error:  # damaged bytes raise anything: zlib, zip, numpy, memory
            raise BadItem(f"{place}: {_damaged(error)}; {REBUILD}") from error
    return {
        name: _checked(array, f"{place}: '{name}'", shapes[name]) for name, array in arrays.items()
    }


def load_npy(reader: FileReader, relpath: str, shape: tuple) -> np.ndarray:
    """The array of an .npy, checked like `load_npz`."""
    array, place = _decode(reader, relpath), reader.path(relpath)
    if not isinstance(array, np.ndarray):
        raise BadItem(f"{place}: is an .npz archive, expected one array; {REBUILD}")
    return _checked(array, f"{place}: the array", shape)


def _decode(reader: FileReader, relpath: str):
    data = reader.read(relpath)
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # as in load_npz
        place = reader.path(relpath)
        raise BadItem(f"{place}: {_damaged(error)}, {len(data)} bytes; {REBUILD}") from error


def _damaged(error: Exception) -> str:
    return f"damaged, truncated or not numeric ({type(error).__name__}: {error})"


def _checked(array: np.ndarray, place: str, shape: tuple) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise BadItem(f"{place} is of type {array.dtype}, expected numbers; {REBUILD}")
    fits = array.ndim == len(shape) and all(
        want is None or size in (want if isinstance(want, tuple) else (want,))
        for size, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise BadItem(f"{place} is {array.shape}, expected {_shape_text(shape)}; {REBUILD}")
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        array = array.astype(np.float32, copy=False)
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


def read_index(data_dir: Path, relpath: str) -> str:
    """Text of an index file (split, table, captions); DataError says what was looked for."""
    path = data_dir / relpath
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except FileNotFoundError as error:
        if not data_dir.is_dir():
            raise DataError(
                f"{data_dir}: no such folder (looked for {relpath} in it); set dataset.data_dir to "
                "the data folder that holds the sets"
            ) from error
        names = sorted(entry.name for entry in path.parent.glob("*"))
        beside = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
        raise DataError(
            f"{path}: no such file; {path.parent} holds {beside}; check dataset.data_dir, "
            "dataset.sets and dataset.phase"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def read_table(data_dir: Path, relpath: str) -> list[AnnoRow]:
    """Rows of an anno.csv; the position in the list is the item's index."""
    path = data_dir / relpath
    try:
        rows = [row for row in csv.reader(io.StringIO(read_index(data_dir, relpath))) if row]
    except csv.Error as error:
        raise DataError(f"{path}: not a readable csv ({error})") from error
    header = rows[0] if rows else []
    absent = [name for name in COLUMNS if name not in header]
    if absent:
        raise DataError(
            f"{path}: columns {', '.join(absent)} are missing, found "
            f"{', '.join(header) or 'none'}; the first line must name {', '.join(COLUMNS)}"
        )
    scene, x, y, z, utterance = (header.index(name) for name in COLUMNS)
    table = []
    for number, row in enumerate(rows[1:]):
        try:
            offset = (float(row[x]), float(row[y]), float(row[z]))
            table.append(AnnoRow(row[scene], offset, row[utterance]))
            valid = all(map(math.isfinite, offset))
        except (IndexError, ValueError):
            valid = False
        if not valid:
            raise DataError(
                f"{path}: row {number} is {row}, expected {len(header)} columns with finite "
                "numbers in scene_trans_x, scene_trans_y and scene_trans_z"
            )
    return table
