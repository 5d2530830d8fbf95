"""What is wrong with the maps of an archive by their numbers: every one is read (no torch)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from cdm.archive.layout import OK, Layout
from cdm.contact import denormalise

ROWS_READ = 128  # at a time: all maps of a large shard would fill the memory
TOLERANCE = {"float32": 1e-5, "float16": 2e-3}  # of contacts, or of distances relative above 1 m
CLIP_MIN = 1e-6  # smallest contact a distance is made of


class Said(NamedTuple):
    """What an archive says of how its distances were computed."""

    mean: np.ndarray
    std: np.ndarray
    sigma: float
    use_raw_dist: bool

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Said":
        """From the archive's attributes.

        Raises:
            KeyError, TypeError, ValueError: they do not tell.
        """
        statistics = attributes["statistics"]
        mean, std = (np.asarray(statistics[key], np.float32) for key in ("mean", "std"))
        raw = attributes["config"]["dataset"]["use_raw_dist"]
        return cls(mean, std, float(statistics["sigma"]), raw)


def read_every_map(
    path: Path,
    group: zarr.Group,
    layout: Layout,
    statuses: np.ndarray,
    log: Callable[[str], None],
) -> tuple[int, list[str]]:
    """Read every map, a shard or a part of a large one at a time.

    Args:
        path: of the archive, for messages.
        statuses: `ok` or `skipped` of every row.
        log: told how far the reading is.
    Returns:
        how many maps were read, and a sentence for each problem.
    """
    try:
        said = Said.of(group.attrs)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"does not tell the statistics ({type(error).__name__}: {error})"
        return 0, [f"{path}/zarr.json: {problem}"]
    num_maps, size = 0, min(layout.chunk_size, ROWS_READ)
    problems: list[str] = []
    for start in range(0, layout.num_samples, size):
        rows = np.arange(start, min(start + size, layout.num_samples))
        ok = statuses[rows] == OK
        arrays: dict[str, np.ndarray] = {}
        problems += _wrong_numbers(path, group, layout, rows, ok, arrays)
        if len(arrays) == len(layout.arrays()) and ok.any():
            problems += _wrong_distances(path, layout, rows, ok, arrays, said)
        num_maps += int(ok.sum()) * layout.k_samples
        if (start // size) % 100 == 99:
            log(f"{rows[-1] + 1}/{layout.num_samples} samples read")
    return num_maps, problems


def _wrong_numbers(
    path: Path,
    group: zarr.Group,
    layout: Layout,
    rows: np.ndarray,
    ok: np.ndarray,
    arrays: dict[str, np.ndarray],
) -> Iterator[str]:
    """Numbers must be where a sample is ok, and NaN where not; `arrays` gets what was read."""
    start, stop = rows[0], rows[-1] + 1
    for name in layout.arrays():
        try:
            values = arrays[name] = group[name][start:stop]
        except Exception as error:  # a damaged shard raises whatever its codec raises
            yield f"{path / name}: rows {start} to {stop - 1}: {error}"
            continue
        axes = tuple(range(1, values.ndim))
        for row in rows[ok & ~np.isfinite(values).all(axes)]:
            yield f"{path / name}: row {row} holds NaN or infinity, its status is ok"
        for row in rows[~ok & ~np.isnan(values).all(axes)]:
            yield f"{path / name}: row {row} holds numbers, its status is skipped"


def _wrong_distances(
    path: Path,
    layout: Layout,
    rows: np.ndarray,
    ok: np.ndarray,
    arrays: dict[str, np.ndarray],
    said: Said,
) -> Iterator[str]:
    """Distances must be those of the model's output."""
    made = denormalise(arrays["sample"][ok], said.mean, said.std, said.use_raw_dist)
    kept = arrays["distance"][ok].astype(np.float32)
    if not said.use_raw_dist:  # compared as contacts: a distance enlarges errors near zero
        made, kept = np.maximum(made, CLIP_MIN), np.exp(-0.5 * (kept / said.sigma) ** 2)
    far = np.nan_to_num(np.abs(made - kept) / np.maximum(1, made), nan=np.inf).max()
    if far > TOLERANCE[layout.dtype]:
        yield (
            f"{path}: rows {rows[0]} to {rows[-1]}: 'distance' is not that of 'sample', "
            f"contacts differ by up to {far:.3g}"
        )
