"""The plan: which samples, in which chunks, under which names (no torch).

Made anew, from the dataset's index files, whenever Snakemake reads the Snakefile; jobs of a run
read what the run's start wrote (`plan/plan.json`, `plan/samples.tsv`).

A chunk's name carries its fingerprint. Its *base* hashes settings and sample rows. The content
of the items is not read for a first plan: a chunk records what it read, and a later plan holds
that against the files as they are now. While they agree the chunk keeps its name; once an item
was edited, the name is made of base and new content; when the edit is undone, the old name, and
the finished chunk with it, is found again.
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cdm.archive.store import store_path
from cdm.config import Config, load_config
from cdm.datasets import Dataset, Sample, make_dataset, stat_files
from cdm.datasets.statistics import find_statistics
from cdm.demo.scenes import DemoDataset
from cdm.errors import ArchiveError, CheckpointError, ConfigError, DataError, NotTrained
from cdm.files import replacing, write_json
from cdm.model.architecture import Architecture
from cdm.model.checkpoint import find_checkpoint, inspect_checkpoint, inspect_scene_model
from cdm.model.text import find_text_weights
from cdm.run.contents import ContentResolver, digest
from cdm.sampling.diffusion import space_timesteps

# Raised whenever the numbers a given configuration produces change.
NUMERICS_VERSION = 2

COLUMNS = ("chunk", "set", "index", "caption_idx", "scene_id", "x", "y", "z", "text")


@dataclass(frozen=True)
class Chunk:
    """One unit of work: rows [start, stop) of the samples.

    Attributes:
        number: position of the chunk in the final archive.
        base: fingerprint of settings and sample rows.
        fingerprint: the base, or base and content where an item was edited.
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


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of.

    Attributes:
        config: as configured.
        architecture: read off the checkpoint.
        checkpoint: path and sha256.
        scene_model: likewise, of the frozen scene model; None where none runs.
        statistics: path of the normalisation statistics; `computed` when a rule makes them.
        settings: what the base fingerprints hash beside the rows.
        chunks: in the order of the final archive.
    """

    config: Config
    architecture: Architecture
    checkpoint: dict[str, Any]
    scene_model: dict[str, Any] | None
    statistics: dict[str, Any]
    settings: dict[str, Any]
    chunks: tuple[Chunk, ...]

    @property
    def num_samples(self) -> int:
        """Rows of the final archive."""
        return self.chunks[-1].stop

    @property
    def fingerprint(self) -> str:
        """Names the merged archive's record."""
        return digest([chunk.name for chunk in self.chunks])

    @property
    def archive(self) -> str:
        """Path of the final archive."""
        return f"{self.config.run_dir}/contact_maps.zarr"

    @property
    def archive_record(self) -> str:
        """Path of the record that says the archive holds this very plan."""
        return f"{self.config.run_dir}/contact_maps-{self.fingerprint}.json"

    def chunk_record(self, chunk: Chunk) -> str:
        """Path of a chunk's record, the output its rule declares."""
        return f"{self.config.run_dir}/chunks/{chunk.name}.json"

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


def make_plan(config: Config) -> tuple[Plan, list[Sample]]:
    """List the samples, check every input that can be checked without a GPU, and name the chunks.

    Returns:
        The plan and its samples, in the order of the archive.
    Raises:
        CheckpointError, DataError, ConfigError: in seconds, with the path that was looked at.
    """
    checkpoint_path = _find_checkpoint(config)
    checkpoint = inspect_checkpoint(checkpoint_path, config)
    _check_point_features(config, checkpoint.architecture.point_feat_dim)
    scene_model = inspect_scene_model(config, checkpoint.architecture.point_feat_dim)
    text_model = config.model.text_model
    weights = find_text_weights(text_model.version, text_model.path)
    timesteps = sorted(space_timesteps(config.diffusion.steps, config.diffusion.timestep_respacing))

    dataset = open_dataset(config, checkpoint.architecture.point_feat_dim)
    samples = dataset.samples()
    if not samples:
        raise DataError(f"{config.data_dir}: no samples in phase {config.dataset.phase}")
    files = [dataset.files(sample) for sample in samples]
    stats = {} if config.is_demo_data else stat_files(dataset, chain.from_iterable(files))

    statistics = {"path": _computed_statistics(config, dataset), "computed": True, "values": None}
    found = find_statistics(dataset, checkpoint_path.parents[1])
    if found is not None:
        statistics = {"path": found.source, "computed": False, "values": found.numbers()}
    settings = _settings(config, checkpoint, scene_model, statistics, timesteps, dataset.rotates)

    size = config.workflow.chunk_size
    resolver = ContentResolver(config, weights, statistics, stats)
    settings_digest = digest(settings)
    chunks, offset = [], len(_header())
    for number, start in enumerate(range(0, len(samples), size)):
        rows, row_files = samples[start : start + size], files[start : start + size]
        base = digest([settings_digest, [_row(s) for s in rows], row_files])
        fingerprint = resolver.fingerprint(number, base, row_files)
        chunks.append(Chunk(number, start, start + len(rows), base, fingerprint, offset))
        offset += len(_tsv(number, rows))
    resolver.save()
    plan = Plan(
        config=config,
        architecture=checkpoint.architecture,
        checkpoint={"path": str(checkpoint.path), "sha256": checkpoint.sha256},
        scene_model=scene_model,
        statistics=statistics,
        settings=settings,
        chunks=tuple(chunks),
    )
    _drop_orphan_records(plan)
    return plan, samples


