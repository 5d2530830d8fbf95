"""One chunk: items -> text features -> sampler -> archive."""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdm.archive import OK, SKIPPED, ChunkRecord, Layout, write_chunk
from cdm.checkpoint import load_state_dict
from cdm.config import DEMO, Config
from cdm.contact import to_distance
from cdm.contents import ITEMS, STATISTICS, TEXT_MODEL, is_named_for
from cdm.datasets import FileReader, Item, Sample
from cdm.device import choose_device
from cdm.diffusion import create_diffusion
from cdm.errors import ArchiveError, BadItem
from cdm.files import hash_file
from cdm.kernels import philox
from cdm.kernels.selective_scan import resolve_backend
from cdm.model import CDM
from cdm.noise import stream_key
from cdm.plan import Chunk, Plan, open_dataset, read_samples
from cdm.progress import Clock, Heartbeat, Progress
from cdm.sampler import SAMPLERS
from cdm.serialization import gather_points
from cdm.statistics import Statistics, load_statistics
from cdm.text import find_text_weights, load_text_encoder

Log = Callable[[str], None]


def generate_chunk(
    plan: Plan, chunk: Chunk, log: Log, threads: int = 1, heartbeat: Heartbeat | None = None
) -> ChunkRecord:
    """Sample every item of one chunk and write its store and record.

    Args:
        plan: as the run's start wrote it.
        chunk: one of the plan's.
        log: gets one line of text at a time.
        threads: CPU threads to use.
        heartbeat: told how far the chunk is.
    Returns:
        The record, as written.
    Raises:
        CDMError: a bad item (with `dataset.on_bad_item: fail`), a checkpoint or file that changed
            since the plan, a full disk. Nothing of the chunk is left then.
    """
    config, clock = plan.config, Clock()
    torch.set_num_threads(threads)
    with clock("load"):
        samples = read_samples(plan, chunk)
        statistics = planned_statistics(plan)
        dataset = open_dataset(config, plan.architecture.point_feat_dim)
        reader = FileReader(config.data_dir)
        device = choose_device(config.gpu, log)
        log(f"chunk {chunk.name}: {len(samples)} samples on {device_name(device)}")
        if config.exp_dir == DEMO:
            log("the demo's weights are UNTRAINED: these maps mean nothing")
    with clock("text"):
        features = encode_texts(plan, [sample.text for sample in samples], device)
    with clock("model"):
        model = load_model(plan, device)
        backend = resolve_backend(device, torch.float32)
        log(f"model: {plan.architecture.arch}, selective scan by {backend}")

    sampler = MapSampler(model, config, features, device)
    layout = Layout(
        num_samples=len(samples),
        chunk_size=config.workflow.chunk_size,
        k_samples=config.sampling.k_samples,
        num_points=config.dataset.num_points,
        contact_dim=plan.architecture.contact_dim,
        dtype=config.workflow.dtype,
    )
    arrays = layout.empty()
    reasons: dict[int, str] = {}
    good = load_items(dataset, samples, reader, config, reasons, log)
    maps = ((row, item, k) for row, item in good for k in range(layout.k_samples))
    progress = Progress(len(samples) * layout.k_samples, f"chunk {chunk.name}", log, heartbeat)
    with clock("sample"), torch.inference_mode():
        for batch in batches(maps, config.sampling.batch_size):
            x = sampler.sample([(samples[row], item, k) for row, item, k in batch], progress)
            for (row, item, k), x_0 in zip(batch, x, strict=True):
                if not np.isfinite(x_0).all():
                    problem = BadItem(
                        f"{_name(samples[row])}: the model gave NaN or infinity; look at its "
                        "points and at the checkpoint, or set dataset.on_bad_item to skip"
                    )
                    _skip_or_raise(problem, row, config, reasons, log)
                    continue
                arrays["sample"][row, k] = x_0
                arrays["distance"][row, k] = to_distance(
                    x_0,
                    statistics.mean,
                    statistics.std,
                    config.dataset.sigma,
                    config.dataset.use_raw_dist,
                )
                arrays["points"][row] = item.c_pc_xyz
                arrays["scene_trans"][row] = item.info_scene_trans
                arrays["aug_trans"][row] = item.info_aug_trans
            progress.done(len(batch))
    for row in reasons:
        for values in arrays.values():
            values[row] = np.nan

    contents = read_contents(plan, dataset, samples, reader)
    if not is_named_for(chunk.fingerprint, chunk.base, contents):
        raise ArchiveError(
            f"chunk {chunk.name}: an item was edited after this run was planned. Start snakemake "
            "again; finished chunks are kept"
        )
    record = ChunkRecord(
        name=chunk.name,
        base=chunk.base,
        layout=layout,
        samples=[_sample_row(sample, reasons.get(row)) for row, sample in enumerate(samples)],
        contents=contents,
        provenance=provenance(plan, statistics, device),
        seconds=clock.seconds,
    )
    store = Path(config.run_dir, "chunks", f"{chunk.name}.zarr")
    started = time.perf_counter()
    record = write_chunk(store, arrays, record)
    seconds = time.perf_counter() - started
    rate = layout.num_samples * layout.k_samples / clock.seconds["sample"]
    log(
        f"chunk {chunk.name}: {layout.num_samples - len(record.skipped)} samples written in "
        f"{seconds:.1f} s, {len(record.skipped)} skipped; {rate:.2f} maps/s while sampling, "
        f"{sum(clock.seconds.values()) + seconds:.1f} s in all -> {store}"
    )
    return record


