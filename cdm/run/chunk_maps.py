"""The arrays of one chunk while its maps are made, and what is known of each of its samples."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from cdm.archive.layout import OK, SKIPPED, Layout
from cdm.archive.shards import ShardSums
from cdm.config import Config
from cdm.contact import to_distance
from cdm.datasets import Dataset, FileReader, Item, Sample
from cdm.datasets.files import SKIP, without_skip
from cdm.datasets.statistics import Statistics
from cdm.errors import BadItem, ConfigError
from cdm.jobs.log import Log
from cdm.model.cdm import if_not_finite
from cdm.run.plan import Plan
from cdm.run.sizes import CHUNK_BYTES
from cdm.sampling.batches import ReadAhead


def _too_large(num_samples: int, num_bytes: int, config: Config) -> str:
    """What to set where the maps of a chunk do not fit into memory.

    Args:
        num_bytes: that one sample takes.
    """
    fitting = min(int(CHUNK_BYTES // num_bytes), num_samples // 2)
    advice = f"Set a smaller one: --config 'workflow={{chunk_size: {fitting}}}'"
    if not fitting:
        advice = "All maps of a sample are in one chunk, so set a smaller sampling.k_samples"
    return (
        f"the maps of {num_samples} samples take {num_samples * num_bytes / 1e9:.3g} GB of main "
        f"memory, and this machine has not so much left: workflow.chunk_size is "
        f"{config.workflow.chunk_size}, sampling.k_samples {config.sampling.k_samples} and "
        f"dataset.num_points {config.dataset.num_points}. {advice}"
    )


class ChunkMaps:
    """The arrays of one chunk, filled map by map, and the samples that have no map.

    Items are found unusable in the thread that makes batches, maps in the thread that stores them.

    Args:
        plan: whose chunk it is.
        samples: the chunk's rows.
        statistics: mean and std, to compute distances.
        log: gets one line for each sample that is skipped.
    Raises:
        ConfigError: the arrays do not fit into main memory.
    Attributes:
        arrays: shaped by `layout`; `finished_arrays` puts NaN where nothing was stored.
        sums: checksums of the arrays' rows, made in the thread that stores maps: behind the device.
        reasons: row -> why the sample has no map.
        cut: captions whose ends the text model does not read.
    """

    def __init__(self, plan: Plan, samples: list[Sample], statistics: Statistics, log: Log):
        self.config, self.samples, self.statistics, self.log = plan.config, samples, statistics, log
        self.layout = Layout(
            num_samples=len(samples),
            # A shard has room for chunk_size samples, so it must not be larger than the archive.
            chunk_size=min(self.config.workflow.chunk_size, plan.num_samples),
            k_samples=self.config.sampling.k_samples,
            num_points=self.config.dataset.num_points,
            contact_dim=plan.architecture.contact_dim,
            dtype=self.config.workflow.dtype,
        )
        # Memory is touched when a map comes: to fill a large chunk with NaN takes a second.
        shapes = self.layout.arrays()
        try:
            self.arrays = {
                name: np.empty((len(samples), *row), dtype)
                for name, (row, dtype, _) in shapes.items()
            }
        except MemoryError:
            rows = [(math.prod(row), np.dtype(dtype)) for row, dtype, _ in shapes.values()]
            each = sum(size * dtype.itemsize for size, dtype in rows)
            raise ConfigError(_too_large(len(samples), each, self.config)) from None
        self.sums = {name: ShardSums() for name in self.arrays}
        self._num_stored = [0] * len(samples)  # maps of each row
        self.reasons: dict[int, str] = {}
        self.cut: frozenset[str] = frozenset()

    @property
    def texts(self) -> list[str]:
        """The caption of each sample."""
        return [sample.text for sample in self.samples]

    @property
    def num_maps(self) -> int:
        """Maps of the chunk, if no sample is skipped."""
        return self.layout.num_samples * self.layout.k_samples

    def read(self, dataset: Dataset, reader: FileReader, threads: int, ahead: int) -> ReadAhead:
        """Begin to read the items of all samples; hand what this gives to `usable_items`."""

        def load(sample: Sample) -> Item | BadItem:
            try:
                return dataset.load(sample, reader)
            except BadItem as problem:
                return problem

        return ReadAhead(load, self.samples, threads, ahead)

    def usable_items(self, items: ReadAhead) -> Iterator[tuple[int, Item]]:
        """(row, item) of every sample whose item can be used.

        Raises:
            BadItem: an item cannot be used, and `dataset.on_bad_item` is fail.
        """
        for row, item in enumerate(items):
            if isinstance(item, BadItem):
                self.skip(row, item)
            else:
                yield row, item

    def store(self, row: int, k: int, item: Item, x_0: np.ndarray) -> None:
        """Store map k of a sample, or skip the sample if a value of it is not finite.

        Args:
            x_0: (num_points, contact_dim) float32, the model's normalised output.
        Raises:
            BadItem: a value is not finite in the archive's dtype, and `dataset.on_bad_item` is
                fail.
        """
        dataset, statistics = self.config.dataset, self.statistics
        values: dict[str, Any] = {
            "sample": x_0,
            "distance": to_distance(
                x_0, statistics.mean, statistics.std, dataset.sigma, dataset.use_raw_dist
            ),
            "points": item.c_pc_xyz,
            "scene_trans": item.info_scene_trans,
            "aug_trans": item.info_aug_trans,
        }
        with np.errstate(over="ignore"):  # a value beyond the dtype becomes infinity: refused here
            values = {n: np.asarray(v).astype(self.arrays[n].dtype) for n, v in values.items()}
        for name, value in values.items():
            if not np.isfinite(value).all():
                self.skip(row, BadItem(f"{self.samples[row]}: {self._not_finite(name, x_0)}"))
                return
        for name, value in values.items():
            place = (row, k) if name in ("sample", "distance") else row
            self.arrays[name][place] = value
        self._num_stored[row] += 1
        self._sum_up()

    def _not_finite(self, name: str, x_0: np.ndarray) -> str:
        if not np.isfinite(x_0).all():
            precision = self.config.sampling.precision  # "auto" is never fp16
            return f"the model gave NaN or infinity; {if_not_finite(precision)}, {SKIP}"
        dtype = self.arrays[name].dtype
        return (
            f"'{name}' has a value that is not finite as {dtype} (at most "
            f"{np.finfo(dtype).max:.3g}); look at the item's table and points, set workflow.dtype "
            f"to float32, {SKIP}"
        )

    def skip(self, row: int, problem: BadItem) -> None:
        """Note that a sample has no map.

        Raises:
            BadItem: the problem itself, if `dataset.on_bad_item` is fail.
        """
        if self.config.dataset.on_bad_item == "fail":
            raise problem
        reason = without_skip(problem)
        if row not in self.reasons:
            self.log(f"skipped: {reason}")
        self.reasons[row] = reason

    def note_cut(self, captions: frozenset[str]) -> None:
        """Note which captions are longer than the text model reads, and tell their number."""
        self.cut = captions
        cut = [sample for sample in self.samples if sample.text in captions]
        if cut:
            text_model = self.config.model.text_model
            length = "null" if text_model.max_length is None else text_model.max_length
            self.log(
                f"text: {len(cut)} of {len(self.samples)} samples have a caption longer than "
                f"{text_model.version} reads (model.text_model.max_length {length}); its end is "
                f"cut off, as in afford-motion. The first: {cut[0]} {cut[0].text!r}"
            )

    def _has_all(self, row: int) -> bool:
        """Whether a row has all its maps, so that nothing of it changes any more."""
        return row not in self.reasons and self._num_stored[row] == self.layout.k_samples

    def _sum_up(self, to_end: bool = False) -> None:
        """Sum up the next rows that will not change any more, as far as they follow each other.

        Args:
            to_end: all rows; one that lacks a map counts as skipped.
        """
        done = next(iter(self.sums.values())).crcs
        while len(done) < len(self.samples):
            row = len(done)
            if not (to_end or row in self.reasons or self._has_all(row)):
                return
            for name, sums in self.sums.items():
                sums.add(self.arrays[name][row] if self._has_all(row) else None)

    def finished_arrays(self) -> dict[str, np.ndarray]:
        """The arrays, with NaN in all rows that have no map; nothing is stored after it."""
        self._sum_up(to_end=True)
        for row in range(len(self.samples)):
            if not self._has_all(row):
                for values in self.arrays.values():
                    values[row] = np.nan
        return self.arrays

    def sample_rows(self) -> list[dict[str, Any]]:
        """The record's rows: what each sample is, and whether it has its maps."""
        return [
            {
                "set": sample.set,
                "index": sample.index,
                "caption_idx": sample.caption_idx,
                "text": sample.text,
                "scene_id": sample.scene_id,
                "status": SKIPPED if row in self.reasons else OK,
            }
            | ({"reason": self.reasons[row]} if row in self.reasons else {})
            | ({"caption_cut": True} if sample.text in self.cut else {})
            for row, sample in enumerate(self.samples)
        ]
