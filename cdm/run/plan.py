"""The plan: which samples, in which chunks, under which names (no torch).

Snakemake makes the plan anew, from the dataset's index files, whenever it reads the Snakefile
(`cdm.run.planning`). The jobs of a run read the plan that the run's start wrote: `plan/plan.json`
and `plan/samples.tsv`.

A chunk's name carries its fingerprint. Its *base* fingerprint hashes the settings and the sample
rows. The first plan does not read the items themselves. Instead each chunk records the content of
the files that it read, and a later plan compares that with the files as they are now. While they
agree, the chunk keeps its name. Once an item was edited, the new name hashes base and new content.
When the edit is undone, the plan finds the old name again, and with it the finished chunk.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from cdm.config import Config, load_config
from cdm.datasets import Dataset, Sample
from cdm.datasets.contact_humanml3d import seal_motions
from cdm.datasets.statistics import name_contradictions
from cdm.errors import ArchiveError, ConfigError, listed, printable
from cdm.files import digest, is_sealed, replacing, seal, typed, unseal, write_bytes
from cdm.model.architecture import Architecture
from cdm.run.table import read_rows, row_of, table_header, table_rows

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
        config: as configured.
        architecture: sizes of the model, read from the checkpoint.
        checkpoint: the weights.
        scene_model: weights of the frozen scene model; None if the model has none.
        statistics: mean and std by which maps are normalised.
        identity: all settings that can change a number; the base fingerprints hash it.
        chunks: in the order of the final archive.
        dropped: name -> reason of the dataset's clips that gave no sample.
        file_hashes: sha256 of files that were hashed for this plan. `save_plan` keeps them, so
            that the next plan need not hash the same files again. They change no plan.
        motions: length and NaN of the dataset's motions, kept likewise.
    """

    config: Config
    architecture: Architecture
    checkpoint: PlannedFile
    scene_model: PlannedFile | None
    statistics: PlannedStatistics
    identity: dict[str, Any]
    chunks: tuple[Chunk, ...]
    dropped: dict[str, str] = field(default_factory=dict)
    file_hashes: dict[str, list] = field(default_factory=dict, compare=False, repr=False)
    motions: dict[str, list] = field(default_factory=dict, compare=False, repr=False)

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


# --- on disk -------------------------------------------------------------------------------------


def save_plan(plan: Plan, samples: list[Sample]) -> None:
    """Write the plan's files and checkpoint_info.txt, each atomically.

    plan.json is sealed, because a job believes what it says. samples.tsv needs no seal: each
    chunk's rows are hashed in the chunk's base fingerprint.
    """
    table = plan.folder / "samples.tsv"
    with replacing(table) as temporary, open(temporary, "wb") as file:
        file.write(table_header())
        for chunk in plan.chunks:
            file.write(table_rows(chunk.number, samples[chunk.start : chunk.stop]))
    if plan.file_hashes:
        hashes = seal({"files": plan.file_hashes})
        write_bytes(file_hashes_path(plan.config.run_dir), hashes)
    if plan.motions:
        write_bytes(motions_path(plan.config.run_dir), seal_motions(plan.motions))
    write_bytes(plan.folder / "plan.json", seal(_to_json(plan)))
    with replacing(Path(plan.config.run_dir, "checkpoint_info.txt")) as temporary:
        temporary.write_text(describe_plan(plan), "utf-8")


