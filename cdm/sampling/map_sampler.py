"""Samples maps batch by batch: collates the inputs, pads batches on a GPU, and halves the batch
when the GPU's memory runs out.

`MapSampler` hands each batch to a runner of `cdm.sampling.runners`, which runs the loop.
"""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from cdm.config import Config
from cdm.datasets import Item, Sample
from cdm.errors import ConfigError
from cdm.jobs.log import Log
from cdm.jobs.progress import Progress
from cdm.kernels.selective_scan import resolve_backend
from cdm.model.cdm import CDM
from cdm.model.point_features import explain_columns
from cdm.noise import stream_key
from cdm.sampling import cuda_sampler
from cdm.sampling.batches import Batch
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.runners import Captured, Inputs, Plain
from cdm.sampling.samplers import sampler_updates


class MapSampler:
    """Samples maps with one model and one sampler.

    On a GPU a short batch is padded with copies of its last map. Then every matrix product of a
    run has the same shape, and a map does not depend on the size of its batch. On the CPU the
    model computes every map on its own, so no padding is needed. When the GPU's memory runs out,
    the batch is halved until it fits.

    Args:
        model: on its device, in eval mode.
        config: sections `diffusion` and `sampling`, and the seed.
        features: text feature of every caption, (text_feat_dim,) float32.
        device: torch device name.
        log: receives a line on how the model runs, and a warning when the batch is halved.
    """

    def __init__(
        self,
        model: CDM,
        config: Config,
        features: dict[str, torch.Tensor],
        device: str,
        log: Log = lambda line: None,
    ):
        self.model, self.config, self.features, self.device = model, config, features, device
        self.log = log
        self.batch_size = config.sampling.batch_size
        self.diffusion = create_diffusion(
            config.diffusion.steps,
            config.diffusion.noise_schedule,
            config.diffusion.timestep_respacing,
        )
        self._on_gpu = device != "cpu"
        self._gpu_s = 0.0
        obstacle = cuda_sampler.unavailable(device)
        self._can_capture = obstacle is None
        updates = sampler_updates(config.sampling.method, self.diffusion, config.sampling.eta)
        runner = Captured if self._can_capture else Plain
        self._runner = runner(model, self.diffusion, updates)
        log(self._how_the_model_runs())
        if self._on_gpu and obstacle:
            log(f"slower than it could be: {obstacle}")

    def collate(self, batch: list[tuple[Sample, Item, int]]) -> Batch:
        """Put the inputs of maps (sample, item, k) together; may run in another thread.

        Raises:
            ConfigError: an item's point features do not fit the model.
        """
        keys = [
            stream_key(self.config.seed, "noise", s.set, s.index, s.caption_idx, k)
            for s, _, k in batch
        ]
        c_pc_feat = None
        if self.model.architecture.point_feat_dim:
            c_pc_feat = self._stack([self._point_feat(item) for _, item, _ in batch])
        return Batch(
            keys=self._stack(np.asarray(keys, np.int64)),
            c_text=torch.stack([self.features[sample.text] for sample, _, _ in batch]),
            c_pc_xyz=self._stack([item.c_pc_xyz for _, item, _ in batch]),
            c_pc_feat=c_pc_feat,
        )

    def warm_up(self, batch: Batch) -> None:
        """On a GPU, compile, capture and allocate now what the first batch would wait for."""
        if self._can_capture:
            self._halving_on_oom(
                lambda: self._runner.prepare(self._inputs(batch.part(0, self.batch_size)))
            )
            torch.cuda.synchronize(self.device)

    def start(self, batch: Batch, progress: Progress) -> Callable[[], np.ndarray]:
        """Start to sample a batch; on a GPU this returns before the last maps are done.

        Returns:
            a function that waits for x_0, (len(batch), num_points, contact_dim) float32, in the
            items' point order.
        Raises:
            ConfigError: the GPU's memory does not suffice for a single map.
        """
        parts, begin = [], 0
        while begin < len(batch):
            parts.append(self._halving_on_oom(partial(self._start, batch, begin, progress)))
            begin += parts[-1].size
            progress.done(parts[-1].size)
        return lambda: np.concatenate([self._wait(part) for part in parts])

    def sample(self, batch: list[tuple[Sample, Item, int]], progress: Progress) -> np.ndarray:
        """x_0 of maps (sample, item, k), in the items' point order.

        Returns:
            (len(batch), num_points, contact_dim) float32.
        """
        return self.start(self.collate(batch), progress)()

    def close(self) -> None:
        """Wait until all maps have left the device, then free its memory; nothing starts after it.

        Maps that were started can still be asked for: they lie in main memory now.
        """
        if self._on_gpu:
            torch.cuda.synchronize(self.device)
        self._runner.forget()
        del self.model, self._runner, self.features
        if self._on_gpu:
            gc.collect()  # a graph and the modules it captured may refer to each other
            torch.cuda.empty_cache()

    def gpu_busy(self, seconds: float) -> float | None:
        """The fraction of these seconds that the GPU spent on batches; None on a CPU."""
        return round(min(1.0, self._gpu_s / seconds), 4) if self._on_gpu and seconds else None

    def _start(self, batch: Batch, begin: int, progress: Progress) -> "_Part":
        """Start the maps from `begin` on, at most batch_size of them."""
        part = batch.part(begin, begin + self.batch_size)
        progress.start_batch(self.diffusion.num_timesteps, len(part))
        if not self._on_gpu:
            return _Part(len(part), self._runner.run(self._inputs(part), progress.step).float())
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        x_0 = self._runner.run(self._inputs(part), progress.step)
        x_0 = x_0[: len(part)].float()  # without the padding
        host = torch.empty(x_0.shape, dtype=x_0.dtype, pin_memory=True)
        host.copy_(x_0, non_blocking=True)
        ended.record()
        return _Part(len(part), host, began, ended)

    def _wait(self, part: "_Part") -> np.ndarray:
        if part.began is not None and part.ended is not None:
            part.ended.synchronize()
            self._gpu_s += part.began.elapsed_time(part.ended) / 1e3
        return part.x_0.numpy()

    def _inputs(self, part: Batch) -> Inputs:
        """keys, c_text, c_pc_xyz and c_pc_feat on the device, padded to batch_size on a GPU."""
        missing = self.batch_size - len(part) if self._on_gpu else 0

        def place(x):
            if x is None:
                return None
            x = x.to(self.device, non_blocking=True)
            return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x

        return tuple(map(place, (part.keys, part.c_text, part.c_pc_xyz, part.c_pc_feat)))

    def _halving_on_oom(self, function: Callable):
        """The result of function(), called again with half the batch while memory runs out."""
        halved = False
        while True:
            try:
                with self._current_device():
                    result = function()
                break
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise ConfigError(
                        f"out of memory with a single map of {self.config.dataset.num_points} "
                        f"points on {self.device}{self._memory()}; free the GPU of other programs "
                        "(nvidia-smi lists them) or use a larger one. Finished chunks are kept"
                    ) from None
            # Outside the except block, because the exception's traceback holds tensors.
            self._runner.forget()
            if self._on_gpu:
                torch.cuda.empty_cache()
            self.batch_size = self.batch_size // 2
            halved = True
        if halved:
            self.log(
                f"warning: out of GPU memory with batch_size {self.config.sampling.batch_size}; "
                f"going on with {self.batch_size}, which fits. To start with that: --config "
                f"'sampling={{batch_size: {self.batch_size}}}' (finished chunks are kept)"
            )
        return result

    def _point_feat(self, item: Item) -> np.ndarray:
        try:
            self.model.check(item.c_pc_feat)
        except ValueError as problem:
            name = f"{item.sample.set}/{item.sample.index}"
            raise ConfigError(explain_columns(problem, name, self.config)) from None
        return item.c_pc_feat

    def _how_the_model_runs(self) -> str:
        """A line for the log: architecture, precision, and which selective scan is used."""
        model = self.model
        line = f"model: {model.architecture.arch} in {model.precision}"
        if model.contact_model.scans:
            backend = resolve_backend(self.device, torch.float32)
            scan = "the project's fused kernels" if self._can_capture else backend
            line += f", selective scan by {scan}"
        if model.scene_model is not None:
            line += ", point features by the frozen scene model in fp32"
        return line

    def _current_device(self):
        """Make the sampler's GPU torch's current device: events and pinned memory belong to it."""
        return torch.cuda.device(self.device) if self._on_gpu else nullcontext()

    def _memory(self) -> str:
        if not self._on_gpu:
            return ""
        free, total = torch.cuda.mem_get_info(self.device)
        return f" ({free / 2**30:.1f} of {total / 2**30:.1f} GB are free)"

    def _stack(self, arrays) -> torch.Tensor:
        x = torch.from_numpy(np.stack(arrays))
        return x.pin_memory() if self._on_gpu else x


@dataclass(frozen=True)
class _Part:
    """Maps that the device is sampling: x_0 in main memory is complete once `ended` has passed."""

    size: int
    x_0: torch.Tensor
    began: torch.cuda.Event | None = None
    ended: torch.cuda.Event | None = None
