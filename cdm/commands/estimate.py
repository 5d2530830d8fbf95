"""What a run will cost, estimated from two real batches on this device."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from cdm.archive.layout import Layout
from cdm.commands.pace import fast_steps
from cdm.config import Config
from cdm.datasets import FileReader, Item, Sample
from cdm.errors import BadItem, ConfigError, DataError
from cdm.jobs.device import choose_device, device_name
from cdm.jobs.log import Log
from cdm.jobs.progress import Progress, duration
from cdm.run.dataset import open_dataset
from cdm.run.load import encode_texts, load_model
from cdm.run.plan import Plan
from cdm.sampling.batches import batches
from cdm.sampling.map_sampler import MapSampler

SHORTEST_S = 1e-6  # of a batch: a coarse clock may say 0, and rates divide by it


@dataclass(frozen=True)
class Estimate:
    """The estimate, and what it was made from.

    Attributes:
        device: that the batches ran on.
        num_samples, num_maps: of the whole plan.
        batch_size, num_steps: maps per batch, denoising steps per map.
        start_s: seconds before the first batch: items, texts, model.
        first_batch_s, second_batch_s: seconds; the first also warms up.
        device_hours: of the whole run with the present chunk_size.
        fast_steps, fast_device_hours: the same with config/fast.yaml; None if the trained chain is
            too short for it.
        archive_bytes: of the archive's arrays.
        chunk_size, minutes_per_chunk: as configured, and what it takes.
        suggested_chunk_size, suggested_minutes: for the wanted length of a job.
    """

    device: str
    num_samples: int
    num_maps: int
    batch_size: int
    num_steps: int
    start_s: float
    first_batch_s: float
    second_batch_s: float
    device_hours: float
    fast_steps: int | None
    fast_device_hours: float | None
    archive_bytes: int
    chunk_size: int
    minutes_per_chunk: float
    suggested_chunk_size: int
    suggested_minutes: float


def estimate(plan: Plan, samples: list[Sample], minutes_per_chunk: float, log: Log) -> Estimate:
    """Sample the first two batches of a plan, with all their steps, and extrapolate.

    Args:
        plan, samples: as `cdm.run.planning.make_plan` returns them.
        minutes_per_chunk: wanted length of a chunk's job.
        log: gets lines on how far it is.
    Raises:
        ConfigError: minutes_per_chunk is no length of time.
        DataError: no item can be read.
    """
    if not 0 < minutes_per_chunk < math.inf:
        raise ConfigError(
            f"--minutes-per-chunk is {minutes_per_chunk}, expected a number of minutes above 0"
        )
    config = plan.config
    k, size = config.sampling.k_samples, config.sampling.batch_size
    # Everything before the first batch.
    started = time.perf_counter()
    device = choose_device(config.gpu, log)
    items = _items(plan, samples, 2 * size)
    features = encode_texts(plan, [sample.text for sample, _ in items], device)
    sampler = MapSampler(load_model(plan, device), config, features, device)
    start_s = time.perf_counter() - started

    # Two batches.
    first_s, second_s = _time_two_batches(sampler, items, k, size, log)

    # The whole run from these.
    def chunk_s(chunk_size: int, batch_s: float = second_s) -> float:
        return before_maps_s + math.ceil(chunk_size * k / size) * batch_s

    before_maps_s = start_s + max(0.0, first_s - second_s)  # with warming up
    chunk_size = min(config.workflow.chunk_size, plan.num_samples)
    suggested = _suggest(config, before_maps_s, second_s, minutes_per_chunk)
    suggested = min(suggested, plan.num_samples)
    fast = fast_steps(plan)
    fast_s = fast and chunk_s(chunk_size, second_s * fast / plan.num_steps)
    return Estimate(
        device=device_name(device),
        num_samples=plan.num_samples,
        num_maps=plan.num_samples * k,
        batch_size=size,
        num_steps=plan.num_steps,
        start_s=start_s,
        first_batch_s=first_s,
        second_batch_s=second_s,
        device_hours=len(plan.chunks) * chunk_s(chunk_size) / 3600,
        fast_steps=fast,
        fast_device_hours=fast and len(plan.chunks) * fast_s / 3600,
        archive_bytes=archive_bytes(plan),
        chunk_size=config.workflow.chunk_size,
        minutes_per_chunk=chunk_s(chunk_size) / 60,
        suggested_chunk_size=suggested,
        suggested_minutes=chunk_s(suggested) / 60,
    )


def _time_two_batches(
    sampler: MapSampler, items: list[tuple[Sample, Item]], k: int, size: int, log: Log
) -> list[float]:
    """Seconds of two full batches. If there are too few items, they are used several times."""
    maps = [(sample, item, k_idx) for sample, item in items for k_idx in range(k)]
    maps = (maps * math.ceil(2 * size / len(maps)))[: 2 * size]
    progress, seconds = Progress(2 * size, "estimate", log), []
    with torch.inference_mode():
        for batch in batches(iter(maps), size):
            started = time.perf_counter()
            sampler.sample(batch, progress)  # returns host memory: the device is done
            seconds.append(max(SHORTEST_S, time.perf_counter() - started))
    return seconds


def archive_bytes(plan: Plan) -> int:
    """Bytes of the archive's sharded arrays, in which nothing is compressed."""
    config = plan.config
    layout = Layout(
        num_samples=1,
        chunk_size=1,
        k_samples=config.sampling.k_samples,
        num_points=config.dataset.num_points,
        contact_dim=plan.architecture.contact_dim,
        dtype=config.workflow.dtype,
    )
    rows = layout.arrays().values()
    return plan.num_samples * sum(
        math.prod(row) * np.dtype(dtype).itemsize for row, dtype, _ in rows
    )