def _find_checkpoint(config: Config) -> Path:
    try:
        return find_checkpoint(config.checkpoint_dir)
    except CheckpointError:
        if Path(config.checkpoint_dir) != Path(config.run_dir):
            raise
        raise NotTrained(
            f"exp_dir is {config.exp_dir or 'null'}, and {config.run_dir} has no ckpt/model*.pt "
            "yet. Name the experiment folder that holds ckpt/model*.pt (--config "
            "exp_dir=outputs/my_exp), train one with these settings (snakemake train), or try the "
            "built-in weights (exp_dir=demo)"
        ) from None


def _check_point_features(config: Config, point_feat_dim: int) -> None:
    """Columns that the dataset gives, as far as the configuration tells, against the model's."""
    dataset = config.dataset
    if point_feat_dim == 0 or config.runs_scene_model:
        return
    color_dim = 3 * dataset.use_color * (dataset.name != "ContactHumanML3DDataset")
    given = f"dataset.use_color {dataset.use_color}, dataset.use_openscene {dataset.use_openscene}"
    if not dataset.use_openscene and point_feat_dim != color_dim:
        raise ConfigError(
            f"the model was trained on {point_feat_dim} point features, the dataset gives "
            f"{color_dim} ({given}): set dataset.use_openscene: true to have OpenScene features "
            "or affordances go in, or model.scene_model.use_openscene: false and "
            "pretrained_weight to have the scene model make them"
        )
    if dataset.use_openscene and dataset.use_color and point_feat_dim <= 3:
        raise ConfigError(
            f"the model was trained on {point_feat_dim} point feature(s), the dataset gives 3 of "
            f"colour and more ({given}): set dataset.use_color: false"
        )


def open_dataset(config: Config, point_feat_dim: int) -> Dataset:
    """The dataset of a configuration; the demo's needs no files to list its samples."""
    if config.is_demo_data:
        return DemoDataset(config.dataset, config.data_dir, point_feat_dim, config.seed)
    facts = Path(config.run_dir, "plan", "h3d_clips.json")
    return make_dataset(config.dataset, point_feat_dim, config.seed, config.data_dir, facts)


def _computed_statistics(config: Config, dataset: Dataset) -> str:
    """The reference's file name, in a folder for what it does not tell: split and joints."""
    chosen = digest([config.dataset.phase, config.dataset.data_repr_joints])[:8]
    return f"{config.run_dir}/statistics/{chosen}/{dataset.statistics_name()}"


def _settings(
    config: Config, checkpoint, scene_model, statistics, timesteps, rotates
) -> dict[str, Any]:
    """What can change a chunk's numbers, beside its rows and the content of its items.

    Batch size, device and threads are not in it: they change maps only within rounding, so a
    run may go on with a smaller batch or on another machine.
    """
    dataset, point_feat_dim = config.dataset, checkpoint.architecture.point_feat_dim
    return {
        "numerics_version": NUMERICS_VERSION,
        "seed": config.seed,
        "checkpoint": checkpoint.sha256,
        "model": {"arch": checkpoint.architecture.arch, **checkpoint.architecture.sizes},
        "scene_model": scene_model and scene_model["sha256"],
        "statistics": statistics["values"] or "computed",
        "dataset": {
            "name": dataset.name,
            "data_repr": dataset.data_repr,
            "data_repr_joints": dataset.data_repr_joints,
            "use_raw_dist": dataset.use_raw_dist,
            "sigma": dataset.sigma,
            "num_points": dataset.num_points,
            "rotates": rotates,
        },
        "text_model": [config.model.text_model.version, config.model.text_model.max_length],
        "point_feat": point_feat_dim and [point_feat_dim, dataset.use_color, dataset.use_openscene],
        "diffusion": [config.diffusion.steps, config.diffusion.noise_schedule, timesteps],
        "sampling": {
            "method": config.sampling.method,
            "eta": config.sampling.eta,
            "k_samples": config.sampling.k_samples,
            "precision": config.sampling.precision,
        },
        "chunk_size": config.workflow.chunk_size,
        "dtype": config.workflow.dtype,
    }


def _drop_orphan_records(plan: Plan) -> None:
    """Forget records whose store is gone: what they promise is no longer there."""
    for record in map(Path, plan.chunk_records()):
        if record.exists() and not store_path(record).exists():
            record.unlink()
    archive = Path(plan.archive_record)
    if archive.exists() and not Path(plan.archive).exists():
        archive.unlink()


