"""One chunk: items -> text features -> sampler -> archive."""

import contextlib
import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdm.archive.records import ChunkRecord, store_path
from cdm.datasets import Dataset, FileReader, Item
from cdm.datasets.statistics import Statistics
from cdm.errors import ArchiveError
from cdm.files import FileState
from cdm.jobs.device import choose_device, device_name, give_back
from cdm.jobs.log import Log
from cdm.jobs.machine import describe_device
from cdm.jobs.progress import Clock, Heartbeat, Progress, per_second
from cdm.jobs.standby import wait_for_turn
from cdm.kernels import nvrtc
from cdm.model.cdm import CDM
from cdm.model.text import TextEncoder
from cdm.run.chunk_maps import ChunkMaps
from cdm.run.dataset import open_dataset
from cdm.run.inputs import fingerprint_allows, read_inputs, shared_states
from cdm.run.load import (
    features_of,
    place_model,
    planned_statistics,
    read_model,
    read_text_encoder,
)
from cdm.run.plan import Chunk, Plan
from cdm.run.plan_files import read_samples
from cdm.run.version import workflow_version
from cdm.sampling.batches import Batch, ReadAhead, batches, prefetch
from cdm.sampling.map_sampler import MapSampler

READ_AHEAD = 3  # batches whose items may wait, read, for the device


def generate_chunk(
    plan: Plan,
    chunk: Chunk,
    log: Log,
    threads: int = 1,
    heartbeat: Heartbeat | None = None,
    clock: Clock | None = None,
    turns: int | None = None,
) -> ChunkRecord:
    """Sample every item of one chunk and write its store and record.

    Args:
        plan: as the run's start wrote it.
        chunk: one of the plan's.
        log: gets one line of text at a time.
        threads: CPU threads to use.
        heartbeat: gets how far the chunk is.
        clock: holds the seconds of the phases that came before.
        turns: how many jobs of the run may compute at a time (`cdm.jobs.standby`); None if this
            one need not wait for others.
    Returns:
        The record, as written.
    Raises:
        CDMError: a bad item (with `dataset.on_bad_item: fail`), a checkpoint or file that changed
            since the plan, a full disk, or a run that ended before the job's turn came. Nothing of
            the chunk is left then.
    """
    config, clock = plan.config, clock or Clock()
    torch.set_num_threads(threads)
    if heartbeat and turns:
        heartbeat.report_turn(False)
    # 1. What needs no device comes to main memory. The items are read from now on.
    with clock("load"):
        ready = _get_ready(plan, chunk, threads, log)
    maps = ready.maps
    with contextlib.closing(ready.items):
        # 2. A device that no other job computes on.
        with clock("wait"):
            turn = partial(wait_for_turn, config.run_dir, turns, log)
            device = choose_device(config.gpu, log, turn)
            log(f"chunk {chunk.name}: {len(maps.samples)} samples on {device_name(device)}")
            if heartbeat:
                heartbeat.report_turn(True)
        # 3. Captions become features there, and the model comes there.
        with clock("text"):
            features = features_of(plan, ready.encoder, maps.texts, device)
            ready.encoder = None
        with clock("model"):
            model, ready.model = place_model(ready.model, plan, device), None
            sampler = MapSampler(model, config, features, device, log)
            provenance = describe_provenance(plan, maps.statistics, device, model.precision)
            del model, features
        # 4. Every usable item gets its maps; then the device is free for the next job.
        progress = Progress(maps.num_maps, f"chunk {chunk.name}", log, heartbeat)
        _sample_all(sampler, maps, maps.usable_items(ready.items), progress, clock)
    # 5. Store and record are written, if the files are still those that the name promises.
    with clock("write"):
        contents = read_inputs(plan, ready.dataset, maps.samples, ready.reader, ready.states)
    gpu_busy = sampler.gpu_busy(clock.seconds["sample"])
    return _record(plan, chunk, maps, contents, provenance, clock, gpu_busy, log)


