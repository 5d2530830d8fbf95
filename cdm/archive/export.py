"""Other shapes of a merged archive: the old script's .npz, and stage 2's pred_contact folders."""

import io
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cdm.archive import ContactMaps
from cdm.archive.layout import OK
from cdm.errors import ArchiveError
from cdm.files import replacing, write_json

INT_INDEX = ("HumanML3D", "HUMANISE", "PROX", "custom")  # sets whose index is a row number


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
    """
    maps = ContactMaps(archive)
    rows = _usable(maps)
    config = maps.attributes["config"]
    batch_size = config["sampling"]["batch_size"]
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as file:
        _write_object_array(file, "sample_list", len(rows), _items(maps, rows, first=True))
        _write_object_array(file, "k_samples_list", len(rows), _items(maps, rows, first=False))
        _write_array(file, "total_batches", np.asarray(-(-len(rows) // batch_size)))
        _write_array(file, "dataset_size", np.asarray(len(rows)))
    log(f"{len(rows)} samples -> {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return len(rows)


def _usable(maps: ContactMaps) -> list[int]:
    return np.flatnonzero(maps.group["status"][:] == OK).tolist()


def _items(maps: ContactMaps, rows: list[int], first: bool) -> Iterator[dict[str, Any]]:
    """One dict per sample, in the reference's field names."""
    group = maps.group
    text, scene_id = group["text"][:], group["scene_id"][:]
    for row in rows:
        set, index, caption_idx = maps.keys[row]
        sample = group["sample"][row].astype(np.float32)
        yield {
            "sample": sample[0] if first else sample,
            "c_text": str(text[row]),
            "c_pc_xyz": group["points"][row].astype(np.float32),
            "info_set": set,
            "info_index": int(index) if set in INT_INDEX else index,
            "info_caption_index": caption_idx,
            "info_scene": str(scene_id[row]),
            "info_scene_trans": group["scene_trans"][row],
            "info_aug_trans": group["aug_trans"][row],
        }


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
    """Forgets what it wrote, so that memory stays flat, and spells numpy's module the old way.

    numpy 2 writes numpy._core, which the numpy 1.x of older environments cannot read; numpy 2
    reads both.
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


def export_pred_contact(archive: Path, folder: Path, record: Path, log: Callable) -> int:
    """Write the distances stage 2 trains on, one (k, num_points, contact_dim) float32 file each.

    Sets: `{set}/pred_contact/{index:05}.npy`, with `-{caption_idx}` where the archive has several
    captions of an item. H3D: `H3D/pred_contact/{name}-{caption_idx}.npy`.

    Args:
        archive: `contact_maps.zarr`.
        folder: parent of the set folders; each set's pred_contact/ is replaced as a whole.
        record: JSON file written last.
        log: gets one line of text at a time.
    Returns:
        Files written; skipped samples have none.
    """
    maps = ContactMaps(archive)
    rows = _usable(maps)
    by_set: dict[str, list[int]] = {}
    for row in rows:
        by_set.setdefault(maps.keys[row][0], []).append(row)
    for set, members in by_set.items():
        several = len({maps.keys[row][1] for row in members}) < len(members)
        with replacing(folder / set / "pred_contact") as temporary:
            temporary.mkdir()
            for row in members:
                path = temporary / _file_name(*maps.keys[row], several)
                if path.exists():
                    raise ArchiveError(f"{archive}: two samples would be written to {path.name}")
                np.save(path, maps.group["distance"][row].astype(np.float32))
        log(f"{len(members)} files -> {folder / set / 'pred_contact'}")
    write_json(record, {"archive": str(archive), "sets": {s: len(m) for s, m in by_set.items()}})
    return len(rows)


def _file_name(set: str, index: str, caption_idx: int, several: bool) -> str:
    if set in INT_INDEX:
        return f"{int(index):05}-{caption_idx}.npy" if several else f"{int(index):05}.npy"
    return f"{index}-{caption_idx}.npy"
