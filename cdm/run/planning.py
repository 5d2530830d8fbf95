"""How a plan is made (no torch)."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

from cdm.archive.store import store_path
from cdm.config import Config
from cdm.datasets import Dataset, Sample, stat_files
from cdm.datasets.statistics import find_statistics
from cdm.errors import DataError, NoCheckpoint, NotTrained
from cdm.model.checkpoint import find_checkpoint, inspect_checkpoint, inspect_scene_model
from cdm.model.point_features import check_configuration, check_dataset_columns
from cdm.model.text import find_text_weights
from cdm.run.contents import ContentResolver, digest
from cdm.run.dataset import open_dataset
from cdm.run.plan import Chunk, Plan, _header, _key, _plan_from, _tsv, base_fingerprint
from cdm.sampling.diffusion import space_timesteps

# Raised whenever the numbers a given configuration produces change.
NUMERICS_VERSION = 2


def make_plan(config: Config) -> tuple[Plan, list[Sample]]:
    """List the samples, check every input that can be checked without a GPU, and name the chunks.

    Returns:
        The plan and its samples, in the order of the archive.
    Raises:
        CheckpointError, DataError, ConfigError: in seconds, with the path that was looked at.
    """
    check_configuration(config)
    checkpoint_path = _find_checkpoint(config)
    checkpoint = inspect_checkpoint(checkpoint_path, config)
    check_dataset_columns(config, checkpoint.architecture.point_feat_dim)
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
        base = base_fingerprint(settings_digest, rows, row_files)
        fingerprint = resolver.fingerprint(number, base, row_files)
        chunks.append(Chunk(number, start, start + len(rows), base, fingerprint, offset))
        offset += len(_tsv(number, rows))
    resolver.save()
    plan = Plan(
        config=config,
        architecture=checkpoint.architecture,
        checkpoint=checkpoint.provenance(),
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
    except NoCheckpoint:
        if Path(config.checkpoint_dir) != Path(config.run_dir):
            raise
        raise NotTrained(
            f"exp_dir is {config.exp_dir or 'null'}, and {config.run_dir} has no ckpt/model*.pt "
            "yet. Name the experiment folder that holds ckpt/model*.pt (--config "
            "exp_dir=outputs/my_exp), train one with these settings (snakemake train), or try the "
            "built-in weights (exp_dir=demo)"
        ) from None


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


def load_plan(config: Config) -> Plan:
    """The plan the run's start wrote; made again where that is of another configuration."""
    try:
        content = json.loads(Path(config.run_dir, "plan", "plan.json").read_bytes())
        if content["key"] == _key(config):
            return _plan_from(content, config)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never planned, or by another version
    return make_plan(config)[0]
