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
from itertools import islice
from pathlib import Path
from typing import Any

from cdm.config import Config, load_config
from cdm.datasets import Dataset, Sample
from cdm.errors import ArchiveError, ConfigError
from cdm.files import digest, replacing, write_json
from cdm.model.architecture import Architecture

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


# --- on disk -------------------------------------------------------------------------------------


def base_fingerprint(settings: str, samples: Iterable[Sample], files: list[list[str]]) -> str:
    """What a chunk's name starts from: its settings, its rows, and the names of its files.

    Args:
        settings: digest of `Plan.settings`.
        samples: the chunk's rows.
        files: paths of each sample's files, relative to the data folder.
    """
    return digest([settings, [_row(sample) for sample in samples], files])


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


def read_samples(plan: Plan, chunk: Chunk, dataset: Dataset) -> list[Sample]:
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
    files = [dataset.files(sample) for sample in samples]
    if base_fingerprint(digest(plan.settings), samples, files) != chunk.base:
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
    read_as = plan.checkpoint.get("read_as")
    read_as = f"read as         {read_as}\n" if read_as else ""
    source = "computed by the workflow" if plan.statistics["computed"] else "read"
    return (
        f"checkpoint      {plan.checkpoint['path']}\n"
        f"sha256          {plan.checkpoint['sha256']}\n{read_as}"
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
