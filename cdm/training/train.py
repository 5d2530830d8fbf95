"""Trains a CDM. A training that is stopped goes on from what it saved last.

The default recipe is afford-motion's: AdamW, a constant learning rate of 1e-4, uniform timesteps,
and the squared error of x_0 (Ho et al. 2020, eq. 14, with x_0 in place of the noise; Wang et al.
2024). Every random number is a function of the seed and the step, so a stopped and resumed training
gives the same weights as an undisturbed one.
"""

import contextlib
import csv
import io
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cdm.config import Config
from cdm.datasets.statistics import (
    Statistics,
    find_statistics,
    load_statistics,
    save_statistics,
)
from cdm.errors import CDMError, CheckpointError, ConfigError, DataError
from cdm.files import digest, sole_writer, write_bytes
from cdm.jobs.device import choose_device, device_name
from cdm.jobs.every import Every
from cdm.jobs.log import Log, signals_wait
from cdm.model.architecture import Architecture
from cdm.model.checkpoint import inspect_scene_model
from cdm.model.point_features import columns_to_read
from cdm.model.scene_model import load_scene_model
from cdm.model.text import load_text_encoder
from cdm.model.text_probe import PROBE, probe_of
from cdm.model.text_weights import find_text_weights
from cdm.run.dataset import open_dataset
from cdm.training.beginning import (
    Beginning,
    check_batches,
    describe_beginning,
    dropout_to_train,
    find_beginning,
    initial_weights,
)
from cdm.training.items import TrainingItems, read_training_items
from cdm.training.record import (
    check_may_go_on,
    check_same_encoder,
    check_same_scene_model,
    finished_path,
    record_settings,
    write_finished,
)
from cdm.training.trainer import Trainer, save_tensors

LOG_EVERY_S = 10.0
SAVE_EVERY_S = 120.0  # SIGKILL or a power cut loses at most so much
RESIDENT = 0.5  # items are kept on the GPU if they take less than this share of its free memory


def train(config: Config, log: Log, threads: int = 1) -> Path:
    """Train until `training.steps`, from where an earlier call was stopped.

    It writes into the run's folder:
        ckpt/model{step:06}.pt: weights in afford-motion's form; averaged over the steps if
            `training.ema_decay` is set.
        ckpt/training.pt: what a stopped training goes on from. It is also written every
            SAVE_EVERY_S seconds and at a signal.
        Mean_Std_*.npz: the statistics. Sampling finds them there by itself.
        training/settings.json: the settings, with which a plan compares its own.
        training/loss.csv, training/loss.png: the loss curve.
        training/finished-{key}.json: written last.

    Returns:
        Path of the last model.
    Raises:
        ArchiveError: another process trains in this folder.
        CDMError: bad items, other settings than those of the training to go on from, a loss that
            is not finite, too little memory.
    """
    # A job whose Snakemake was killed may go on; both would write into the same files.
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder / "ckpt"):
        return _train(config, log, threads)


def _train(config: Config, log: Log, threads: int) -> Path:
    """`train`, while this process alone trains there."""
    # What is trained, and whether it may go on here; both are known before an item is read.
    torch.set_num_threads(threads)
    dataset = replace(config.dataset, phase="train", captions="all", max_items=None)
    config = replace(config, dataset=dataset)
    check_may_go_on(config)
    beginning = find_beginning(config)
    architecture = beginning.architecture
    check_batches(config, architecture)
    text = config.model.text_model
    find_text_weights(text.version, text.path, architecture.text_feat_dim)
    scene_weights = inspect_scene_model(config, architecture.point_feat_dim)
    check_same_scene_model(config, scene_weights)
    dropout = dropout_to_train(config, architecture.arch)
    finished = finished_path(config)

    # Items and their captions. The device comes after the workers that read, which are forked.
    items, statistics, written = _load_items(config, architecture, threads, log)
    device = choose_device(config.gpu, log)
    probe = _encode(items, config, architecture, device)
    _place(items, device, log)

    # The model, as it is after the last step that was saved.
    trained_on = {
        "items of phase train": items.content,
        "mean and std": f"of content {digest(statistics.numbers())}",
    }
    trainer, resumed = _make_trainer(
        beginning, scene_weights, dropout, trained_on, config, device, log
    )
    if not (resumed and written.exists()):
        save_statistics(written, statistics)
    changes = record_settings(config, trainer.step, beginning.record(), scene_weights, probe)
    for line in _headlines(trainer, len(items), resumed, dropout, changes):
        log(line)

    # The steps that are left.
    path = _model_path(config, trainer.step)
    with signals_wait() as let_signals_through:
        path = _run(trainer, items, config, log, let_signals_through) or path
    if not path.exists():  # the training was finished, and its last model was removed later
        path = _save(trainer, config, log)
    write_finished(finished, config, path, items.listing)
    return path


