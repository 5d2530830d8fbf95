"""One chunk: items -> text features -> sampler -> archive."""

import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from cdm.archive.layout import OK, SKIPPED, Layout
from cdm.archive.records import ChunkRecord, store_path
from cdm.archive.store import write_chunk
from cdm.contact import to_distance
from cdm.datasets import Dataset, FileReader, Item, Sample
from cdm.datasets.statistics import Statistics
from cdm.errors import ArchiveError, BadItem
from cdm.jobs.device import choose_device, device_name
from cdm.jobs.log import Log
from cdm.jobs.machine import describe_device
from cdm.jobs.progress import Clock, Heartbeat, Progress, per_second
from cdm.run.dataset import open_dataset
from cdm.run.inputs import fingerprint_allows, read_inputs, shared_states
from cdm.run.load import encode_texts, load_model, planned_statistics
from cdm.run.plan import Chunk, Plan
from cdm.run.plan_files import read_samples
from cdm.sampling.batches import Batch, batches, prefetch
from cdm.sampling.map_sampler import MapSampler


def generate_chunk(
    plan: Plan,
    chunk: Chunk,
    log: Log,
    threads: int = 1,
    heartbeat: Heartbeat | None = None,
    clock: Clock | None = None,
) -> ChunkRecord:
    """Sample every item of one chunk and write its store and record.

    Args:
        plan: as the run's start wrote it.
        chunk: one of the plan's.
        log: gets one line of text at a time.
        threads: CPU threads to use.
        heartbeat: gets how far the chunk is.
        clock: holds the seconds of the phases that came before.
    Returns:
        The record, as written.
    Raises:
        CDMError: a bad item (with `dataset.on_bad_item: fail`), a checkpoint or file that changed
            since the plan, a full disk. Nothing of the chunk is left then.
    """
    config, clock = plan.config, clock or Clock()
    torch.set_num_threads(threads)
    # 1. The rows, the statistics, and the state of the files that are loaded from here on.
    with clock("load"):
        dataset = open_dataset(config, plan.architecture.point_feat_dim)
        samples = read_samples(plan, chunk, dataset)
        states, reader = shared_states(plan), FileReader(config.data_dir)
        maps = ChunkMaps(plan, samples, planned_statistics(plan), log)
        device = choose_device(config.gpu, log)
        log(f"chunk {chunk.name}: {len(samples)} samples on {device_name(device)}")
    # 2. Captions become features.
    with clock("text"):
        texts = [sample.text for sample in samples]
        features = encode_texts(plan, texts, device, on_cut=maps.note_cut)
    # 3. The model goes to its device.
    with clock("model"):
        model = load_model(plan, device)
        sampler = MapSampler(model, config, features, device, log)
    # 4. Every usable item gets its maps.
    progress = Progress(maps.num_maps, f"chunk {chunk.name}", log, heartbeat)
    _sample_all(sampler, maps, maps.usable_items(dataset, reader), progress, clock)
    # 5. Store and record are written, if the files are still those that the name promises.
    contents = read_inputs(plan, dataset, samples, reader, states)
    provenance = describe_provenance(plan, maps.statistics, device, model.precision)
    gpu_busy = sampler.gpu_busy(clock.seconds["sample"])
    return _record(plan, chunk, maps, contents, provenance, clock, gpu_busy, log)


