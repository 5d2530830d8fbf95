"""Mean and standard deviation of the contact, by which maps are normalised.

The reference caches them as `Mean_Std_*.npz` in the data folder. Its float32 sums drift with the
number of rows (a constant 0.3 has mean 0.140 after 6e7 rows), so an existing file always wins:
the model was trained with it.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdm.errors import BadItem, DataError
from cdm.files import write_bytes


@dataclass(frozen=True)
class Statistics:
    """Normalisation of contact maps.

    Args:
        mean, std: (1, contact_dim) float32.
        source: the file they come from, or what they were computed from.
    """

    mean: np.ndarray
    std: np.ndarray
    source: str

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
        self.count, self.mean, self.m2 = 0, 0.0, 0.0

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


def compute_statistics(dataset, reader) -> Statistics:
    """Mean and std over all points of the dataset's `statistics_samples`, in one pass.

    Items are read by several threads and merged in order: the result does not depend on timing.
    An unusable item raises BadItem, or is left out where `dataset.on_bad_item` is skip.
    """

    def moments(sample):
        try:
            return Moments.of(dataset.contact(dataset.read_distance(sample, reader)))
        except BadItem:
            if dataset.config.on_bad_item == "skip":
                return None
            raise

    samples, total, num_items = dataset.statistics_samples(), Moments(), 0
    pool = ThreadPoolExecutor(8)
    try:
        for block in pool.map(moments, samples):
            if block is not None:
                total.add(*block)
                num_items += 1
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the other 40,000 need no reading
    if not num_items:
        raise DataError(f"{dataset.data_dir}: no item to compute statistics from")
    source = f"{dataset.statistics_name()} computed from {num_items} items"
    return checked_statistics(total.mean[None], total.std[None], source, dataset.config.contact_dim)


def load_statistics(path, contact_dim: int) -> Statistics:
    """Read a `Mean_Std_*.npz`."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file; correct dataset.statistics, or set it to null")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # damaged bytes raise anything: zlib, zip, numpy, memory
        raise DataError(f"{path}: not a readable .npz ({error}); restore the file") from error
    absent = [name for name in ("mean", "std") if name not in arrays]
    if absent:
        raise DataError(
            f"{path}: {', '.join(absent)} not in the file, found {', '.join(arrays) or 'nothing'}; "
            "expected 'mean' and 'std', each (1, contact_dim)"
        )
    return checked_statistics(arrays["mean"], arrays["std"], str(path), contact_dim)


def find_statistics(dataset, exp_dir=None) -> Statistics | None:
    """Statistics that exist: the configured file, else those a training here left in its
    experiment folder, else the reference's in the data folder.

    Args:
        exp_dir: folder that holds ckpt/.
    Returns:
        None where they have to be computed.
    Raises:
        DataError: none exist and the dataset has no ground truth to compute them from.
    """
    config = dataset.config
    if config.statistics is not None:
        return load_statistics(config.statistics, config.contact_dim)
    path = dataset.data_dir / dataset.statistics_name()
    trained_with = [Path(exp_dir, path.name)] if exp_dir is not None else []
    for candidate in (*trained_with, path):
        if candidate.exists():
            return load_statistics(candidate, config.contact_dim)
    if dataset.has_ground_truth:
        return None
    found = ", ".join(sorted(name.name for name in dataset.data_dir.glob("Mean_Std_*.npz")))
    raise DataError(
        f"{path}: no such file, and {config.name} has no ground truth to compute it from "
        f"({dataset.data_dir} holds {found or 'no Mean_Std_*.npz'}); name the file the model was "
        "trained with, for example dataset:\n  statistics: path/to/Mean_Std_....npz"
    )


def save_statistics(path, statistics: Statistics) -> None:
    """Write a `Mean_Std_*.npz` that the reference can read; complete or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, mean=statistics.mean, std=statistics.std)
    write_bytes(path, buffer.getvalue())


def checked_statistics(mean, std, source: str, contact_dim: int) -> Statistics:
    """(1, contact_dim) mean and std, of any float type, as float32.

    Raises:
        DataError: wrong shape, not finite, or a std of 0.
    """
    for name, array in (("mean", mean), ("std", std)):
        if array.shape != (1, contact_dim) or array.dtype.kind != "f":
            raise DataError(
                f"{source}: '{name}' is {array.dtype} {array.shape}, expected float "
                f"(1, {contact_dim}); dataset.data_repr must be that of the model"
            )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise DataError(
            f"{source}: mean is {mean.tolist()}, std is {std.tolist()}, expected finite numbers "
            "and positive std; the contact maps behind it are constant or damaged"
        )
    return Statistics(mean.astype(np.float32), std.astype(np.float32), source)
