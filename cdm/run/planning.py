"""How a plan is made (no torch)."""

from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from cdm.config import Config, TextModelConfig
from cdm.datasets import Dataset, Sample, stat_files
from cdm.datasets.statistics import computed_statistics_path, find_statistics
from cdm.errors import DataError, NoCheckpoint, NotTrained
from cdm.files import digest
from cdm.model.architecture import Architecture
from cdm.model.checkpoint import (
    Checkpoint,
    find_checkpoint,
    inspect_checkpoint,
    inspect_scene_model,
)
from cdm.model.point_features import check_configuration, check_dataset_columns
from cdm.model.text_weights import find_text_weights
from cdm.model.training_record import check_sampled_as_trained, check_scene_model_as_trained
from cdm.run.dataset import open_dataset
from cdm.run.folders import check_folders
from cdm.run.inputs import InputResolver
from cdm.run.notes import plan_notes
from cdm.run.plan import Chunk, Plan, PlannedFile, PlannedStatistics, base_fingerprint
from cdm.run.plan_files import read_last_plan, read_plan_for
from cdm.run.sizes import AUTO, choose_chunk_size, chunk_size_in_use, with_sizes
from cdm.run.table import table_header, table_rows
from cdm.sampling.diffusion import create_diffusion

# Raised whenever the numbers a given configuration produces change.
NUMERICS_VERSION = 3


def make_plan(config: Config) -> tuple[Plan, list[Sample]]:
    """List the samples, check every input that can be checked without a GPU, and name the chunks.

    It writes nothing and removes nothing, so that `snakemake -n` and `cdm why` may call it.
    `cdm.run.plan_files.save_plan` writes the plan once a run starts.

    Returns:
        The plan and its samples, in the order of the archive.
    Raises:
        CheckpointError, DataError, ConfigError, ArchiveError: in seconds, with the path that was
            looked at.
    """
    # Where the run lies.
    check_folders(config.run_dir)

    # Weights.
    check_configuration(config)
    checkpoint, scene_model, text_weights = _find_weights(config)

    # Samples, and the files they are read from.
    dataset = open_dataset(config, checkpoint.architecture.point_feat_dim)
    samples = dataset.samples()
    if not samples:
        raise DataError(f"{config.data_dir}: no samples in phase {config.dataset.phase}")
    files = dataset.all_files(samples)
    states = {} if config.is_demo_data else stat_files(dataset, chain.from_iterable(files))

    # What decides every chunk's numbers.
    statistics = _plan_statistics(config, dataset, checkpoint.path.parents[1])
    identity = make_identity(
        config,
        checkpoint.architecture,
        checkpoint.sha256,
        scene_model.sha256 if scene_model else None,
        statistics,
        dataset.rotates,
    )

    # Chunks.
    resolver = InputResolver(config, text_weights, statistics, states)
    size, kept = _chunk_size(config, checkpoint.architecture, identity, len(samples), resolver)
    identity["chunk_size"] = size
    config, auto = with_sizes(config, size)
    chunks = tuple(_name_chunks(size, samples, files, identity, resolver))
    plan = Plan(
        config=config,
        architecture=checkpoint.architecture,
        checkpoint=PlannedFile(str(checkpoint.path), checkpoint.sha256, checkpoint.read_as),
        scene_model=scene_model,
        statistics=statistics,
        identity=identity,
        chunks=chunks,
        dropped=dataset.dropped,
        notes=_notes(config, checkpoint, dataset, samples, statistics) | kept,
        file_hashes=resolver.hashes,
        motions=dataset.motions,
        finished=resolver.finished,
        auto=auto,
    )
    return plan, samples


def load_plan(config: Config) -> Plan:
    """The plan that the run's start wrote; made again if that one cannot be used.

    It cannot be used if it is missing, was made from another configuration or by another version,
    or was edited since it was written.
    """
    return read_plan_for(config) or make_plan(config)[0]


def _find_weights(config: Config) -> tuple[Checkpoint, PlannedFile | None, list[Path]]:
    """Checkpoint, scene model and text encoder, all of which fit the settings and the training."""
    path = _find_checkpoint(config)
    exp_dir = path.parents[1]
    check_sampled_as_trained(config, exp_dir)
    checkpoint = inspect_checkpoint(path, config)
    point_feat_dim = checkpoint.architecture.point_feat_dim
    check_dataset_columns(config, point_feat_dim)
    found = inspect_scene_model(config, point_feat_dim)
    check_scene_model_as_trained(config, exp_dir, found)
    scene_model = PlannedFile(**found) if found else None
    text_model, text_feat_dim = config.model.text_model, checkpoint.architecture.text_feat_dim
    text_weights = find_text_weights(text_model.version, text_model.path, text_feat_dim)
    return checkpoint, scene_model, text_weights