@dataclass
class _Ready:
    """What a job has in main memory when it waits for a device.

    Attributes:
        states: of the files that all chunks read, from before they were read.
        items: are being read.
        model, encoder: None once they are on the device, so that nothing else keeps them there.
    """

    dataset: Dataset
    reader: FileReader
    states: dict[Path, FileState | None]
    maps: ChunkMaps
    items: ReadAhead
    model: CDM | Any  # or None
    encoder: TextEncoder | Any  # or None


def _get_ready(plan: Plan, chunk: Chunk, threads: int, log: Log) -> _Ready:
    """Read rows, statistics and weights of a chunk, and begin to read its items."""
    config = plan.config
    # The rows, the statistics, and the state of the files that are loaded from here on.
    dataset = open_dataset(config, plan.architecture.point_feat_dim)
    samples = read_samples(plan, chunk, dataset)
    states, reader = shared_states(plan), FileReader(config.data_dir)
    maps = ChunkMaps(plan, samples, planned_statistics(plan), log)
    reader.read_ahead(dataset.files(sample)[0] for sample in samples)
    ahead = READ_AHEAD * max(config.sampling.batch_size, threads)
    items = maps.read(dataset, reader, reader_threads(threads, config.gpu), ahead)
    # The weights, what git says of this program (slow on a network disk, and kept for later), and
    # libraries for a GPU that do not touch it.
    try:
        model, encoder = read_model(plan), read_text_encoder(plan)
        maps.note_cut(encoder.cut(set(maps.texts)))
        workflow_version()
        if config.gpu is not None:
            nvrtc.import_ahead()
    except BaseException:
        items.close()
        raise
    return _Ready(dataset, reader, states, maps, items, model, encoder)


def reader_threads(threads: int, gpu: int | str | None) -> int:
    """Threads that read items ahead.

    Reading unpacks and hashes for most of its time, without Python's lock, so four threads are
    faster than one; many more are not. Four feed a GPU even under `--cores 1`. Where the CPU
    computes the maps, one suffices.

    Args:
        threads: of the job.
        gpu: as configured.
    """
    return 1 if gpu is None else min(8, max(4, threads))


def _sample_all(
    sampler: MapSampler,
    maps: ChunkMaps,
    items: Iterator[tuple[int, Item]],
    progress: Progress,
    clock: Clock,
) -> None:
    """Sample k maps of each item, then give the device back.

    One thread makes batches ahead of the device, one stores maps behind it.
    """
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
        # zarr takes half a second of Python, which would have held up the warm-up. It is needed
        # when all maps are there.
        writer.submit(importlib.import_module, "cdm.archive.store")
        # While a batch is stored, the next one is sampled.
        with clock("sample"):
            pending = []
            for group, batch in chain(filter(None, [first]), work):
                pending.append(writer.submit(store, group, sampler.start(batch, progress)))
                while pending and pending[0].done():
                    pending.pop(0).result()
            sampler.close()
            give_back()
        with clock("write"):
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
    from cdm.archive.store import write_chunk  # `_sample_all` has imported it

    if not fingerprint_allows(chunk.fingerprint, chunk.base, contents):
        raise ArchiveError(
            f"chunk {chunk.name}: an item was edited after this run was planned. Start snakemake "
            "again; finished chunks are kept"
        )
    store = store_path(Path(plan.chunk_record(chunk)))
    record = ChunkRecord(
        name=chunk.name,
        base=chunk.base,
        layout=maps.layout,
        samples=maps.sample_rows(),
        contents=contents,
        provenance=provenance,
        seconds=dict(clock.seconds),
        gpu_busy=gpu_busy,
    )
    with clock("write"):
        record = write_chunk(store, maps.finished_arrays(), record, maps.sums)
    num_ok = len(maps.samples) - len(maps.reasons)
    rate = per_second(num_ok * maps.layout.k_samples, clock.seconds["sample"])
    log(
        f"chunk {chunk.name}: {num_ok} samples written in {clock.seconds['write']:.1f} s, "
        f"{len(maps.reasons)} skipped; {rate:.2f} maps/s while sampling, {clock.total_s:.1f} s in "
        f"all -> {store}"
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
        "workflow": workflow_version(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "zarr": importlib.metadata.version("zarr"),
        },
    }
