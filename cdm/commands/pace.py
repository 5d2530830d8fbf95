"""How long finished chunks took, and therefore how long the remaining ones will take (no torch)."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from cdm.archive.records import ChunkRecord, read_record
from cdm.commands.config_files import fast_config
from cdm.errors import ArchiveError, ConfigError
from cdm.files import list_names
from cdm.jobs.machine import device_text
from cdm.jobs.progress import duration
from cdm.run.plan import CHUNKS, Plan
from cdm.sampling.diffusion import create_diffusion

NEWEST = 20  # finished chunks that are looked at
RUNS = 8  # other runs whose chunks are looked at

# Phases of a chunk before its first map, and of those the ones that no other job's sampling hides.
START_PHASES = ("start", "plan", "import", "load", "text", "model", "warm_up")
OWN_PHASES = ("warm_up",)
STOOD_BY_S = 3.0  # a job that waited longer for its turn was ready before; to start CUDA takes less

# The settings that decide what a map costs, besides the architecture and the number of points.
COSTLY_SETTINGS = ("text_model", "point_feat", "diffusion", "sampling")


@dataclass(frozen=True)
class Pace:
    """What the newest finished chunks say.

    Attributes:
        num_chunks: how many were looked at.
        start_s: median seconds before a chunk's first map in which its device did nothing else.
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


@dataclass(frozen=True)
class StepPace:
    """What finished chunks of the same model say of any number of steps.

    Attributes:
        device: the text for the device of the newest chunk; all chunks are of this device.
        num_steps, maps_per_s: of the newest chunk.
        start_s: median seconds before a chunk's first map in which its device did nothing else.
        step_s: median seconds of one step of one map.
    """

    device: str
    num_steps: int
    maps_per_s: float
    start_s: float
    step_s: float

    def seconds(self, plan: Plan, num_steps: int) -> float:
        """Seconds of the whole plan on one device, with `num_steps` steps."""
        maps = plan.num_samples * plan.config.sampling.k_samples
        return len(plan.chunks) * self.start_s + maps * num_steps * self.step_s


def measure_pace(plan: Plan, run: str | Path, newest: int = NEWEST) -> Pace | None:
    """The pace of the newest finished chunks in a run's folder; None before there is one.

    Chunks of earlier plans count too if their maps cost the same: same architecture, points and
    steps.
    """
    wanted = _cost(plan.identity, asdict(plan.architecture))
    records = list(islice(_alike(plan, Path(run), _cost, wanted), newest))
    if not records:
        return None
    busy = [record.gpu_busy for record in records if record.gpu_busy is not None]
    return Pace(
        num_chunks=len(records),
        start_s=median(map(_start_s, records)),
        map_s=median(record.seconds["sample"] / _num_maps(record) for record in records),
        gpu_busy=sum(busy) / len(busy) if busy else None,
    )


def measure_step_pace(plan: Plan) -> StepPace | None:
    """The pace of a step, from this run's chunks or else another run's beside it; None if unknown.

    Chunks count whatever their sampler is, because every sampler asks the model once a step.
    """
    run = Path(plan.config.run_dir)
    others = sorted(run.parent.glob(f"*/{CHUNKS}"), key=modified_s, reverse=True)
    others = [folder.parent for folder in others if folder.parent != run]
    wanted = _step_cost(plan.identity, asdict(plan.architecture))
    for folder in [run, *others[:RUNS]]:
        records = list(islice(_alike(plan, folder, _step_cost, wanted), NEWEST))
        if records:
            break
    else:
        return None
    device = _device(records[0])
    records = [record for record in records if _device(record) == device]
    return StepPace(
        device=device,
        num_steps=_num_steps(records[0]),
        maps_per_s=_num_maps(records[0]) / records[0].seconds["sample"],
        start_s=median(map(_start_s, records)),
        step_s=median(
            record.seconds["sample"] / _num_maps(record) / _num_steps(record) for record in records
        ),
    )


def fast_steps(plan: Plan) -> int | None:
    """Steps of a map with config/fast.yaml; None if the trained chain is too short for it."""
    try:
        fast = fast_config(plan.config).diffusion
        return create_diffusion(
            fast.steps, fast.noise_schedule, fast.timestep_respacing
        ).num_timesteps
    except ConfigError:
        return None


def describe_choice(plan: Plan) -> str:
    """One line: what the full chain and config/fast.yaml would take; "" while no pace is known."""
    pace, full, fast = measure_step_pace(plan), plan.config.diffusion.steps, fast_steps(plan)
    if pace is None or fast is None:
        return ""
    return (
        f"all maps        about {duration(pace.seconds(plan, full))} with the full chain ({full} "
        f"steps), {duration(pace.seconds(plan, fast))} with config/fast.yaml ({fast} steps), of "
        f"one device, at {pace.maps_per_s:.3g} maps/s of {pace.num_steps} steps measured on "
        f"{pace.device}\n"
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


def _alike(plan: Plan, run: Path, cost: Callable, wanted: str) -> Iterator[ChunkRecord]:
    """Records of a run's chunks whose cost(settings, architecture) is the wanted, newest first."""
    folder = run / CHUNKS
    names = {name for name in list_names(folder) if name.endswith(".json") and name[0] != "."}
    mine = names & {f"{chunk.name}.json" for chunk in plan.chunks}
    paths = [folder / name for name in mine or names]
    for path in sorted(paths, key=modified_s, reverse=True)[: 4 * NEWEST]:
        try:
            record = read_record(path)
            found = cost(record.provenance["settings"], record.provenance["architecture"])
            # Seconds are rounded: a chunk of skipped samples took none.
            if found == wanted and record.seconds["sample"] > 0 and _num_maps(record) > 0:
                yield record
        except (ArchiveError, KeyError, IndexError, TypeError):
            continue  # a damaged record has nothing to say


def _num_maps(record: ChunkRecord) -> int:
    """Maps that the chunk holds: skipped samples have none."""
    return (len(record.samples) - len(record.skipped)) * record.layout.k_samples


def _num_steps(record: ChunkRecord) -> int:
    """Steps of one map."""
    return len(record.provenance["settings"]["diffusion"][2])


def _device(record: ChunkRecord) -> str:
    """What sampled the chunk, as people call it."""
    return device_text(record.provenance.get("device", "an unknown device"))


def _start_s(record: ChunkRecord) -> float:
    """Seconds before the chunk's first map, without those in which another chunk was sampled."""
    stood_by = record.seconds.get("wait", 0.0) > STOOD_BY_S
    return sum(record.seconds.get(p, 0.0) for p in (OWN_PHASES if stood_by else START_PHASES))


def _cost(settings: Mapping[str, Any], architecture: Mapping[str, Any]) -> str:
    num_points = settings["dataset"]["num_points"]
    parts = [settings[key] for key in COSTLY_SETTINGS]
    return json.dumps([num_points, architecture, *parts], sort_keys=True)


def _step_cost(settings: Mapping[str, Any], architecture: Mapping[str, Any]) -> str:
    """The same for settings in which a step of a map costs the same."""
    if not settings["diffusion"][2]:
        raise KeyError("no steps")
    num_points, precision = settings["dataset"]["num_points"], settings["sampling"]["precision"]
    return json.dumps([num_points, architecture, precision], sort_keys=True)


def modified_s(path: Path) -> float:
    """When a file was last modified, in seconds since 1970; 0 if it is not there any more."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
