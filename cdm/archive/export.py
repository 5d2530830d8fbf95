"""Other shapes of a merged archive: the old script's .npz, and stage 2's pred_contact folders."""

import contextlib
import hashlib
import io
import os
import pickle
import shlex
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cdm.archive.reader import ContactMaps
from cdm.archive.stage2 import PRED_CONTACT, map_name
from cdm.datasets import Item, Sample
from cdm.errors import ArchiveError
from cdm.files import is_folder, list_names, replacing, safe_name, write_json

# Their samples are rows of a table, so an index is a number.
SETS_INDEXED_BY_ROW = ("HumanML3D", "HUMANISE", "PROX", "custom")


def export_npz(
    archive: Path,
    target: Path,
    log: Callable[[str], None],
    read_item: Callable[[Sample, np.ndarray], Item | None] = lambda sample, xyz: None,
) -> int:
    """Write `generated_contact_maps.npz`, samples streaming from archive to file.

    Keys, as the script this workflow replaces wrote them: `sample_list` and `k_samples_list`
    (object arrays of dicts), `total_batches`, `dataset_size`. A dict of the first list has the
    first map under `sample`, (num_points, contact_dim); one of the second has all maps under
    `k_samples`, (k, num_points, contact_dim). Both are float32, normalised. The second list is
    empty unless k is above 1. Beside them are the item's fields under afford-motion's names. One
    sample at a time is in memory here; readers of object arrays hold all of them. Load it with
    `numpy.load(path, allow_pickle=True)`; the pickles need no numpy newer than 1.17.

    Args:
        archive: `contact_maps.zarr`.
        target: path of the .npz.
        log: gets one line of text at a time.
        read_item: gives the item of a sample, whose points are given too, for the fields that no
            archive has (`x`, `c_pc_feat`, `info_scene_mesh`, `info_obj_mask`); None where it cannot
            be read or has other points, and the fields are left out.
    Returns:
        Samples written; skipped ones are left out.
    Raises:
        ArchiveError: a map is damaged or missing; nothing is written then.
    """
    maps = ContactMaps(archive, checksums=True)
    rows = maps.rows_with_maps()
    batch_size = maps.attributes["config"]["sampling"]["batch_size"]
    several = rows if len(rows) and len(maps.read("sample", rows[0])) > 1 else []
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as file:
        items = _items(maps, rows, "sample", read_item)
        _write_object_array(file, "sample_list", len(rows), items)
        items = _items(maps, several, "k_samples", read_item)
        _write_object_array(file, "k_samples_list", len(several), items)
        _write_array(file, "total_batches", np.asarray(-(-len(rows) // batch_size)))
        _write_array(file, "dataset_size", np.asarray(len(rows)))
        file.comment = str(maps.attributes["plan"]).encode()  # numpy does not look at it
    log(f"{len(rows)} samples -> {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return len(rows)


def _items(
    maps: ContactMaps,
    rows: list[int],
    name: str,
    read_item: Callable[[Sample, np.ndarray], Item | None],
) -> Iterator[dict[str, Any]]:
    """One dict per sample, with afford-motion's field names.

    Args:
        name: "sample" for the first map, "k_samples" for all of them.
    """
    text, scene_id = maps.column("text"), maps.column("scene_id")
    for row in rows:
        set, index, caption_idx = maps.keys[row]
        number = _row_number(maps, set, index) if set in SETS_INDEXED_BY_ROW else index
        sample, points = (maps.read(part, row).astype(np.float32) for part in ("sample", "points"))
        fields = {
            name: sample[0] if name == "sample" else sample,
            "c_text": str(text[row]),
            "c_pc_xyz": points,
            "info_set": set,
            "info_index": number,
            "info_caption_index": caption_idx,
            "info_scene": str(scene_id[row]),
            "info_scene_trans": maps.read("scene_trans", row),
            "info_aug_trans": maps.read("aug_trans", row),
        }
        read = Sample(set, index, caption_idx, str(text[row]), str(scene_id[row]))
        item = read_item(read, points)
        yield fields | (_fields_of(item) if item is not None else {})


def _fields_of(item: Item) -> dict[str, Any]:
    """What the dataset has of an item and the archive has not."""
    fields = {
        "x": item.x,
        "c_pc_feat": item.c_pc_feat,
        "info_scene_mesh": item.info_scene_mesh or None,
        "info_obj_mask": item.info_obj_mask,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _row_number(maps: ContactMaps, set: str, index: str) -> int:
    if not (index.isascii() and index.isdigit()):
        raise ArchiveError(
            f"{maps.path}: sample {index!r} of {set}, expected a number as every index of {set} is"
        )
    return int(index)


class _Stream(list):
    """A list that is pickled item by item from an iterator, without existing in memory."""

    def __init__(self, items: Iterable):
        super().__init__()
        self.items = items

    def __reduce__(self):
        return list, (), None, iter(self.items)


class _ObjectArray:
    """Pickles as a 1-D numpy object array of streamed items."""

    def __init__(self, size: int, items: Iterable):
        self.size, self.items = size, items

    def __reduce__(self):
        reduced: Any = np.empty(0, object).__reduce__()
        function, arguments, (version, _, dtype, is_fortran, _) = reduced
        return function, arguments, (version, (self.size,), dtype, is_fortran, _Stream(self.items))


_PythonPickler: Any = pickle._Pickler  # the one in Python, whose inside has no types


class _Pickler(_PythonPickler):
    """Forgets what it wrote, so that memory stays flat, and writes the old name of numpy's module.

    numpy 2 would write numpy._core, which the numpy 1.x of older environments cannot read. Both
    can read numpy.core.
    """

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file):
        super().__init__(file, protocol=3)
        self.fast = True

    def save_global(self, obj, name=None):
        module = obj.__module__
        if module.startswith("numpy._core"):
            old = module.replace("numpy._core", "numpy.core", 1)
            self.write(pickle.GLOBAL + f"{old}\n{obj.__qualname__}\n".encode())
        else:
            super().save_global(obj, name)

    dispatch[type(np.empty)] = save_global
    dispatch[type(lambda: None)] = save_global
    dispatch[type] = save_global


def _write_object_array(file: zipfile.ZipFile, name: str, size: int, items: Iterable) -> None:
    with file.open(f"{name}.npy", "w", force_zip64=True) as member:
        _write_header(member, (size,), "|O")
        _Pickler(member).dump(_ObjectArray(size, items))


def _write_array(file: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, values)
    file.writestr(f"{name}.npy", content.getvalue())


def _write_header(member, shape: tuple[int, ...], descr: str) -> None:
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)


def export_pred_contact(
    archive: Path,
    folder: Path,
    record: Path,
    log: Callable[[str], None],
    finish: Callable[[dict[str, dict[str, list]]], dict[str, Any]] = lambda files: {},
) -> int:
    """Write the distances stage 2 trains on, one (k, num_points, contact_dim) float32 file each.

    Sets: `{set}/pred_contact/{index:05}.npy`, with `-{caption_idx}` where the archive has several
    captions of an item. H3D: `H3D/pred_contact/{name}-{caption_idx}.npy`.

    Args:
        archive: `contact_maps.zarr`.
        folder: parent of the set folders; each set's pred_contact/ is replaced as a whole.
        record: JSON file written last. It also names folders that earlier exports of other sets
            left here.
        log: gets one line of text at a time.
        finish: called with set -> file -> [size in bytes, sha256] once all files are there; what it
            returns goes into the record.
    Returns:
        Files written; skipped samples have none.
    Raises:
        ArchiveError: a map is damaged or missing, or a name leads out of the folder; nothing is
            written then.
    """
    # Samples by set.
    maps = ContactMaps(archive, checksums=True)
    rows = maps.rows_with_maps()
    by_set: dict[str, list[int]] = {}
    for row in rows:
        by_set.setdefault(maps.keys[row][0], []).append(row)

    # All sets are written before the first one takes the place of an older export.
    files = {}
    with contextlib.ExitStack() as stack:
        for set, members in by_set.items():
            safe_name(set, f"{archive}, column set", ArchiveError)
            temporary = stack.enter_context(replacing(folder / set / PRED_CONTACT))
            temporary.mkdir()
            files[set] = _write_distances(maps, members, temporary)
    for set, members in by_set.items():
        log(f"{len(members)} files -> {folder / set / PRED_CONTACT}")

    # What stage 2 would read beside them.
    left = _other_exports(folder, by_set)
    for path in left:
        log(
            f"{path} is of an earlier export: no sample of it is in this archive. Stage 2 reads it "
            f"too; to remove it: rm -r {shlex.quote(str(path))}"
        )
    sets = {set: len(members) for set, members in by_set.items()}
    content = {"archive": str(archive), "sets": sets, "earlier_exports": list(map(str, left))}
    write_json(record, content | finish(files))
    return len(rows)


def _write_distances(maps: ContactMaps, rows: list[int], folder: Path) -> dict[str, list]:
    """One .npy for each sample of a set; returns [size in bytes, sha256] of each file."""
    several = len({maps.keys[row][1] for row in rows}) < len(rows)
    written = {}
    for row in rows:
        name = _file_name(maps, *maps.keys[row], several)
        if name in written:
            raise ArchiveError(f"{maps.path}: two samples would be written to {name}")
        buffer = io.BytesIO()
        np.save(buffer, maps.read("distance", row).astype(np.float32))
        content = buffer.getvalue()
        (folder / name).write_bytes(content)
        written[name] = [len(content), hashlib.sha256(content).hexdigest()]
    return written


def _file_name(maps: ContactMaps, set: str, index: str, caption_idx: int, several: bool) -> str:
    if set in SETS_INDEXED_BY_ROW:
        index = str(_row_number(maps, set, index))
        return map_name(set, index, caption_idx, several)
    return safe_name(f"{index}-{caption_idx}.npy", f"{maps.path}, a sample of {set}", ArchiveError)


def _other_exports(folder: Path, sets: Iterable[str]) -> list[Path]:
    """Folders of pred_contact files that hold none of these sets."""
    names = sorted(list_names(folder) - {*sets})
    paths = [folder / name / PRED_CONTACT for name in names if is_folder(folder / name)]
    return [path for path in paths if os.path.lexists(path)]