def _suggest(config: Config, start_s: float, batch_s: float, minutes: float) -> int:
    """Samples that fill whole batches within the wanted time; at least one batch."""
    size, k = config.sampling.batch_size, config.sampling.k_samples
    num_batches = max(1, int((60 * minutes - start_s) / batch_s))
    return max(1, num_batches * size // k)


def _items(plan: Plan, samples: list[Sample], wanted: int) -> list[tuple[Sample, Item]]:
    """The first samples that can be read."""
    config = plan.config
    dataset = open_dataset(config, plan.architecture.point_feat_dim)
    reader, items, problem = FileReader(config.data_dir), [], None
    for sample in samples:
        if len(items) == wanted:
            break
        try:
            items.append((sample, dataset.load(sample, reader)))
        except BadItem as error:
            problem = error
    if not items and config.is_demo_data:
        raise DataError(
            f"{config.data_dir}: the demo's rooms of phase {config.dataset.phase} are not there "
            "yet; type\n  snakemake --cores 1 demo_data"
        )
    if not items:
        raise DataError(f"none of {len(samples)} samples can be read; the last: {problem}")
    return items


def describe_estimate(found: Estimate) -> str:
    """The estimate as text."""
    each_s, fast = found.second_batch_s / found.batch_size, ""
    if found.fast_steps:
        fast = (
            f"fast.yaml     {found.fast_steps} steps in place of {found.num_steps}, with "
            f"config/fast.yaml: {found.fast_device_hours:.3g} device-hours "
            f"({duration(3600 * found.fast_device_hours)} on one)\n"
        )
    return (
        f"device        {found.device}\n"
        f"two batches   {found.first_batch_s:.1f} s and {found.second_batch_s:.1f} s for "
        f"{found.batch_size} maps of {found.num_steps} steps: {1 / each_s:.3g} maps/s, "
        f"{1000 * found.second_batch_s / found.num_steps:.3g} ms a step; "
        f"{found.start_s:.1f} s to start\n"
        f"whole run     {found.num_maps} maps: {found.device_hours:.3g} device-hours "
        f"({duration(3600 * found.device_hours)} on one, "
        f"{duration(900 * found.device_hours)} on four)\n{fast}"
        f"archive       {_bytes(found.archive_bytes)}\n"
        f"chunk_size    {found.chunk_size} takes {found.minutes_per_chunk:.3g} minutes a chunk\n"
        f"suggestion    --config 'workflow={{chunk_size: {found.suggested_chunk_size}}}' takes "
        f"{found.suggested_minutes:.3g} minutes a chunk; changing it in a run that has begun "
        "makes all chunks anew\n"
    )


def _bytes(number: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
