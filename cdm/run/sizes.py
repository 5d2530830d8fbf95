"""How large chunks and batches are, where the configuration leaves that to us: `auto` (no torch).

Both sizes follow from the configuration, the sizes of the model and the number of samples, and
never from the device: a run may go on on another machine, with the same chunks.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from cdm.archive.layout import Layout
from cdm.archive.records import ChunkRecord
from cdm.config import Config
from cdm.model.architecture import Architecture

AUTO = "auto"
CHUNK_SIZE, BATCH_SIZE = "workflow.chunk_size", "sampling.batch_size"

# Milliseconds of one step of one map of 8192 points on an H200, in bf16 (fp16 is near it) and in
# fp32, at afford-motion's default sizes (benchmarks/README.md, "Every backbone": 32 maps).
STEP_MS = {
    "PointMamba": (22.3 / 32, 120.2 / 32),
    "HybridMamba": (29.6 / 32, 110.8 / 32),
    "Perceiver": (1.33 / 32, 1.54 / 32),
    "MLP": (9.89 / 32, 34.9 / 32),
    "PointTrans": (5.08 / 32, 9.54 / 32),
    "PointTransV2": (5.97 / 32, 10.3 / 32),
}
POINTS = 8192  # of the maps of this table
DEFAULT_WORK = {"PointMamba": 256 * 8, "HybridMamba": 256 * 4}  # trans_dim * depth of this table
ITEM_MS = 3.3  # an item takes at least this: a job reads 300 a second, whatever its threads

CHUNK_S = 60.0  # of sampling on an H200: what passes between two chunks is 2 % of it
SHORT_CHUNK_S = 10.0  # a job's start, which no smaller chunk hides: better fewer than MIN_CHUNKS
MIN_CHUNKS = 8  # so that four devices share the work evenly
ALIKE = 4  # numbers of chunks are multiples of this, for the same reason
HALVED_FROM = 16  # samples from which on there are two chunks
GROWN, TOO_SMALL = 32, 8  # times: more samples than a trial had, a larger size than its chunks
CHUNK_BYTES = 2e9  # of a chunk's arrays: they are in memory until the chunk is written

# Larger batches make a step of a map less than 2 % faster, but take longer to begin and to end.
BATCH_POINTS = 64 * POINTS
MOST_MAPS = 256


def seconds_per_sample(config: Config, architecture: Architecture, num_steps: int) -> float:
    """About how long an H200 takes for the maps of one sample, with all their steps."""
    in_bf16, in_fp32 = STEP_MS[architecture.arch]
    step_ms = in_fp32 if config.sampling.precision == "fp32" else in_bf16
    if architecture.arch in DEFAULT_WORK:
        work = architecture.sizes["trans_dim"] * architecture.sizes["depth"]
        step_ms *= work / DEFAULT_WORK[architecture.arch]
    maps_ms = step_ms * config.dataset.num_points / POINTS * num_steps * config.sampling.k_samples
    return max(maps_ms, ITEM_MS) / 1e3


def choose_chunk_size(
    config: Config, architecture: Architecture, num_steps: int, num_samples: int
) -> int:
    """Samples per chunk.

    As many as an H200 samples in about 60 s, in whole batches; fewer if there would be less than
    eight chunks, but not below 10 s; at most half of the samples, and at most 2 GB of arrays.

    Args:
        num_steps: denoising steps of one map.
        num_samples: rows of the plan, at least 1.
    """
    total_s = num_samples * seconds_per_sample(config, architecture, num_steps)
    not_short = min(MIN_CHUNKS, int(total_s / SHORT_CHUNK_S))
    num_chunks = max(
        ALIKE * round(total_s / CHUNK_S / ALIKE),
        not_short - not_short % ALIKE if not_short > ALIKE else not_short,
        math.ceil(num_samples * bytes_per_sample(config, architecture) / CHUNK_BYTES),
        2 if num_samples >= HALVED_FROM else 1,
    )
    if num_chunks > 2:
        num_chunks = ALIKE * math.ceil(num_chunks / ALIKE)
    size = math.ceil(num_samples / num_chunks)
    batch = most_maps(config) // math.gcd(most_maps(config), config.sampling.k_samples)
    return batch * round(size / batch) if size > batch else size


def most_maps(config: Config) -> int:
    """Maps of a batch, if a chunk has so many: 64 of 8192 points, and never more than 256."""
    if config.sampling.batch_size != AUTO:
        return config.sampling.batch_size
    return min(MOST_MAPS, max(1, BATCH_POINTS // config.dataset.num_points))


def bytes_per_sample(config: Config, architecture: Architecture) -> int:
    """Bytes of a sample's rows in all arrays of the archive, in which nothing is compressed."""
    layout = Layout(
        num_samples=1,
        chunk_size=1,
        k_samples=config.sampling.k_samples,
        num_points=config.dataset.num_points,
        contact_dim=architecture.contact_dim,
        dtype=config.workflow.dtype,
    )
    rows = layout.arrays().values()
    return sum(math.prod(row) * np.dtype(dtype).itemsize for row, dtype, _ in rows)