def read_plan(run: str | Path) -> Plan:
    """The plan that lies in a run's folder, with the configuration it was made from.

    Raises:
        ArchiveError: no plan there, one of another version, or one that was edited.
    """
    path = plan_folder(run) / "plan.json"
    try:
        content = _stored(path)
        return _from_json(content, load_config(content["config"]))
    except FileNotFoundError:
        raise ArchiveError(
            f"{path}: no such file; expected the folder of a run that has been started, such as "
            "outputs/demo"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise ArchiveError(
            f"{path}: not a plan of this version ({type(error).__name__}: {error}); start "
            "snakemake again to have it written anew, finished chunks are kept"
        ) from None


def read_plan_for(config: Config) -> Plan | None:
    """The stored plan of this configuration; None if there is none that can be trusted."""
    try:
        content = _stored(plan_folder(config.run_dir) / "plan.json")
        if content["key"] == config_key(config):
            return _from_json(content, config)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never planned, by another version, or edited
    return None


PLAN_KEYS = {"config", "architecture", "checkpoint", "scene_model", "statistics", "chunks"}
# Versions before the seal wrote these keys and no others.
UNSEALED_KEYS = PLAN_KEYS | {"settings", "key", "fingerprint"}


def _stored(path: Path) -> dict[str, Any]:
    """The content of a plan.json.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or it was changed after it was written.
    """
    data = path.read_bytes()
    if is_sealed(data):
        return unseal(data)
    content = orjson.loads(data)
    if not isinstance(content, dict) or set(content) != UNSEALED_KEYS:
        raise ValueError("truncated, or changed since it was written")
    content["identity"] = content.pop("settings")
    content["statistics"].pop("computed", None)
    return content


def _to_json(plan: Plan) -> dict[str, Any]:
    content = {n: value for n, value in vars(plan).items() if n not in ("file_hashes", "motions")}
    parts = ("architecture", "checkpoint", "scene_model", "statistics")
    return content | {
        "config": plan.config.as_dict(),
        **{name: content[name] and asdict(content[name]) for name in parts},
        "chunks": [asdict(chunk) for chunk in plan.chunks],
        "key": config_key(plan.config),
        "fingerprint": plan.fingerprint,
    }


def _from_json(content: dict[str, Any], config: Config) -> Plan:
    """A plan from JSON.

    Raises:
        ValueError, KeyError, TypeError: the content is no plan, or its parts contradict each
            other, as they do after an edit.
    """
    scene_model = content["scene_model"]
    plan = Plan(
        config=config,
        architecture=typed(Architecture, content["architecture"]),
        checkpoint=typed(PlannedFile, content["checkpoint"]),
        scene_model=None if scene_model is None else typed(PlannedFile, scene_model),
        statistics=typed(PlannedStatistics, content["statistics"]),
        identity=content["identity"],
        chunks=tuple(typed(Chunk, chunk) for chunk in content["chunks"]),
        dropped=content.get("dropped", {}),
    )
    contradictions = listed(_contradictions(plan, content["fingerprint"]), 3, "; ")
    if contradictions:
        raise ValueError(contradictions)
    return plan


def _contradictions(plan: Plan, fingerprint: str) -> Iterable[str]:
    """What the parts of a plan say about each other and do not agree on."""
    identity, model = plan.identity, plan.architecture
    scene_sha256 = plan.scene_model and plan.scene_model.sha256
    if identity["model"] != {"arch": model.arch, **model.sizes}:
        yield "the architecture is not that of the settings"
    if (identity["point_feat"] or [0])[0] != model.point_feat_dim:
        yield "the architecture takes other point features than the settings say"
    if (identity["checkpoint"], identity["scene_model"]) != (plan.checkpoint.sha256, scene_sha256):
        yield "the weights are not those of the settings"
    if identity["statistics"] != (plan.statistics.values or plan.statistics.origin):
        yield "the statistics are not those of the settings"
    stops = [0, *(chunk.stop for chunk in plan.chunks)]
    if not plan.chunks or [chunk.start for chunk in plan.chunks] != stops[:-1]:
        yield "the chunks do not follow each other"
    elif any(chunk.num_samples <= 0 for chunk in plan.chunks):
        yield "a chunk has no rows"
    elif [chunk.number for chunk in plan.chunks] != list(range(len(plan.chunks))):
        yield "the chunks are not numbered in order"
    if not isinstance(plan.dropped, dict) or not all(map(_is_text, plan.dropped.items())):
        yield "the dropped clips are no list of names and reasons"
    if plan.chunks and plan.fingerprint != fingerprint:
        yield "the chunks are not those that were planned"


def _is_text(pair: tuple) -> bool:
    return all(isinstance(value, str) for value in pair)


def read_samples(plan: Plan, chunk: Chunk, dataset: Dataset) -> list[Sample]:
    """The rows of one chunk, without reading the others.

    Args:
        dataset: the plan's (`cdm.run.dataset.open_dataset`), which knows the files of a sample.
    Raises:
        ArchiveError: samples.tsv is missing, or of another plan.
    """
    path = plan.folder / "samples.tsv"
    try:
        with open(path, "rb") as file:
            file.seek(chunk.offset)
            samples = read_rows(file, chunk.num_samples)
        files = [dataset.files(sample) for sample in samples]
        found = base_fingerprint(digest(plan.identity), samples, files)
    except OSError as error:
        raise ArchiveError(
            f"{path}: {error.strerror or error}; start snakemake again to have it written anew, "
            "finished chunks are kept"
        ) from None
    except ValueError:
        found = None  # its bytes are not even a table's
    if found != chunk.base:
        raise ArchiveError(
            f"{path}: its rows are not those of chunk {chunk.name}; another run with other "
            "settings writes to the same exp_name. Start snakemake again"
        )
    return samples


# --- for people ----------------------------------------------------------------------------------


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
        f"{config.sampling.k_samples} map(s) a sample, {config.sampling.precision}\n"
        f"samples         {plan.num_samples} in {len(plan.chunks)} chunks of "
        f"{config.workflow.chunk_size}\n{describe_dropped(plan)}"
    )


def describe_dropped(plan: Plan) -> str:
    """The line on clips that gave no sample: how many for which reason; empty if there are none."""
    if not plan.dropped:
        return ""
    kinds = Counter(reason.split(":")[0] for reason in plan.dropped.values())
    counts = (f"{count} {kind}" for kind, count in kinds.most_common())
    return f"dropped         {len(plan.dropped)} clip(s) or parts: {listed(counts, 8, ', ')}\n"
