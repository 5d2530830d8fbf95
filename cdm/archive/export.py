"""Other shapes of a merged archive: the old script's .npz, and stage 2's pred_contact folders."""

import contextlib
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
from cdm.errors import ArchiveError
from cdm.files import is_folder, list_names, replacing, safe_name, write_json

# Their samples are rows of a table, so an index is a number.
SETS_INDEXED_BY_ROW = ("HumanML3D", "HUMANISE", "PROX", "custom")
PRED_CONTACT = "pred_contact"  # name of the folder that stage 2 reads


def export_npz(archive: Path, target: Path, log: Callable[[str], None]) -> int:
    """Write `generated_contact_maps.npz`, samples streaming from archive to file.

    Keys, as the script this workflow replaces wrote them: `sample_list` and `k_samples_list`
    (object arrays of dicts: `sample`, (num_points, contact_dim) and (k, num_points, contact_dim)
    float32, normalised; and the item's fields), `total_batches`, `dataset_size`. One sample at
    a time is in memory here; readers of object arrays hold all of them. Load it with
    `numpy.load(path, allow_pickle=True)`; the pickles need no numpy newer than 1.17.

    Args:
        archive: `contact_maps.zarr`.
        target: path of the .npz.
        log: gets one line of text at a time.
    Returns:
        Samples written; skipped ones are left out.
    Raises:
        ArchiveError: a map is damaged or missing; nothing is written then.
    """
    maps = ContactMaps(archive, checksums=True)
    rows = maps.rows_with_maps()
    batch_size = maps.attributes["config"]["sampling"]["batch_size"]
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as file:
        _write_object_array(file, "sample_list", len(rows), _items(maps, rows, first=True))
        _write_object_array(file, "k_samples_list", len(rows), _items(maps, rows, first=False))
        _write_array(file, "total_batches", np.asarray(-(-len(rows) // batch_size)))
        _write_array(file, "dataset_size", np.asarray(len(rows)))
    log(f"{len(rows)} samples -> {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return len(rows)


def _items(maps: ContactMaps, rows: list[int], first: bool) -> Iterator[dict[str, Any]]:
    """One dict per sample, with afford-motion's field names."""
    text, scene_id = maps.column("text"), maps.column("scene_id")
    for row in rows:
        set, index, caption_idx = maps.keys[row]
        sample = maps.read("sample", row).astype(np.float32)
        yield {
            "sample": sample[0] if first else sample,
            "c_text": str(text[row]),
            "c_pc_xyz": maps.read("points", row).astype(np.float32),
            "info_set": set,
            "info_index": _row_number(maps, set, index) if set in SETS_INDEXED_BY_ROW else index,
            "info_caption_index": caption_idx,
            "info_scene": str(scene_id[row]),
            "info_scene_trans": maps.read("scene_trans", row),
            "info_aug_trans": maps.read("aug_trans", row),
        }


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
        function, arguments, state = np.empty(0, object).__reduce__()
        version, _, dtype, is_fortran, _ = state
        return function, arguments, (version, (self.size,), dtype, is_fortran, _Stream(self.items))


class _Pickler(pickle._Pickler):
    """Forgets what it wrote, so that memory stays flat, and writes the old name of numpy's module.

    numpy 2 would write numpy._core, which the numpy 1.x of older environments cannot read. Both
    can read numpy.core.
    """

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

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
    archive: Path, folder: Path, record: Path, log: Callable[[str], None]
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
    with contextlib.ExitStack() as stack:
        for set, members in by_set.items():
            safe_name(set, f"{archive}, column set", ArchiveError)
            temporary = stack.enter_context(replacing(folder / set / PRED_CONTACT))
            temporary.mkdir()
            _write_distances(maps, members, temporary)
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
    write_json(
        record, {"archive": str(archive), "sets": sets, "earlier_exports": list(map(str, left))}
    )
    return len(rows)


def _write_distances(maps: ContactMaps, rows: list[int], folder: Path) -> None:
    """One .npy for each sample of a set."""
    several = len({maps.keys[row][1] for row in rows}) < len(rows)
    for row in rows:
        path = folder / _file_name(maps, *maps.keys[row], several)
        if path.exists():
            raise ArchiveError(f"{maps.path}: two samples would be written to {path.name}")
        np.save(path, maps.read("distance", row).astype(np.float32))


def _file_name(maps: ContactMaps, set: str, index: str, caption_idx: int, several: bool) -> str:
    if set in SETS_INDEXED_BY_ROW:
        number = f"{_row_number(maps, set, index):05}"
        return f"{number}-{caption_idx}.npy" if several else f"{number}.npy"
    return safe_name(f"{index}-{caption_idx}.npy", f"{maps.path}, a sample of {set}", ArchiveError)


def _other_exports(folder: Path, sets: Iterable[str]) -> list[Path]:
    """Folders of pred_contact files that hold none of these sets."""
    names = sorted(list_names(folder) - {*sets})
    paths = [folder / name / PRED_CONTACT for name in names if is_folder(folder / name)]
    return [path for path in paths if os.path.lexists(path)]
