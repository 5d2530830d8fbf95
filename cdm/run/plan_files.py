"""The plan's files: `plan/plan.json` and `plan/samples.tsv`, written once, read by every job.

plan.json is sealed, because a job believes what it says. samples.tsv needs no seal, because each
chunk's rows are hashed in the chunk's base fingerprint.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson

from cdm.config import Config, load_config
from cdm.datasets import Dataset, Sample
from cdm.datasets.motion_facts import seal_motions
from cdm.errors import ArchiveError, ConfigError, listed
from cdm.files import (
    digest,
    is_folder,
    is_sealed,
    list_names,
    read_bytes,
    replacing,
    seal,
    typed,
    unseal,
    write_bytes,
)
from cdm.model.architecture import Architecture
from cdm.run.plan import (
    CHUNKS,
    Chunk,
    Plan,
    PlannedFile,
    PlannedStatistics,
    base_fingerprint,
    config_key,
    describe_plan,
    file_hashes_path,
    motions_path,
    plan_folder,
)
from cdm.run.sizes import CHUNK_SIZE, LastPlan
from cdm.run.sources import describe_values
from cdm.run.table import read_rows, table_header, table_rows

TABLE = "samples.tsv"


def save_plan(plan: Plan, samples: list[Sample]) -> None:
    """Write the plan's files and checkpoint_info.txt, each atomically.

    plan.json is sealed, because a job believes what it says. samples.tsv needs no seal: each
    chunk's rows are hashed in the chunk's base fingerprint.
    """
    with replacing(plan.folder / TABLE) as temporary, open(temporary, "wb") as file:
        file.writelines(_table(plan, samples))
    if plan.file_hashes:
        hashes = seal({"files": plan.file_hashes})
        write_bytes(file_hashes_path(plan.config.run_dir), hashes)
    if plan.motions:
        write_bytes(motions_path(plan.config.run_dir), seal_motions(plan.motions))
    write_bytes(plan.folder / "plan.json", seal(_to_json(plan)))
    with replacing(Path(plan.config.run_dir, "checkpoint_info.txt")) as temporary:
        text = describe_plan(plan) + describe_values(plan.asked)
        temporary.write_text(text, "utf-8")


def is_saved(plan: Plan, samples: list[Sample]) -> bool:
    """Whether plan.json and samples.tsv are there, whole, and of this plan."""
    stored = read_plan_for(plan.asked)
    if stored is None or stored.fingerprint != plan.fingerprint:
        return False
    try:
        with open(plan.folder / TABLE, "rb") as file:
            same = all(file.read(len(part)) == part for part in _table(plan, samples))
            return same and not file.read(1)
    except OSError:
        return False


def _table(plan: Plan, samples: list[Sample]) -> Iterator[bytes]:
    """The bytes of samples.tsv: its first line, then the rows of one chunk after the other."""
    yield table_header()
    for chunk in plan.chunks:
        yield table_rows(chunk.number, samples[chunk.start : chunk.stop])


def read_plan(run: str | Path) -> Plan:
    """The plan that lies in a run's folder, with the configuration it was made from.

    Raises:
        ArchiveError: no plan there, one of another version, or one that was edited.
    """
    path = plan_folder(run) / "plan.json"
    try:
        content = _stored(path)
        return _from_json(content, load_config(content["config"]))
    except (FileNotFoundError, NotADirectoryError):
        raise ArchiveError(_no_plan(Path(run), path)) from None
    except PermissionError:
        raise ArchiveError(
            f"{path}: you may not read it; check the owner and mode of the run's folder, and type "
            "the same command again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise ArchiveError(
            f"{path}: not a plan of this version ({type(error).__name__}: {error}); start "
            "snakemake again to have it written anew, finished chunks are kept"
        ) from None


def _no_plan(run: Path, path: Path) -> str:
    """What to type where a run was expected: to have a lost plan again, a file, or a run near."""
    if run.suffix in (".yaml", ".yml") and run.is_file():
        return (
            f"{path}: no such file; expected the folder of a run. Settings in a file are given as "
            f"--configfile {run}"
        )
    if is_folder(run / CHUNKS):
        return (
            f"{path}: no such file; start snakemake again to have it written anew, finished chunks "
            "are kept"
        )
    near = [folder / name for folder in (run, run.parent) for name in sorted(list_names(folder))]
    runs = [str(each) for each in near if (plan_folder(each) / "plan.json").is_file()]
    which = f": {listed(runs, 5, ', ')}" if runs else ", outputs/EXP_NAME"
    return f"{path}: no such file; expected the folder of a run that has been started{which}"


def read_last_plan(run: str | Path) -> LastPlan | None:
    """What the run's last plan says of sizes; None if there is none that can be read."""
    try:
        plan = read_plan(run)
    except ArchiveError:
        return None
    there = list_names(Path(run, CHUNKS)) | list_names(run)
    paths = [*plan.chunk_records(), plan.archive_record]
    finished = any(Path(path).name in there for path in paths)
    return LastPlan(plan.identity, plan.num_samples, finished or CHUNK_SIZE in plan.auto)


def read_plan_for(config: Config) -> Plan | None:
    """The stored plan of this configuration; None if there is none that can be trusted."""
    try:
        content = _stored(plan_folder(config.run_dir) / "plan.json")
        if content["key"] == config_key(config):
            stored = load_config(content["config"])  # with numbers where a size is `auto`
            return _from_json(content, replace(stored, provenance=config.provenance))
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
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
    data = read_bytes(path)
    if is_sealed(data):
        return unseal(data)
    content = orjson.loads(data)
    if not isinstance(content, dict) or set(content) != UNSEALED_KEYS:
        raise ValueError("truncated, or changed since it was written")
    content["identity"] = content.pop("settings")
    content["statistics"].pop("computed", None)
    return content


# What only the planning process needs, or has a file of its own.
NOT_STORED = ("file_hashes", "motions", "finished")


def _to_json(plan: Plan) -> dict[str, Any]:
    content = {name: value for name, value in vars(plan).items() if name not in NOT_STORED}
    parts = ("architecture", "checkpoint", "scene_model", "statistics")
    return content | {
        "config": plan.config.as_dict(),
        **{name: content[name] and asdict(content[name]) for name in parts},
        "chunks": [asdict(chunk) for chunk in plan.chunks],
        "key": config_key(plan.asked),
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
        notes=content.get("notes", {}),
        auto=tuple(content.get("auto", ())),
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
    if not isinstance(plan.notes, dict) or not all(map(_is_text, plan.notes.items())):
        yield "the notes are no list of labels and texts"
    if plan.chunks and plan.fingerprint != fingerprint:
        yield "the chunks are not those that were planned"


def _is_text(pair: tuple) -> bool:
    return all(isinstance(value, str) for value in pair)


def read_samples(plan: Plan, chunk: Chunk, dataset: Dataset) -> list[Sample]:
    """The rows of one chunk. The rows of other chunks are not read.

    Args:
        dataset: the plan's (`cdm.run.dataset.open_dataset`), which knows the files of a sample.
    Raises:
        ArchiveError: samples.tsv is missing, or of another plan.
    """
    path = plan.folder / TABLE
    try:
        with open(path, "rb") as file:
            file.seek(chunk.offset)
            samples = read_rows(file, chunk.num_samples)
        files = dataset.all_files(samples)
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