def with_sizes(config: Config, chunk_size: int) -> tuple[Config, tuple[str, ...]]:
    """The configuration with numbers for `auto`, and the keys that were `auto`.

    A batch never has more maps than a chunk: on a GPU a short batch is padded.

    Args:
        chunk_size: what `auto` stands for there.
    """
    auto, workflow, sampling = [], config.workflow, config.sampling
    if workflow.chunk_size == AUTO:
        auto.append(CHUNK_SIZE)
        workflow = replace(workflow, chunk_size=chunk_size)
    if sampling.batch_size == AUTO:
        auto.append(BATCH_SIZE)
        maps = workflow.chunk_size * sampling.k_samples
        sampling = replace(sampling, batch_size=min(most_maps(config), maps))
    return replace(config, workflow=workflow, sampling=sampling), tuple(auto)


def without_sizes(config: Config, auto: Iterable[str]) -> Config:
    """The configuration as it was before `with_sizes`."""
    workflow, sampling = config.workflow, config.sampling
    if CHUNK_SIZE in auto:
        workflow = replace(workflow, chunk_size=AUTO)
    if BATCH_SIZE in auto:
        sampling = replace(sampling, batch_size=AUTO)
    return replace(config, workflow=workflow, sampling=sampling)


class LastPlan(NamedTuple):
    """What a run's last plan says of the size of its chunks.

    Attributes:
        identity: `Plan.identity`, with the chunk size.
        num_samples: rows of the plan.
        counts: whether a chunk or the archive is finished, or the size was `auto`.
    """

    identity: Mapping[str, Any]
    num_samples: int
    counts: bool


def chunk_size_in_use(
    ours: int,
    identity: Mapping[str, Any],
    num_samples: int,
    last: LastPlan | None,
    records: Iterable[ChunkRecord],
) -> int:
    """The size of the chunks that this run has already; ours if it has none.

    Chunks of another size would all have other names, and what is finished would be made again.
    Only a trial with few samples does not decide for many: what is made again is 3 % at most.

    Args:
        ours: what `choose_chunk_size` gives.
        identity: `Plan.identity`, with any chunk size.
        num_samples: rows of the plan that is being made.
        last: the run's last plan; None if there is none.
        records: of the run's chunks; read until one has these settings.
    """

    def size_of(settings: Any) -> int | None:
        if not isinstance(settings, Mapping):
            return None
        same = {**settings, "chunk_size": None} == {**identity, "chunk_size": None}
        size = settings.get("chunk_size")
        return size if same and type(size) is int and size > 0 else None

    before = size_of(last.identity) if last else None
    if last and before:
        was_trial = num_samples >= GROWN * last.num_samples and ours >= TOO_SMALL * before
        if was_trial:
            return ours
        if last.counts:
            return before
    sizes = (size_of(record.provenance.get("settings")) for record in records)
    return next((size for size in sizes if size is not None), ours)