def _find_checkpoint(config: Config) -> Path:
    try:
        return find_checkpoint(config.checkpoint_dir)
    except NoCheckpoint:
        if Path(config.checkpoint_dir) != Path(config.run_dir):
            raise
        raise NotTrained(
            f"exp_dir is {config.exp_dir or 'null'}, and {config.run_dir} has no ckpt/model*.pt "
            "yet. Name the experiment folder that holds ckpt/model*.pt (--config "
            "exp_dir=outputs/my_exp), train one with these settings (snakemake train), or try the "
            "built-in weights (exp_dir=demo)"
        ) from None


def _plan_statistics(config: Config, dataset: Dataset, exp_dir: Path) -> PlannedStatistics:
    """The statistics that exist, or the path where a rule will put the computed ones."""
    found = find_statistics(dataset, exp_dir)
    if found is not None:
        return PlannedStatistics(found.source, found.numbers())
    items = dataset.statistics_samples()
    path = computed_statistics_path(dataset, items, config.run_dir)
    if not (config.is_demo_data or Path(path).exists()):
        stat_files(dataset, (dataset.files(item)[0] for item in items))
    return PlannedStatistics(path, None, dataset.statistics_origin())


def _notes(
    config: Config,
    checkpoint: Checkpoint,
    dataset: Dataset,
    samples: list[Sample],
    statistics: PlannedStatistics,
) -> dict[str, str]:
    left_by_training = Path(statistics.path).parent == checkpoint.path.parents[1]
    return plan_notes(config, checkpoint.architecture, dataset, samples, left_by_training)


def _chunk_size(
    config: Config,
    architecture: Architecture,
    identity: dict[str, Any],
    num_samples: int,
    resolver: InputResolver,
) -> tuple[int, dict[str, str]]:
    """Samples per chunk, and a note for `Plan.notes` where a run keeps another size than ours."""
    if config.workflow.chunk_size != AUTO:
        return config.workflow.chunk_size, {}
    num_steps = len(identity["diffusion"][2])
    ours = choose_chunk_size(config, architecture, num_steps, num_samples)
    last = read_last_plan(config.run_dir)
    size = chunk_size_in_use(ours, identity, num_samples, last, resolver.read_all())
    told = f"{size}, as that of the chunks that this run has; auto would now take {ours}"
    return size, {} if size == ours else {"chunk size": told}


def _name_chunks(
    size: int,
    samples: list[Sample],
    files: list[list[str]],
    identity: dict[str, Any],
    resolver: InputResolver,
):
    """Cut the samples into chunks of `size` rows and name each."""
    identity_digest, offset = digest(identity), len(table_header())
    for number, start in enumerate(range(0, len(samples), size)):
        rows, row_files = samples[start : start + size], files[start : start + size]
        base = base_fingerprint(identity_digest, rows, row_files)
        fingerprint = resolver.fingerprint(number, base, row_files)
        yield Chunk(number, start, start + len(rows), base, fingerprint, offset)
        offset += len(table_rows(number, rows))


def make_identity(
    config: Config,
    architecture: Architecture,
    checkpoint_sha256: str,
    scene_model_sha256: str | None,
    statistics: PlannedStatistics,
    rotates: bool,
) -> dict[str, Any]:
    """All settings that can change a chunk's numbers, besides its rows and its files' content.

    Batch size, device and threads are not part of it. They change maps only within rounding, so a
    run may continue with a smaller batch or on another machine.
    """
    dataset, sampling, diffusion = config.dataset, config.sampling, config.diffusion
    point_feat_dim = architecture.point_feat_dim
    timesteps = create_diffusion(
        diffusion.steps, diffusion.noise_schedule, diffusion.timestep_respacing
    ).timestep_map
    identity = {
        "numerics_version": NUMERICS_VERSION,
        "seed": config.seed,
        "checkpoint": checkpoint_sha256,
        "model": {"arch": architecture.arch, **architecture.sizes},
        "scene_model": scene_model_sha256,
        "statistics": statistics.values or statistics.origin,
        "dataset": {
            "name": dataset.name,
            "data_repr": dataset.data_repr,
            "data_repr_joints": dataset.data_repr_joints,
            "use_raw_dist": dataset.use_raw_dist,
            "sigma": dataset.sigma,
            "num_points": dataset.num_points,
            "rotates": rotates,
        },
        "text_model": _text_identity(config.model.text_model),
        "point_feat": point_feat_dim and [point_feat_dim, dataset.use_color, dataset.use_openscene],
        "diffusion": [diffusion.steps, diffusion.noise_schedule, timesteps.tolist()],
        "sampling": {
            "method": sampling.method,
            "eta": sampling.eta,
            "k_samples": sampling.k_samples,
            "precision": sampling.precision,
        },
        "chunk_size": config.workflow.chunk_size,
        "dtype": config.workflow.dtype,
    }
    return orjson.loads(orjson.dumps(identity))  # tuples become the lists that records hold


def _text_identity(text_model: TextModelConfig) -> list:
    """Encoder and length. BERT once read two tokens more than `max_length`, which gave others."""
    cut_as_bert = text_model.version.startswith("bert") and text_model.max_length is not None
    counted = ["with [CLS] and [SEP]"] if cut_as_bert else []
    return [text_model.version, text_model.max_length, *counted]