# --- on disk -------------------------------------------------------------------------------------


def _row(sample: Sample) -> list:
    return [
        sample.set,
        sample.index,
        sample.caption_idx,
        sample.scene_id,
        *map(float, sample.scene_trans),
        sample.text,
    ]


def _header() -> bytes:
    return ("\t".join(COLUMNS) + "\n").encode()


def _tsv(number: int, samples: Iterable[Sample]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerows([number, *_row(sample)] for sample in samples)
    return text.getvalue().encode()


def save_plan(plan: Plan, samples: list[Sample]) -> None:
    """Write plan/samples.tsv, plan/plan.json and checkpoint_info.txt, each atomically."""
    folder = Path(plan.config.run_dir, "plan")
    with replacing(folder / "samples.tsv") as temporary, open(temporary, "wb") as file:
        file.write(_header())
        for chunk in plan.chunks:
            file.write(_tsv(chunk.number, samples[chunk.start : chunk.stop]))
    content = asdict(plan) | {"key": _key(plan.config), "fingerprint": plan.fingerprint}
    write_json(folder / "plan.json", content)
    with replacing(Path(plan.config.run_dir, "checkpoint_info.txt")) as temporary:
        temporary.write_text(describe(plan), "utf-8")


def _key(config: Config) -> str:
    return digest(config.as_dict())


def load_plan(config: Config) -> Plan:
    """The plan the run's start wrote; made again where that is of another configuration."""
    try:
        content = json.loads(Path(config.run_dir, "plan", "plan.json").read_bytes())
        if content["key"] == _key(config):
            return _plan_from(content, config)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never planned, or by another version
    return make_plan(config)[0]


def read_plan(run: str | Path) -> Plan:
    """The plan that lies in a run's folder, with the configuration it was made from.

    Raises:
        ArchiveError: no plan there, or not one of this version.
    """
    path = Path(run, "plan", "plan.json")
    try:
        content = json.loads(path.read_bytes())
        return _plan_from(content, load_config(content["config"]))
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


def _plan_from(content: dict[str, Any], config: Config) -> Plan:
    return Plan(
        config=config,
        architecture=Architecture(**content["architecture"]),
        checkpoint=content["checkpoint"],
        scene_model=content["scene_model"],
        statistics=content["statistics"],
        settings=content["settings"],
        chunks=tuple(Chunk(**chunk) for chunk in content["chunks"]),
    )


def read_samples(plan: Plan, chunk: Chunk) -> list[Sample]:
    """The rows of one chunk, without reading the others.

    Raises:
        ArchiveError: samples.tsv is of another plan.
    """
    path = Path(plan.config.run_dir, "plan", "samples.tsv")
    with open(path, "rb") as file:
        file.seek(chunk.offset)
        lines = io.TextIOWrapper(file, "utf-8", newline="")
        rows = csv.reader(lines, delimiter="\t")
        samples = [_sample(row) for row in islice(rows, chunk.stop - chunk.start)]
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    files = [dataset.files(sample) for sample in samples]
    if digest([digest(plan.settings), [_row(s) for s in samples], files]) != chunk.base:
        raise ArchiveError(
            f"{path}: its rows are not those of chunk {chunk.name}; another run with other "
            "settings writes to the same exp_name. Start snakemake again"
        )
    return samples


def _sample(row: list[str]) -> Sample:
    _, set, index, caption_idx, scene_id, x, y, z, text = row
    return Sample(
        set=set,
        index=index,
        caption_idx=int(caption_idx),
        text=text,
        scene_id=scene_id,
        scene_trans=(float(x), float(y), float(z)),
    )


def describe(plan: Plan) -> str:
    """checkpoint_info.txt: what the run samples, for people."""
    a, config = plan.architecture, plan.config
    sizes = ", ".join(f"{key} {value}" for key, value in a.sizes.items())
    scene = f"scene model     {plan.scene_model['path']}\n" if plan.scene_model else ""
    source = "computed by the workflow" if plan.statistics["computed"] else "read"
    return (
        f"checkpoint      {plan.checkpoint['path']}\n"
        f"sha256          {plan.checkpoint['sha256']}\n"
        f"architecture    {a.arch} ({sizes}, last_dim {a.last_dim})\n"
        f"conditions      text {a.text_feat_dim} ({config.model.text_model.version}), time "
        f"{a.time_emb_dim}, point features {a.point_feat_dim}\n{scene}"
        f"map             {config.dataset.num_points} points x {a.contact_dim} joints "
        f"({config.dataset.data_repr})\n"
        f"statistics      {plan.statistics['path']} ({source})\n"
        f"sampler         {config.sampling.method}, {len(plan.settings['diffusion'][2])} of "
        f"{config.diffusion.steps} steps ({config.diffusion.noise_schedule}), "
        f"{config.sampling.k_samples} map(s) a sample, {config.sampling.precision}\n"
        f"samples         {plan.num_samples} in {len(plan.chunks)} chunks of "
        f"{config.workflow.chunk_size}\n"
    )
