"""The plan: which samples, in which chunks, under which names (no torch).

Snakemake makes the plan anew, from the dataset's index files, whenever it reads the Snakefile
(`cdm.run.planning`). The jobs of a run read the plan that the run's start wrote
(`cdm.run.plan_files`).

A chunk's name carries its fingerprint. Its *base* fingerprint hashes the settings and the sample
rows. The first plan does not read the items themselves. Instead each chunk records the content of
the files that it read, and a later plan compares that with the files as they are now. While they
agree, the chunk keeps its name. Once an item was edited, the new name hashes base and new content.
When the edit is undone, the plan finds the old name again, and with it the finished chunk.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdm.config import Config
from cdm.datasets import Sample
from cdm.datasets.statistics import name_contradictions
from cdm.errors import ArchiveError, listed, printable
from cdm.files import digest
from cdm.model.architecture import Architecture
from cdm.run.sizes import without_sizes
from cdm.run.sources import describe_sources
from cdm.run.table import row_of

ARCHIVE = "contact_maps.zarr"  # the merged archive, in the run's folder
CHUNKS = "chunks"  # folder of the chunks' stores and records, in the run's folder
LOGS = Path("logs", "generate_chunk")  # folder of the chunks' logs, in the run's folder


@dataclass(frozen=True)
class Chunk:
    """One unit of work: rows [start, stop) of the samples.

    Attributes:
        number: position of the chunk in the final archive.
        base: fingerprint of settings and sample rows (`base_fingerprint`).
        fingerprint: the base, or a hash of base and file contents where an item was edited.
        offset: byte position of its rows in samples.tsv.
    """

    number: int
    start: int
    stop: int
    base: str
    fingerprint: str
    offset: int

    @property
    def name(self) -> str:
        """`{number:05}-{fingerprint}`, the file name of store, record and log."""
        return f"{self.number:05}-{self.fingerprint}"

    @property
    def num_samples(self) -> int:
        """Rows of the chunk."""
        return self.stop - self.start


@dataclass(frozen=True)
class PlannedFile:
    """A file of weights: where it lies, and the sha256 of its bytes when the plan was made.

    Attributes:
        read_as: where in the file the weights were found and what was left out; "" for a plain
            state dict.
    """

    path: str
    sha256: str
    read_as: str = ""


@dataclass(frozen=True)
class PlannedStatistics:
    """The normalisation statistics.

    Attributes:
        path: of the `Mean_Std_*.npz`.
        values: mean and std as JSON lists; None where a rule computes the file in this run.
        origin: what the names of chunks tell of computed statistics.
    """

    path: str
    values: dict[str, Any] | None
    origin: str = "computed"

    @property
    def computed(self) -> bool:
        """True if a rule of the workflow computes the file."""
        return self.values is None


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of.

    Attributes:
        config: as configured, with numbers where a size was `auto`.
        architecture: sizes of the model, read from the checkpoint.
        checkpoint: the weights.
        scene_model: weights of the frozen scene model; None if the model has none.
        statistics: mean and std by which maps are normalised.
        identity: all settings that can change a number; the base fingerprints hash it.
        chunks: in the order of the final archive.
        dropped: name -> reason of the dataset's clips that gave no sample.
        notes: label -> what `cdm.run.notes` tells of this plan.
        file_hashes: sha256 of files that were hashed for this plan. `save_plan` keeps them, so
            that the next plan need not hash the same files again. They change no plan.
        motions: length and NaN of the dataset's motions, which `save_plan` keeps for the same
            reason.
        finished: name -> `ChunkRecord.files` of each chunk whose record was read for this plan, so
            that `cdm.run.losses` need not read it again.
        auto: keys of the configuration that were `auto`, and now are numbers in `config`.
    """

    config: Config
    architecture: Architecture
    checkpoint: PlannedFile
    scene_model: PlannedFile | None
    statistics: PlannedStatistics
    identity: dict[str, Any]
    chunks: tuple[Chunk, ...]
    dropped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    file_hashes: dict[str, list] = field(default_factory=dict, compare=False, repr=False)
    motions: dict[str, list] = field(default_factory=dict, compare=False, repr=False)
    finished: dict[str, dict[str, list]] = field(default_factory=dict, compare=False, repr=False)
    auto: tuple[str, ...] = ()

    @property
    def asked(self) -> Config:
        """The configuration as it was typed, with `auto`."""
        return without_sizes(self.config, self.auto)

    @property
    def num_samples(self) -> int:
        """Rows of the final archive."""
        return self.chunks[-1].stop

    @property
    def num_steps(self) -> int:
        """Denoising steps of one map."""
        return len(self.identity["diffusion"][2])

    @property
    def fingerprint(self) -> str:
        """Names the merged archive's record."""
        return digest([chunk.name for chunk in self.chunks])

    @property
    def archive(self) -> str:
        """Path of the final archive."""
        return f"{self.config.run_dir}/{ARCHIVE}"

    @property
    def archive_record(self) -> str:
        """Path of the record that says the archive holds this very plan."""
        return f"{self.archive.removesuffix('.zarr')}-{self.fingerprint}.json"

    @property
    def folder(self) -> Path:
        """Where plan.json and samples.tsv lie."""
        return plan_folder(self.config.run_dir)

    def chunk_record(self, chunk: Chunk) -> str:
        """Path of a chunk's record, the output its rule declares."""
        return f"{self.config.run_dir}/{CHUNKS}/{chunk.name}.json"

    def chunk_records(self) -> list[str]:
        """Paths of all records, in the order of the archive."""
        return [self.chunk_record(chunk) for chunk in self.chunks]

    def find_chunk(self, name: str) -> Chunk:
        """The chunk of this name.

        Raises:
            ArchiveError: the plan has another fingerprint for it.
        """
        for chunk in self.chunks:
            if chunk.name == name:
                return chunk
        raise ArchiveError(
            f"chunk {name} is not in the present plan of {self.config.run_dir}: settings or data "
            "changed since this run began. Start snakemake again; finished chunks are kept"
        )