def planned_statistics(plan: Plan) -> Statistics:
    """The normalisation statistics, which must be those the plan saw."""
    statistics = load_statistics(plan.statistics["path"], plan.config.dataset.contact_dim)
    planned = plan.statistics["values"]
    if planned and planned != statistics.numbers():
        raise ArchiveError(
            f"{plan.statistics['path']}: changed since the run was planned; start snakemake again, "
            "finished chunks are kept"
        )
    return statistics


def encode_texts(plan: Plan, texts: list[str], device: str) -> dict[str, torch.Tensor]:
    """Each distinct caption's feature, (text_feat_dim,) float32; the encoder is freed again."""
    text_model = plan.config.model.text_model
    encode = load_text_encoder(
        text_model.version,
        text_model.max_length,
        plan.architecture.text_feat_dim,
        text_model.path,
        device,
    )
    distinct = sorted(set(texts))
    with torch.inference_mode():
        return dict(zip(distinct, encode(distinct), strict=True))


def load_model(plan: Plan, device: str) -> CDM:
    """The checkpoint's CDM, every key loaded, on a device."""
    model = CDM(plan.architecture, precision=plan.config.sampling.precision)
    state = load_state_dict(Path(plan.checkpoint["path"]), plan.checkpoint["sha256"])
    model.load_state_dict(state, strict=True)
    return model.to(device).eval()


def load_items(
    dataset, samples: list[Sample], reader: FileReader, config: Config, reasons: dict, log: Log
) -> Iterator[tuple[int, Item]]:
    """(row, item) of every usable sample; with `on_bad_item: skip` reasons of the others."""
    for row, sample in enumerate(samples):
        try:
            yield row, dataset.load(sample, reader)
        except BadItem as problem:
            _skip_or_raise(problem, row, config, reasons, log)


def _skip_or_raise(problem: BadItem, row: int, config: Config, reasons: dict, log: Log) -> None:
    if config.dataset.on_bad_item == "fail":
        raise problem
    if row not in reasons:
        log(f"skipped: {problem}")
    reasons[row] = str(problem)


def batches(maps: Iterator, batch_size: int) -> Iterator[list]:
    """Lists of at most batch_size maps."""
    batch = []
    for entry in maps:
        batch.append(entry)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


