"""Mean and standard deviation of the contact, by which maps are normalised.

They belong to the model: its training maps were normalised by them. afford-motion caches them as
`Mean_Std_*.npz` in the data folder. Its float32 sums drift with the number of rows (a constant 0.3
has mean 0.140 after 6e7 rows), so a file that exists is used as it is. Otherwise they are computed
from the split that the model was trained on, whatever split is sampled.
"""

import fnmatch
import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cdm.datasets.base import Dataset
from cdm.datasets.files import (
    REBUILD,
    FileReader,
    decode_npz,
    exists,
    read_regular,
)
from cdm.datasets.samples import Sample
from cdm.errors import BadItem, DataError, listed
from cdm.files import (
    Place,
    RemotePath,
    digest,
    list_names,
    map_files,
    place_of,
    read_bytes,
    seal,
    unseal,
    write_bytes,
)

NAME = re.compile(
    r"Mean_Std_(?P<kind>Cont|Dist)_.+?_(?P<data_repr>contact_(cont|all|one)_joints|contact_pelvis)"
    r"(_(?P<sigma>([0-9]+\.?[0-9]*|\.[0-9]+)(e-?[0-9]+)?))?(_fur)?"
    r"( ?\([0-9]+\))?\.npz"  # a browser's second download: `... (1).npz`
)


@dataclass(frozen=True)
class Statistics:
    """Normalisation of contact maps.

    Args:
        mean, std: (1, contact_dim) float32.
        source: the file they come from, or what they were computed from.
        left_out: [set, index] of the bad items that they were computed without.
    """

    mean: np.ndarray
    std: np.ndarray
    source: str
    left_out: tuple[list[str], ...] = ()

    def numbers(self) -> dict[str, list]:
        """Mean and std as JSON values."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def normalise(self, contact: np.ndarray) -> np.ndarray:
        """(contact - mean) / std, float32; contact: (..., contact_dim)."""
        return ((contact - self.mean) / self.std).astype(np.float32)


class Moments:
    """Streaming mean and population std, merged block by block in float64.

    Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances": the error does not grow with the number of rows.
    """

    def __init__(self):
        self.count = 0
        self.mean = self.m2 = np.zeros(())

    def add(self, count, mean, m2) -> None:
        """Merge a block of count rows: their mean, and the sum of their squared deviations."""
        total, delta = self.count + count, mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.m2 = self.m2 + m2 + delta**2 * (self.count * count / total)
        self.count = total

    @staticmethod
    def of(block: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Moments of one (rows, contact_dim) block."""
        block = block.astype(np.float64)
        mean = block.mean(axis=0)
        return len(block), mean, np.square(block - mean).sum(axis=0)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.m2 / self.count)


def compute_statistics(dataset: Dataset, reader: FileReader) -> Statistics:
    """Mean and std over all points of the dataset's `statistics_samples`, in one pass.

    Items are read by several threads and merged in order, so that the result does not depend on
    timing.

    Raises:
        BadItem: an item cannot be used; with `dataset.on_bad_item: skip` it is left out, and
            `source` and `left_out` say so.
        DataError: no item is left, or they do not vary.
    """

    def moments(sample):
        try:
            return Moments.of(dataset.contact(dataset.read_distance(sample, reader)))
        except BadItem as problem:
            if dataset.config.on_bad_item == "skip":
                return problem
            raise

    samples, total, bad = dataset.statistics_samples(), Moments(), {}
    pool = ThreadPoolExecutor(8)
    try:
        for sample, block in zip(samples, pool.map(moments, samples), strict=True):
            if isinstance(block, BadItem):
                bad[sample] = block
            else:
                total.add(*block)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the other 40,000 need no reading
    num_items = len(samples) - len(bad)
    if not num_items:
        raise DataError(
            f"{dataset.data_dir}: none of {len(samples)} items can be used to compute mean and std:"
            f"\n  {listed(bad.values(), 3)}\nRestore the files, or name the statistics that "
            "the model was trained with in dataset.statistics"
        )
    left_out = f" ({len(bad)} left out)" if bad else ""
    source = f"{dataset.statistics_name()} computed from {num_items} items{left_out}"
    contact_dim = dataset.config.contact_dim
    found = checked_statistics(total.mean[None], total.std[None], source, contact_dim)
    return replace(found, left_out=tuple(map(_row, bad)))