def _headlines(trainer: Trainer, num_items: int, resumed: bool, dropout: float, changes: list[str]):
    """Lines for the log: what is new in the recipe, and what is trained."""
    training = trainer.config.training
    yield from (f"from step {trainer.step} on: {change}" for change in changes)
    yield (
        f"training {trainer.architecture.arch} ({trainer.num_parameters:,} parameters) on "
        f"{device_name(trainer.device)} in {trainer.model.precision}: {num_items} items, steps "
        f"{trainer.step} to {training.steps}{' (resumed)' if resumed else ''}, batches of "
        f"{training.batch_size}{f', dropout {dropout}' if dropout else ''}"
    )


def _run(trainer: Trainer, items, config: Config, log: Log, let_signals_through) -> Path | None:
    """Take all steps that are left; returns the path of the last model written."""
    training, path = config.training, None
    first, began = trainer.step, time.perf_counter()
    next_line, next_save = Every(LOG_EVERY_S), Every(SAVE_EVERY_S)
    due = first > 0 and first % training.checkpoint_every == 0
    if due and not _model_path(config, first).exists():
        path = _save(trainer, config, log)  # it was killed between the state and the model
    while trainer.step < training.steps:
        # One step of the optimiser.
        try:
            batch = items.batch(trainer.step, training.batch_size, config.seed)
            trainer.train_step(batch)
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"out of GPU memory with training.batch_size {training.batch_size}; halve it and "
                "start snakemake again, it goes on from what was saved last"
            ) from None
        finished = trainer.step == training.steps

        # A line in the log.
        if next_line.due() or finished:
            rate = (trainer.step - first) / (time.perf_counter() - began)
            left = (training.steps - trainer.step) / rate
            loss = trainer.recent_loss()
            log(
                f"step {trainer.step}/{training.steps}: loss {loss:.4f}, {rate:.2f} steps/s, "
                f"{left / 60:.1f} min left"
            )
            _check_loss(loss, trainer.step)

        # A model that is kept, or only what is needed to go on.
        if finished or trainer.step % training.checkpoint_every == 0:
            path = _save(trainer, config, log)
            next_save.restart()
        elif next_save.due():
            _save_state(trainer, config)

        # A signal that came during the step.
        try:
            let_signals_through()
        except BaseException:
            _save_state(trainer, config)
            log(f"saved at step {trainer.step}, to go on from there")
            raise
    return path


def _make_trainer(
    beginning: Beginning,
    scene_weights: dict[str, Any] | None,
    dropout: float,
    trained_on: dict[str, str],
    config: Config,
    device: str,
    log: Log,
) -> tuple[Trainer, bool]:
    """The trainer as the training left it, or with the weights that it begins with.

    Args:
        scene_weights: as from `inspect_scene_model`.
        trained_on: as of `Trainer`.
    Returns:
        The trainer, and whether it goes on.
    Raises:
        CheckpointError: it cannot go on, or more steps are done than configured.
    """
    # The weights that it begins with, and the frozen scene model.
    path, weights, scene_model = _state_path(config), None, None
    if beginning.path is not None and not path.exists():
        for line in describe_beginning(beginning, config, scene_weights):
            log(line)
        weights = initial_weights(beginning, config)
    if scene_weights is not None:
        scene_path = Path(scene_weights["path"])
        scene_model = load_scene_model(scene_path, scene_weights["sha256"]).to(device)
        log(f"point features by the frozen scene model {scene_path}, in fp32")

    # The trainer, and where it was stopped.
    trainer = Trainer(
        config, beginning.architecture, device, weights, dropout, scene_model, trained_on
    )
    resumed = trainer.resume(path)
    if trainer.step > config.training.steps:
        raise CheckpointError(
            f"{path}: is at step {trainer.step}, but training.steps is "
            f"{config.training.steps}: set training.steps: {trainer.step} or more, or give a new "
            "exp_name"
        )
    return trainer, resumed