class MapSampler:
    """Draws maps with one model and one sampler.

    Args:
        model: on its device, in eval mode.
        config: sections `diffusion` and `sampling`, and the seed.
        features: text feature of every caption, (text_feat_dim,) float32.
        device: torch device name.
    """

    def __init__(self, model: CDM, config: Config, features: dict[str, torch.Tensor], device: str):
        self.model, self.config, self.features, self.device = model, config, features, device
        diffusion = config.diffusion
        self.diffusion = create_diffusion(
            diffusion.steps, diffusion.noise_schedule, diffusion.timestep_respacing
        )

    def sample(self, batch: list[tuple[Sample, Item, int]], progress: Progress) -> np.ndarray:
        """x_0 of a batch of (sample, item, k), in the items' point order.

        A short batch is padded with its last map on a GPU, so that every matrix product of a run
        has one shape and a map does not depend on what it is batched with. On the CPU the model
        computes every map on its own.

        Returns:
            (len(batch), num_points, contact_dim) float32.
        """
        sampling = self.config.sampling
        padding = 0 if self.device == "cpu" else sampling.batch_size - len(batch)
        padded = batch + [batch[-1]] * padding
        c_text = torch.stack([self.features[sample.text] for sample, _, _ in padded])
        c_pc_xyz = self._stack([item.c_pc_xyz for _, item, _ in padded])
        c_pc_feat = None
        if self.model.architecture.point_feat_dim:
            c_pc_feat = self._stack([item.c_pc_feat for _, item, _ in padded])
        denoise = self.model.condition(c_text, c_pc_xyz, c_pc_feat)

        keys = [
            stream_key(self.config.seed, "noise", s.set, s.index, s.caption_idx, k)
            for s, _, k in padded
        ]
        keys = philox.device_keys(keys, self.device)
        shape = c_pc_xyz.shape[1], self.model.architecture.contact_dim

        def noise(step: int) -> torch.Tensor:
            values = philox.normal(keys, step, *shape, self.device)
            return values if denoise.order is None else gather_points(values, denoise.order)

        progress.start_batch(self.diffusion.num_timesteps, len(batch))
        loop = SAMPLERS[sampling.method]
        x_0 = loop(denoise, self.diffusion, noise, eta=sampling.eta, callback=progress.step)
        if denoise.inverse is not None:
            x_0 = gather_points(x_0, denoise.inverse)
        return x_0[: len(batch)].float().cpu().numpy()

    def _stack(self, arrays: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self.device)


def read_contents(plan: Plan, dataset, samples: list[Sample], reader: FileReader) -> dict:
    """Size, mtime and sha256 of everything that decided the chunk's numbers, by group."""
    folder = Path(plan.config.data_dir)
    names = sorted({name for sample in samples for name in dataset.files(sample)})
    text_model = plan.config.model.text_model
    weights = find_text_weights(text_model.version, text_model.path)
    computed = [Path(plan.statistics["path"])] if plan.statistics["computed"] else []
    return {
        ITEMS: {name: reader.contents.get(name) or _content(folder / name) for name in names},
        TEXT_MODEL: {path.name: _content(path) for path in weights},
        STATISTICS: {path.name: _content(path) for path in computed},
    }


def _content(path: Path) -> dict[str, Any] | None:
    try:
        found = path.stat()
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": hash_file(path)}
    except OSError:
        return None  # a skipped item whose file is not there


def provenance(plan: Plan, statistics: Statistics, device: str) -> dict[str, Any]:
    """Where the numbers come from: the archive's attributes."""
    return {
        "config": plan.config.as_dict(),
        "settings": plan.settings,
        "checkpoint": plan.checkpoint,
        "architecture": asdict(plan.architecture),
        "statistics": {
            "path": plan.statistics["path"],
            **statistics.numbers(),
            "sigma": plan.config.dataset.sigma,
        },
        "device": device_name(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "zarr": sys.modules["zarr"].__version__,
        },
    }


def device_name(device: str) -> str:
    """The device as people call it."""
    if device == "cpu":
        return f"CPU ({torch.get_num_threads()} thread(s))"
    return torch.cuda.get_device_name(device)


def _name(sample: Sample) -> str:
    return f"{sample.set}/{sample.index} caption {sample.caption_idx}"


def _sample_row(sample: Sample, reason: str | None) -> dict[str, Any]:
    row = {
        "set": sample.set,
        "index": sample.index,
        "caption_idx": sample.caption_idx,
        "text": sample.text,
        "scene_id": sample.scene_id,
        "status": SKIPPED if reason else OK,
    }
    return row | {"reason": reason} if reason else row