def computed_statistics_path(dataset: Dataset, items: list[Sample], run_dir: str) -> str:
    """Where a run keeps the statistics that it computes.

    afford-motion's file name tells neither the data folder nor the split's content nor the joints.
    The name of the folder does, so that those of other data are never used; nor are those that were
    computed without an item that can be used by now.

    Args:
        items: the dataset's `statistics_samples`.
    """
    data_dir = dataset.data_dir
    folder = str(data_dir) if isinstance(data_dir, RemotePath) else os.path.normpath(data_dir)
    joints = dataset.config.data_repr_joints
    rows = [_row(item) for item in items]
    untold = _real_folders(dataset, items, run_dir)
    key = digest([folder, dataset.statistics_phase, rows, joints, *untold])
    path = Path(run_dir, "statistics", key, dataset.statistics_name())
    while left_out := _read_left_out(path):
        still_bad = _still_bad(dataset, items, left_out)
        if still_bad == left_out:
            break
        key = digest([key, still_bad])
        path = Path(run_dir, "statistics", key, path.name)
    return str(path)


def _row(item: Sample) -> list[str]:
    return [item.set, item.index]


def _still_bad(dataset: Dataset, items: list[Sample], left_out: list[list[str]]) -> list[list[str]]:
    """Which of the items that were left out would be so today: they are read."""
    rows = {tuple(row) for row in left_out}
    doubtful = [item for item in items if tuple(_row(item)) in rows]

    def is_bad(item: Sample) -> bool:
        try:
            dataset.read_distance(item, FileReader(dataset.data_dir))
        except BadItem:
            return True
        return False

    bad = map_files(is_bad, doubtful, waits=isinstance(dataset.data_dir, RemotePath))
    return [_row(item) for item, still in zip(doubtful, bad, strict=True) if still]


def _left_out_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".left_out.json")


def _read_left_out(path: Path) -> list[list[str]]:
    """`Statistics.left_out` of computed statistics; empty if they are not there."""
    try:
        return unseal(read_bytes(_left_out_path(path)))["items"] if path.exists() else []
    except (OSError, ValueError, KeyError):
        return []  # usually: nothing was left out


def _real_folders(dataset: Dataset, items: list[Sample], run_dir: str) -> list[str]:
    """Where the items really lie, unless the name of the data folder tells it.

    It does not if a link leads there, which may lead elsewhere tomorrow, or if it is relative and
    the run's folder is not: then the same name means another folder in another working folder.
    """
    if isinstance(dataset.data_dir, RemotePath):
        return []
    one_of_each_set = {item.set: item for item in items}.values()
    names = [dataset.data_dir / dataset.files(item)[0] for item in one_of_each_set]
    real = [os.path.realpath(name.parent) for name in names]
    without_links = real == [os.path.abspath(name.parent) for name in names]
    same_start = dataset.data_dir.is_absolute() or not os.path.isabs(run_dir)
    return [] if without_links and same_start else real


def load_statistics(path: str | Place, contact_dim: int) -> Statistics:
    """Read a `Mean_Std_*.npz`, on disk or on a server.

    Raises:
        DataError: no such file, not one of this kind, or of another number of joints.
    """
    path = place_of(path)
    if not exists(path):
        raise DataError(f"{path}: no such file; correct dataset.statistics, or set it to null")
    shapes = {"mean": (1, contact_dim), "std": (1, contact_dim)}
    advice = "restore the file; dataset.data_repr must be that of the model"
    try:
        arrays = decode_npz(read_regular(path)[0], str(path), shapes, advice)
    except BadItem as error:
        raise DataError(str(error).replace(REBUILD, advice)) from error
    return checked_statistics(arrays["mean"], arrays["std"], str(path), contact_dim)


def name_contradictions(path: str | Path, config) -> list[str]:
    """What the name of a `Mean_Std_*.npz` says that the configuration does not.

    Args:
        config: section `dataset` (`cdm.config.DatasetConfig`).
    Returns:
        One line for each contradiction; none for a name of another form.
    """
    found = NAME.fullmatch(Path(path).name)
    if not found:
        return []
    wanted = {
        "kind": "Dist" if config.use_raw_dist else "Cont",
        "data_repr": config.data_repr,
        "sigma": None if config.use_raw_dist else config.sigma,
    }
    said = found.groupdict()
    said["sigma"] = said["sigma"] and float(said["sigma"])
    keys = {"kind": "dataset.use_raw_dist", "data_repr": "dataset.data_repr"}
    return [
        f"{path}: its name says {key} {said[key]}, {keys.get(key, 'dataset.sigma')} says {value}; "
        "use the file that the model was trained with"
        for key, value in wanted.items()
        if said[key] != value
    ]


