"""How long finished chunks took, and therefore how long the remaining ones will take (no torch)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from cdm.archive.records import ChunkRecord, read_record
from cdm.errors import ArchiveError
from cdm.files import list_names
from cdm.jobs.progress import duration
from cdm.run.plan import CHUNKS, Plan

NEWEST = 20  # finished chunks that are looked at

# Phases of a chunk before its first map.
START_PHASES = ("import", "load", "text", "model", "warm_up")

# The settings that decide what a map costs, besides the architecture and the number of points.
COSTLY_SETTINGS = ("text_model", "point_feat", "diffusion", "sampling")


@dataclass(frozen=True)
class Pace:
    """What the newest finished chunks say.

    Attributes:
        num_chunks: how many were looked at.
        start_s: median seconds of a chunk before its first map (START_PHASES).
        map_s: median seconds of one map.
        gpu_busy: mean share (0 to 1) of the sampling time that the GPU was busy; None if no
            record tells.
    """

    num_chunks: int
    start_s: float
    map_s: float
    gpu_busy: float | None

    def seconds(self, num_maps: float) -> float:
        """Seconds of a chunk of `num_maps` maps."""
        return self.start_s + num_maps * self.map_s


def measure_pace(plan: Plan, run: str | Path, newest: int = NEWEST) -> Pace | None:
    """The pace of the newest finished chunks in a run's folder; None before there is one.

    Chunks of earlier plans count too if their maps cost the same: same architecture, points and
    steps.
    """
    records = list(islice(_alike(plan, Path(run)), newest))
    if not records:
        return None
    starts, per_map, busy = [], [], []
    for record in records:
        per_map.append(record.seconds["sample"] / _num_maps(record))
        starts.append(sum(record.seconds.get(phase, 0.0) for phase in START_PHASES))
        if record.gpu_busy is not None:
            busy.append(record.gpu_busy)
    return Pace(
        num_chunks=len(records),
        start_s=median(starts),
        map_s=median(per_map),
        gpu_busy=sum(busy) / len(busy) if busy else None,
    )


def describe_pace(plan: Plan) -> str:
    """One line for people: expected minutes per chunk, or that none is known yet."""
    pace = measure_pace(plan, plan.config.run_dir)
    if pace is None:
        return "pace            not known before a chunk is finished (see cdm estimate)\n"
    k, names = plan.config.sampling.k_samples, list_names(Path(plan.config.run_dir, CHUNKS))
    left = [
        pace.seconds(chunk.num_samples * k)
        for chunk in plan.chunks
        if f"{chunk.name}.json" not in names
    ]
    chunk_s = pace.seconds(min(plan.config.workflow.chunk_size, plan.num_samples) * k)
    todo = f"{len(left)} chunks, {duration(sum(left))} of one device, are left"
    return (
        f"pace            about {chunk_s / 60:.3g} minutes a chunk, going by "
        f"{pace.num_chunks} finished one(s); {todo if left else 'none is left'}\n"
    )


def _alike(plan: Plan, run: Path) -> Iterator[ChunkRecord]:
    """Records of chunks that cost what this plan's cost, newest first."""
    folder = run / CHUNKS
    names = {name for name in list_names(folder) if name.endswith(".json") and name[0] != "."}
    mine = names & {f"{chunk.name}.json" for chunk in plan.chunks}
    paths = [folder / name for name in mine or names]
    wanted = _cost(plan.identity, asdict(plan.architecture))
    for path in sorted(paths, key=modified_s, reverse=True)[: 4 * NEWEST]:
        try:
            record = read_record(path)
            cost = _cost(record.provenance["settings"], record.provenance["architecture"])
            # Seconds are rounded: a chunk of skipped samples took none.
            if cost == wanted and record.seconds["sample"] > 0 and _num_maps(record) > 0:
                yield record
        except (ArchiveError, KeyError, TypeError):
            continue  # a damaged record has nothing to say


def _num_maps(record: ChunkRecord) -> int:
    """Maps that the chunk holds: skipped samples have none."""
    return (len(record.samples) - len(record.skipped)) * record.layout.k_samples


def _cost(settings: Mapping[str, Any], architecture: Mapping[str, Any]) -> str:
    num_points = settings["dataset"]["num_points"]
    parts = [settings[key] for key in COSTLY_SETTINGS]
    return json.dumps([num_points, architecture, *parts], sort_keys=True)


def modified_s(path: Path) -> float:
    """When a file was last modified, in seconds since 1970; 0 if it is not there any more."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
