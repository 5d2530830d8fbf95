"""One chunk: items -> text features -> sampler -> archive."""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdm.archive.store import OK, SKIPPED, ChunkRecord, Layout, write_chunk
from cdm.config import Config
from cdm.contact import to_distance
from cdm.datasets import FileReader, Item, Sample
from cdm.datasets.statistics import Statistics
from cdm.errors import ArchiveError, BadItem
from cdm.jobs.device import choose_device, device_name
from cdm.jobs.progress import Clock, Heartbeat, Progress
from cdm.run.contents import is_named_for, read_contents
from cdm.run.dataset import open_dataset
from cdm.run.load import encode_texts, load_model, planned_statistics
from cdm.run.plan import Chunk, Plan, read_samples
from cdm.sampling.batches import Batch, batches, prefetch
from cdm.sampling.map_sampler import MapSampler

Log = Callable[[str], None]


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
        heartbeat: told how far the chunk is.
        clock: with the phases that came before.
    Returns:
        The record, as written.
    Raises:
        CDMError: a bad item (with `dataset.on_bad_item: fail`), a checkpoint or file that changed
            since the plan, a full disk. Nothing of the chunk is left then.
    """
    config, clock = plan.config, clock or Clock()
    torch.set_num_threads(threads)
    with clock("load"):
        dataset = open_dataset(config, plan.architecture.point_feat_dim)
        samples = read_samples(plan, chunk, dataset)
        statistics = planned_statistics(plan)
        reader = FileReader(config.data_dir)
        device = choose_device(config.gpu, log)
        log(f"chunk {chunk.name}: {len(samples)} samples on {device_name(device)}")
    with clock("text"):
        features = encode_texts(plan, [sample.text for sample in samples], device)
    with clock("model"):
        model = load_model(plan, device)

    sampler = MapSampler(model, config, features, device, log)
    layout = Layout(
        num_samples=len(samples),
        chunk_size=config.workflow.chunk_size,
        k_samples=config.sampling.k_samples,
        num_points=config.dataset.num_points,
        contact_dim=plan.architecture.contact_dim,
        dtype=config.workflow.dtype,
    )
    arrays = layout.empty()
    reasons: dict[int, str] = {}
    good = load_items(dataset, samples, reader, config, reasons, log)
    maps = ((row, item, k) for row, item in good for k in range(layout.k_samples))
    progress = Progress(len(samples) * layout.k_samples, f"chunk {chunk.name}", log, heartbeat)

    def collate(entries: list[tuple[int, Item, int]]) -> tuple[list, Batch]:
        return entries, sampler.collate([(samples[row], item, k) for row, item, k in entries])

    def keep(entries: list[tuple[int, Item, int]], drawn: Callable[[], np.ndarray]) -> None:
        for (row, item, k), x_0 in zip(entries, drawn(), strict=True):
            if not np.isfinite(x_0).all():
                problem = BadItem(
                    f"{_name(samples[row])}: the model gave NaN or infinity; look at its "
                    "points and at the checkpoint, or set dataset.on_bad_item to skip"
                )
                _skip_or_raise(problem, row, config, reasons, log)
                continue
            arrays["sample"][row, k] = x_0
            arrays["distance"][row, k] = to_distance(
                x_0,
                statistics.mean,
                statistics.std,
                config.dataset.sigma,
                config.dataset.use_raw_dist,
            )
            arrays["points"][row] = item.c_pc_xyz
            arrays["scene_trans"][row] = item.info_scene_trans
            arrays["aug_trans"][row] = item.info_aug_trans

    # Items are read ahead of the device, and maps are put away behind it, in threads.
    with torch.inference_mode(), ThreadPoolExecutor(1) as keeper:
        work = prefetch(map(collate, batches(maps, config.sampling.batch_size)))
        with clock("warm_up"):
            first = next(work, None)
            if first is not None:
                sampler.warm_up(first[1])
        with clock("sample"):
            kept = []
            for entries, batch in chain(filter(None, [first]), work):
                kept.append(keeper.submit(keep, entries, sampler.start(batch, progress)))
                while kept and kept[0].done():
                    kept.pop(0).result()
            for waiting in kept:
                waiting.result()
    for row in reasons:
        for values in arrays.values():
            values[row] = np.nan

    contents = read_contents(plan, dataset, samples, reader)
    if not is_named_for(chunk.fingerprint, chunk.base, contents):
        raise ArchiveError(
            f"chunk {chunk.name}: an item was edited after this run was planned. Start snakemake "
            "again; finished chunks are kept"
        )
    record = ChunkRecord(
        name=chunk.name,
        base=chunk.base,
        layout=layout,
        samples=[_sample_row(sample, reasons.get(row)) for row, sample in enumerate(samples)],
        contents=contents,
        provenance=provenance(plan, statistics, device, model.precision),
        seconds=clock.seconds,
        gpu_busy=sampler.gpu_busy(clock.seconds["sample"]),
    )
    store = Path(config.run_dir, "chunks", f"{chunk.name}.zarr")
    started = time.perf_counter()
    record = write_chunk(store, arrays, record)
    seconds = time.perf_counter() - started
    rate = layout.num_samples * layout.k_samples / clock.seconds["sample"]
    log(
        f"chunk {chunk.name}: {layout.num_samples - len(record.skipped)} samples written in "
        f"{seconds:.1f} s, {len(record.skipped)} skipped; {rate:.2f} maps/s while sampling, "
        f"{sum(clock.seconds.values()) + seconds:.1f} s in all -> {store}"
    )
    return record


def load_items(
    dataset, samples: list[Sample], reader: FileReader, config: Config, reasons: dict, log: Log
) -> Iterator[tuple[int, Item]]:
    """(row, item) of every usable sample; with `on_bad_item: skip` reasons of the others."""
    for row, sample in enumerate(samples):
        try:
            yield row, dataset.load(sample, reader)
        except BadItem as problem:
            _skip_or_raise(problem, row, config, reasons, log)


def _skip_or_raise(problem: BadItem, row: int, config: Config, reasons: dict, log: Log) -> None:
    if config.dataset.on_bad_item == "fail":
        raise problem
    if row not in reasons:
        log(f"skipped: {problem}")
    reasons[row] = str(problem)


def provenance(plan: Plan, statistics: Statistics, device: str, precision: str) -> dict[str, Any]:
    """Where the numbers come from: the archive's attributes."""
    return {
        "config": plan.config.as_dict(),
        "settings": plan.settings,
        "checkpoint": plan.checkpoint,
        "scene_model": plan.scene_model,
        "architecture": asdict(plan.architecture),
        "statistics": {
            "path": plan.statistics["path"],
            **statistics.numbers(),
            "sigma": plan.config.dataset.sigma,
        },
        "device": device_name(device),
        "precision": precision,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "zarr": sys.modules["zarr"].__version__,
        },
    }


def _name(sample: Sample) -> str:
    return f"{sample.set}/{sample.index} caption {sample.caption_idx}"


def _sample_row(sample: Sample, reason: str | None) -> dict[str, Any]:
    row = {
        "set": sample.set,
        "index": sample.index,
        "caption_idx": sample.caption_idx,
        "text": sample.text,
        "scene_id": sample.scene_id,
        "status": SKIPPED if reason else OK,
    }
    return row | {"reason": reason} if reason else row
