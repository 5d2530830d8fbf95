"""Generate some samples of a finished archive again, and compare them with what it holds."""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from cdm.archive import ContactMaps
from cdm.commands.snakemake_line import started_in
from cdm.datasets import Dataset, FileReader, Sample
from cdm.datasets.base import evenly_spread
from cdm.errors import ArchiveError, ConfigError
from cdm.jobs.device import choose_device, device_name
from cdm.jobs.log import Log
from cdm.jobs.machine import describe_device, read_device
from cdm.jobs.progress import Progress
from cdm.run.dataset import open_dataset
from cdm.run.load import encode_texts, load_model
from cdm.run.plan import Plan
from cdm.run.plan_files import read_plan, read_samples
from cdm.sampling.batches import batches
from cdm.sampling.map_sampler import MapSampler

# Another device, batch size or version of torch may change the normalised output by this much.
# With the same ones the bits must be the same. An archive in float16 adds its own rounding.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1}
FLOAT16 = 2e-3


@dataclass
class Resampled:
    """The outcome of generating samples again.

    Attributes:
        device: on which they were generated.
        tolerance: the largest difference that is permitted; 0 if device and versions are those of
            the archive.
        num_samples, num_maps: how many were generated again.
        num_equal: maps that are the same to the last bit.
        largest: largest difference of the other maps, in normalised units.
        problems: maps that differ by more than the tolerance.
    """

    device: str
    tolerance: float
    num_samples: int = 0
    num_maps: int = 0
    num_equal: int = 0
    largest: float = 0.0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        wanted = "the same bits" if self.tolerance == 0 else f"at most {self.tolerance:g}"
        return [
            f"generated again on {self.device}: {self.num_maps} maps of {self.num_samples} "
            f"samples, {self.num_equal} equal to the last bit, largest difference "
            f"{self.largest:.3g} (expected {wanted})"
        ]


def resample(archive: Path, num_samples: int, log: Log) -> Resampled:
    """Generate samples again, spread evenly over the archive, and compare their model outputs.

    Relative paths of the plan are relative to the folder that the run was started in. If the run
    was moved, no folder tells that one; then it is the working folder.

    Args:
        archive: `contact_maps.zarr`, beside the plan it was made by.
        num_samples: at most this many.
        log: gets lines on how far it is.
    Raises:
        ArchiveError: the plan beside the archive is missing, or is another one.
        ConfigError: num_samples is below 1.
        CDMError: checkpoint, encoder or data are not where they were.
    """
    if num_samples < 1:
        raise ConfigError(f"--resample is {num_samples}, expected a number of samples above 0")
    archive = archive.absolute()
    folder, plan = _in_place(archive.parent, read_plan(archive.parent), log)
    with contextlib.chdir(folder):
        return _resample(archive, plan, num_samples, log)


def _in_place(run: Path, plan: Plan, log: Log) -> tuple[Path, Plan]:
    """The folder that a plan's relative paths start at, and the plan with its run's present one."""
    try:
        return started_in(run, plan.config), plan
    except ConfigError:
        log(
            f"{run}: was {plan.config.run_dir} when it was planned; relative paths of its inputs "
            f"are looked for from {Path.cwd()}"
        )
        config = replace(plan.config, output_dir=str(run.parent), exp_name=run.name)
        return Path.cwd(), replace(plan, config=config)


def _resample(archive: Path, plan: Plan, num_samples: int, log: Log) -> Resampled:
    """As `resample`, in the folder that the plan's relative paths start at."""
    maps = ContactMaps(archive)
    if maps.attributes.get("plan") != plan.fingerprint:
        raise ArchiveError(
            f"{archive}: of plan {maps.attributes.get('plan')}, but {archive.parent}/plan is "
            f"{plan.fingerprint}; finish that run before its samples can be generated again"
        )
    # The samples, the model, and what it is given.
    config, device = plan.config, choose_device(plan.config.gpu, log)
    rows = _pick(maps, num_samples)
    dataset = open_dataset(config, plan.architecture.point_feat_dim)
    chosen = dict(zip(rows, _samples(plan, rows, dataset), strict=True))
    reader = FileReader(config.data_dir)
    model = load_model(plan, device)
    features = encode_texts(plan, [sample.text for sample in chosen.values()], device)
    sampler = MapSampler(model, config, features, device, log)
    entries = (
        (row, k, (sample, item, k))
        for row, sample in chosen.items()
        for item in [dataset.load(sample, reader)]
        for k in range(config.sampling.k_samples)
    )

    # Batches of all maps, each compared with the archive's.
    found = Resampled(device_name(device), _tolerance(maps, plan, device), num_samples=len(rows))
    progress = Progress(len(rows) * config.sampling.k_samples, "resample", log)
    with torch.inference_mode():
        for batch in batches(entries, config.sampling.batch_size):
            made = sampler.sample([entry for _, _, entry in batch], progress)
            for (row, k, _), x_0 in zip(batch, made, strict=True):
                _compare(found, maps, row, k, x_0)
    return found


def _compare(found: Resampled, maps: ContactMaps, row: int, k: int, x_0: np.ndarray) -> None:
    """Note how a map differs from the one in the archive."""
    stored = maps.read("sample", row)[k]
    found.num_maps += 1
    if np.array_equal(stored, x_0.astype(stored.dtype)):
        found.num_equal += 1
        return
    difference = float(np.nan_to_num(np.abs(x_0 - stored.astype(np.float32)), nan=np.inf).max())
    found.largest = max(found.largest, difference)
    if difference > found.tolerance:
        found.problems.append(
            f"{maps.path}: {maps.keys[row]} map {k}: generated again it differs by up to "
            f"{difference:.3g}, expected at most {found.tolerance:g}"
        )


def _pick(maps: ContactMaps, num_samples: int) -> list[int]:
    """Rows that have a map, spread evenly over the archive."""
    rows = maps.rows_with_maps()
    if not rows:
        raise ArchiveError(f"{maps.path}: every sample was skipped, there is none to generate")
    return evenly_spread(rows, num_samples)


def _samples(plan: Plan, rows: list[int], dataset: Dataset) -> list[Sample]:
    """The samples of some rows of the archive, from samples.tsv."""
    size = plan.config.workflow.chunk_size
    chunks = {row // size: read_samples(plan, plan.chunks[row // size], dataset) for row in rows}
    return [chunks[row // size][row % size] for row in rows]


def _tolerance(maps: ContactMaps, plan: Plan, device: str) -> float:
    """The permitted difference: 0 if device and versions are those of the archive."""
    here = {"torch": torch.__version__, "numpy": np.__version__}
    there = maps.attributes.get("versions", {})
    same_versions = all(there.get(name) == version for name, version in here.items())
    made_on = [read_device(found) for found in maps.attributes.get("devices", [])]
    now = describe_device(device)
    # The number of CPU threads cannot change a map.
    if same_versions and made_on and all(_same_device(found, now) for found in made_on):
        return 0.0
    return TOLERANCE[maps.attributes.get("precision", "fp32")] + (
        FLOAT16 if plan.config.workflow.dtype == "float16" else 0.0
    )


def _same_device(a: dict, b: dict) -> bool:
    """Whether two devices give the same bits; a CPU's number of threads cannot change a map."""
    return (a["kind"], a["name"]) == (b["kind"], b["name"])