def base_fingerprint(
    identity_digest: str, samples: Iterable[Sample], files: list[list[str]]
) -> str:
    """The fingerprint of a chunk's settings, rows and file names, without the files' content.

    Args:
        identity_digest: `digest(plan.identity)`.
        samples: the chunk's rows.
        files: paths of each sample's files, relative to the data folder.
    """
    return digest([identity_digest, [row_of(sample) for sample in samples], files])


def plan_folder(run: str | Path) -> Path:
    """The folder of a run's plan."""
    return Path(run, "plan")


def file_hashes_path(run: str | Path) -> Path:
    """The file that keeps `Plan.file_hashes`; losing it costs only time."""
    return plan_folder(run) / "contents.json"


def motions_path(run: str | Path) -> Path:
    """The file that keeps `Plan.motions`; losing it costs only time."""
    return plan_folder(run) / "h3d_clips.json"


def config_key(config: Config) -> str:
    """Tells whether a stored plan was made from this configuration."""
    return digest(config.as_dict())


def describe_plan(plan: Plan) -> str:
    """checkpoint_info.txt: what the run samples."""
    a, config = plan.architecture, plan.config
    sizes = ", ".join(f"{key} {value}" for key, value in a.sizes.items())
    scene = ""
    if plan.scene_model:
        how = f" ({plan.scene_model.read_as})" if plan.scene_model.read_as else ""
        scene = f"scene model     {plan.scene_model.path}{how}\n"
    read_as = f"read as         {plan.checkpoint.read_as}\n" if plan.checkpoint.read_as else ""
    source = "computed by the workflow" if plan.statistics.computed else "read"
    contradictions = name_contradictions(plan.statistics.path, config.dataset)
    warnings = "".join(f"warning         {line}\n" for line in contradictions)
    notes = "".join(f"{label:<16}{note}\n" for label, note in plan.notes.items())
    return printable(
        f"checkpoint      {plan.checkpoint.path}\n"
        f"sha256          {plan.checkpoint.sha256}\n{read_as}"
        f"architecture    {a.arch} ({sizes}, last_dim {a.last_dim})\n"
        f"conditions      text {a.text_feat_dim} ({config.model.text_model.version}), time "
        f"{a.time_emb_dim}, point features {a.point_feat_dim}\n{scene}"
        f"map             {config.dataset.num_points} points x {a.contact_dim} joints "
        f"({config.dataset.data_repr})\n"
        f"statistics      {plan.statistics.path} ({source})\n{warnings}"
        f"sampler         {config.sampling.method}, {plan.num_steps} of "
        f"{config.diffusion.steps} steps ({config.diffusion.noise_schedule}), "
        f"{config.sampling.k_samples} map(s) a sample, precision {config.sampling.precision}\n"
        f"{describe_sources(config)}"
        f"samples         {plan.num_samples} in {len(plan.chunks)} chunks of "
        f"{config.workflow.chunk_size}, batches of {config.sampling.batch_size}\n"
        f"{notes}{describe_dropped(plan)}"
    )


def describe_dropped(plan: Plan) -> str:
    """The line on clips that gave no sample: how many for which reason; empty if there are none."""
    if not plan.dropped:
        return ""
    kinds = Counter(reason.split(":")[0] for reason in plan.dropped.values())
    counts = (f"{count} {kind}" for kind, count in kinds.most_common())
    return f"dropped         {len(plan.dropped)} clip(s) or parts: {listed(counts, 8, ', ')}\n"