class ChunkMaps:
    """The arrays of one chunk, filled map by map, and the samples that have no map.

    Items are found unusable in the thread that reads ahead, maps in the thread that stores them.

    Args:
        plan: whose chunk it is.
        samples: the chunk's rows.
        statistics: mean and std, to compute distances.
        log: gets one line for each sample that is skipped.
    Attributes:
        arrays: shaped by `layout`; NaN where nothing was stored.
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
        self.arrays = self.layout.empty()
        self.reasons: dict[int, str] = {}
        self.cut: frozenset[str] = frozenset()

    @property
    def num_maps(self) -> int:
        """Maps of the chunk, if no sample is skipped."""
        return self.layout.num_samples * self.layout.k_samples

    def usable_items(self, dataset: Dataset, reader: FileReader) -> Iterator[tuple[int, Item]]:
        """(row, item) of every sample whose item can be used.

        Raises:
            BadItem: an item cannot be used, and `dataset.on_bad_item` is fail.
        """
        for row, sample in enumerate(self.samples):
            try:
                item = dataset.load(sample, reader)
            except BadItem as problem:
                self.skip(row, problem)
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
        values = {
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

    def _not_finite(self, name: str, x_0: np.ndarray) -> str:
        advice = "or set dataset.on_bad_item to skip"
        if not np.isfinite(x_0).all():
            return (
                "the model gave NaN or infinity; look at its points and at the checkpoint, "
                f"{advice}"
            )
        dtype = self.arrays[name].dtype
        return (
            f"'{name}' has a value that is not finite as {dtype} (at most "
            f"{np.finfo(dtype).max:.3g}); look at the item's table and points, set workflow.dtype "
            f"to float32, {advice}"
        )

    def skip(self, row: int, problem: BadItem) -> None:
        """Note that a sample has no map.

        Raises:
            BadItem: the problem itself, if `dataset.on_bad_item` is fail.
        """
        if self.config.dataset.on_bad_item == "fail":
            raise problem
        if row not in self.reasons:
            self.log(f"skipped: {problem}")
        self.reasons[row] = str(problem)

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

    def finished_arrays(self) -> dict[str, np.ndarray]:
        """The arrays, with NaN in all rows of skipped samples."""
        for row in self.reasons:
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


def _sample_all(
    sampler: MapSampler,
    maps: ChunkMaps,
    items: Iterator[tuple[int, Item]],
    progress: Progress,
    clock: Clock,
) -> None:
    """Sample k maps of each item. One thread reads ahead of the device, one stores behind it."""
    entries = ((row, item, k) for row, item in items for k in range(maps.layout.k_samples))

    def collate(group: list[tuple[int, Item, int]]) -> tuple[list, Batch]:
        return group, sampler.collate([(maps.samples[row], item, k) for row, item, k in group])

    def store(group: list[tuple[int, Item, int]], wait_for_x_0: Callable[[], np.ndarray]) -> None:
        for (row, item, k), x_0 in zip(group, wait_for_x_0(), strict=True):
            maps.store(row, k, item, x_0)

    with torch.inference_mode(), ThreadPoolExecutor(1) as writer:
        work = prefetch(map(collate, batches(entries, maps.config.sampling.batch_size)))
        # The first batch compiles and captures. Its time is measured apart from the others'.
        with clock("warm_up"):
            first = next(work, None)
            if first is not None:
                sampler.warm_up(first[1])
        # While a batch is stored, the next one is sampled.
        with clock("sample"):
            pending = []
            for group, batch in chain(filter(None, [first]), work):
                pending.append(writer.submit(store, group, sampler.start(batch, progress)))
                while pending and pending[0].done():
                    pending.pop(0).result()
            for stored in pending:
                stored.result()


def _record(
    plan: Plan,
    chunk: Chunk,
    maps: ChunkMaps,
    contents: dict[str, dict],
    provenance: dict[str, Any],
    clock: Clock,
    gpu_busy: float | None,
    log: Log,
) -> ChunkRecord:
    """Write a chunk's store and record, and say so in the log."""
    if not fingerprint_allows(chunk.fingerprint, chunk.base, contents):
        raise ArchiveError(
            f"chunk {chunk.name}: an item was edited after this run was planned. Start snakemake "
            "again; finished chunks are kept"
        )
    store, started = store_path(Path(plan.chunk_record(chunk))), time.perf_counter()
    record = ChunkRecord(
        name=chunk.name,
        base=chunk.base,
        layout=maps.layout,
        samples=maps.sample_rows(),
        contents=contents,
        provenance=provenance,
        seconds=clock.seconds,
        gpu_busy=gpu_busy,
    )
    record = write_chunk(store, maps.finished_arrays(), record)
    write_s, num_ok = time.perf_counter() - started, len(maps.samples) - len(maps.reasons)
    rate = per_second(num_ok * maps.layout.k_samples, clock.seconds["sample"])
    log(
        f"chunk {chunk.name}: {num_ok} samples written in {write_s:.1f} s, {len(maps.reasons)} "
        f"skipped; {rate:.2f} maps/s while sampling, "
        f"{sum(clock.seconds.values()) + write_s:.1f} s in all -> {store}"
    )
    return record


def describe_provenance(
    plan: Plan, statistics: Statistics, device: str, precision: str
) -> dict[str, Any]:
    """Where the numbers come from, as JSON values: the archive's attributes."""
    return {
        "config": plan.config.as_dict(),
        "settings": plan.identity,
        "checkpoint": asdict(plan.checkpoint),
        "scene_model": plan.scene_model and asdict(plan.scene_model),
        "architecture": asdict(plan.architecture),
        "statistics": {
            "path": plan.statistics.path,
            **statistics.numbers(),
            "sigma": plan.config.dataset.sigma,
        },
        "device": describe_device(device),
        "precision": precision,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "zarr": zarr.__version__,
        },
    }