def find_statistics(dataset: Dataset, exp_dir=None) -> Statistics | None:
    """Statistics that exist.

    The configured file comes first, then the file that a training here left in its experiment
    folder, then afford-motion's in the data folder.

    Args:
        exp_dir: folder that holds ckpt/.
    Returns:
        None where they have to be computed.
    Raises:
        DataError: none exist and the dataset has no ground truth to compute them from; or they
            cannot be those of contact maps.
    """
    config = dataset.config
    path = dataset.data_dir / dataset.statistics_name()
    trained_with = exp_dir and _left_by_training(Path(exp_dir), path.name, config)
    chosen = config.statistics or trained_with or (path if exists(path) else None)
    if chosen:
        statistics = load_statistics(chosen, config.contact_dim)
        _refuse_impossible(statistics, config.use_raw_dist)
        return statistics
    if dataset.has_ground_truth:
        return None
    found = ", ".join(sorted(fnmatch.filter(list_names(dataset.data_dir), "Mean_Std_*.npz")))
    raise DataError(
        f"{path}: no such file, and {config.name} has no ground truth to compute it from "
        f"({dataset.data_dir} holds {found or 'no Mean_Std_*.npz'}); name the file the model was "
        "trained with, for example dataset:\n  statistics: path/to/Mean_Std_....npz"
    )


def _left_by_training(folder: Path, usual: str, config) -> Path | None:
    """The file of statistics that a training here left beside its checkpoint.

    It is the model's, whatever its name says of sets: other ones may be sampled.

    Args:
        folder: that holds ckpt/.
        usual: the file's name if the trained sets are the sampled ones.
        config: section `dataset`.
    Raises:
        DataError: there are several, of which none is told from the others by its name.
    """
    names = sorted(fnmatch.filter(list_names(folder), "Mean_Std_*.npz"))
    if usual in names:
        return folder / usual
    fitting = [name for name in names if not name_contradictions(name, config)]
    if len(fitting) > 1:
        raise DataError(
            f"{folder}: holds {', '.join(fitting)}, expected one file of statistics beside ckpt/, "
            "or none; name the one that the model was trained with in dataset.statistics"
        )
    return folder / fitting[0] if fitting else None


def _refuse_impossible(found: Statistics, use_raw_dist: bool) -> None:
    """Refuse a mean and std that no contact maps have, such as those of distances.

    Maps would be finite and wrong: with a mean far above 1 every point touches every joint.
    """
    low, high, widest = found.mean.min(), found.mean.max(), found.std.max()
    if use_raw_dist or (low >= 0 and high <= 1 and widest <= 1):
        return
    raise DataError(
        f"{found.source}: mean goes from {low:.4g} to {high:.4g} and std up to {widest:.4g}, "
        "expected 0 to 1 in both, as contact values lie between 0 and 1. These may be statistics "
        "of distances (those belong to dataset.use_raw_dist: true) or of something else: name the "
        "file that the model was trained with in dataset.statistics"
    )


def save_statistics(path, statistics: Statistics) -> None:
    """Write a `Mean_Std_*.npz` that afford-motion can read; complete or not at all.

    Beside it, before it, comes a list of what was left out, where something was.
    """
    if statistics.left_out:
        write_bytes(_left_out_path(path), seal({"items": statistics.left_out}))
    else:
        _left_out_path(path).unlink(missing_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, mean=statistics.mean, std=statistics.std)
    write_bytes(path, buffer.getvalue())


def checked_statistics(mean, std, source: str, contact_dim: int) -> Statistics:
    """(1, contact_dim) mean and std, of any float type, as float32.

    Raises:
        DataError: wrong shape, or float32 makes of them NaN, infinity, or a std to divide by that
            gives infinity.
    """
    for name, array in (("mean", mean), ("std", std)):
        if array.shape != (1, contact_dim) or array.dtype.kind != "f":
            raise DataError(
                f"{source}: '{name}' is {array.dtype} {array.shape}, expected float "
                f"(1, {contact_dim}); dataset.data_repr must be that of the model"
            )
    with np.errstate(over="ignore", divide="ignore"):  # found below
        mean, std = mean.astype(np.float32), std.astype(np.float32)
        usable = np.isfinite(mean) & np.isfinite(std) & (std > 0) & np.isfinite(1 / std)
    if not usable.all():
        raise DataError(
            f"{source}: mean is {mean.tolist()}, std is {std.tolist()}, expected finite numbers "
            "and positive std; the contact maps behind it are constant or damaged"
        )
    return Statistics(mean, std, source)