def _load_items(
    config: Config, architecture: Architecture, threads: int, log: Log
) -> tuple[TrainingItems, Statistics, Path]:
    """Read the items, and normalise their contact by statistics that belong beside ckpt/."""
    dataset = open_dataset(config, architecture.point_feat_dim)
    columns = columns_to_read(config, architecture.point_feat_dim)
    readers = min(threads, len(os.sched_getaffinity(0)))  # more would only wait for a core
    log(f"reading the items of phase train with {readers} process(es)")
    began = time.perf_counter()
    items = read_training_items(dataset, columns, readers, log)
    log(
        f"read {len(items)} items in {time.perf_counter() - began:.0f} s, "
        f"{items.num_bytes / 2**30:.2f} GB"
    )
    # The statistics of a training that took no step are of no model: its data may have changed.
    name = dataset.statistics_name()
    written = Path(config.run_dir, name)
    begun = _state_path(config).exists()
    statistics = find_statistics(dataset, config.run_dir if begun else None)
    if statistics is None:
        statistics = items.statistics(f"{name} computed from {len(items)} items")
    if begun and written.exists():
        there = load_statistics(written, config.dataset.contact_dim)
        if there.numbers() != statistics.numbers():
            raise DataError(
                f"{written}: a training here began with these statistics, and {statistics.source} "
                "holds other ones; set dataset.statistics: null, or give a new exp_name"
            )
    items.normalise(statistics)
    if dataset.rotates:
        items.gravity_dim = dataset.gravity_dim
    return items, statistics, written


def _encode(
    items: TrainingItems, config: Config, architecture: Architecture, device: str
) -> list[float] | None:
    """Encode the captions; returns what the record tells of the encoder, if it has weights.

    Raises:
        CheckpointError: a training that is there had another encoder.
    """
    text = config.model.text_model
    width = architecture.text_feat_dim
    encoder = load_text_encoder(text.version, text.max_length, width, text.path, device)
    probe = None
    if text.version != "hashing":
        probe = probe_of(encoder([PROBE])[0].cpu())
    check_same_encoder(config, probe)
    items.encode(encoder, device)
    return probe


def _place(items: TrainingItems, device: str, log: Log) -> None:
    if device == "cpu":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if items.num_bytes < RESIDENT * free:
        items.to(device)
    else:
        log("the items stay in main memory: they would take more than half of the GPU's")


def _check_loss(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise CDMError(
            f"the loss is {loss} at step {step}; lower training.lr, set training.grad_clip: 1, or "
            "training.precision: fp32. Checkpoints written before are kept"
        )


def _state_path(config: Config) -> Path:
    return Path(config.run_dir, "ckpt", "training.pt")


def _model_path(config: Config, step: int) -> Path:
    return Path(config.run_dir, "ckpt", f"model{step:06}.pt")


def _save_state(trainer: Trainer, config: Config) -> None:
    _check_loss(trainer.recent_loss(), trainer.step)
    trainer.save(_state_path(config))


def _save(trainer: Trainer, config: Config, log: Log) -> Path:
    """Write the state to go on from, the model, and the loss curve, each whole or not at all."""
    _save_state(trainer, config)
    path = _model_path(config, trainer.step)
    save_tensors(trainer.state_dict(), path)
    _write_curve(trainer.curve, Path(config.run_dir, "training"))
    log(f"step {trainer.step}: {path} written")
    return path


def _write_curve(curve: list[list[float]], folder: Path) -> None:
    """Write loss.csv and, where matplotlib is installed, loss.png."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([["step", "loss"], *curve])
    write_bytes(folder / "loss.csv", table.getvalue().encode())
    with contextlib.suppress(ImportError):
        from cdm.evaluation.plots import plot_loss  # matplotlib takes a while

        plot_loss(curve, folder / "loss.png")
