"""Draws maps of a dataset's samples: batches, padding, and a GPU whose memory is too small."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from cdm.config import Config
from cdm.datasets import Item, Sample
from cdm.errors import ConfigError
from cdm.jobs.progress import Log, Progress
from cdm.kernels import philox
from cdm.kernels.selective_scan import resolve_backend
from cdm.model.cdm import CDM
from cdm.model.point_order import gather_points
from cdm.noise import stream_key
from cdm.sampling import cuda_sampler
from cdm.sampling.cuda_sampler import CudaSampler
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.samplers import SAMPLERS, UPDATES


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


@dataclass(frozen=True)
class Batch:
    """What a batch of maps is drawn from, in main memory; pinned when it goes to a GPU.

    Attributes:
        keys: (batch, 2) int64, of the noise.
        c_text: (batch, text_feat_dim) float32, where the model is.
        c_pc_xyz: (batch, num_points, 3) float32, metres.
        c_pc_feat: (batch, num_points, point_feat_dim) float32, or None.
    """

    keys: torch.Tensor
    c_text: torch.Tensor
    c_pc_xyz: torch.Tensor
    c_pc_feat: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, start: int, stop: int) -> "Batch":
        """Maps start to stop."""
        fields = self.keys, self.c_text, self.c_pc_xyz, self.c_pc_feat
        return Batch(*[None if x is None else x[start:stop] for x in fields])


class MapSampler:
    """Draws maps with one model and one sampler.

    On a GPU a short batch is padded with its last map, so that every matrix product of a run has
    one shape and a map does not depend on what it is batched with; on the CPU the model computes
    every map on its own. When the GPU's memory does not suffice, batches are halved until it
    does.

    Args:
        model: on its device, in eval mode.
        config: sections `diffusion` and `sampling`, and the seed.
        features: text feature of every caption, (text_feat_dim,) float32.
        device: torch device name.
        log: told how the model runs, and that batches were halved.
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
        diffusion = config.diffusion
        self.diffusion = create_diffusion(
            diffusion.steps, diffusion.noise_schedule, diffusion.timestep_respacing
        )
        self._on_gpu = device != "cpu"
        self._cuda_sampler: CudaSampler | None = None
        self._gpu_s = 0.0
        obstacle = cuda_sampler.unavailable(device)
        self._graphs = obstacle is None
        runs = f"model: {model.architecture.arch} in {model.precision}"
        if model.contact_model.scans:
            scan = "our fused kernels" if self._graphs else resolve_backend(device, torch.float32)
            runs += f", selective scan by {scan}"
        if model.scene_model is not None:
            runs += ", point features by the frozen scene model in fp32"
        log(runs)
        if self._on_gpu and obstacle:
            log(f"slower than it could be: {obstacle}")

    def gather(self, batch: list[tuple[Sample, Item, int]]) -> Batch:
        """What (sample, item, k) are drawn from; may run in another thread."""
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
        """On a GPU, make everything ready that the first batch would otherwise wait for."""
        if self._graphs:
            self._in_memory(lambda: self._graph(self._inputs(batch.part(0, self.batch_size))))
            torch.cuda.synchronize(self.device)

    def start(self, batch: Batch, progress: Progress) -> Callable[[], np.ndarray]:
        """Have a batch sampled; on a GPU this returns before the last maps are done.

        Returns:
            a function that waits for x_0, (len(batch), num_points, contact_dim) float32, in the
            items' point order.
        Raises:
            ConfigError: the GPU's memory does not suffice for a single map.
        """
        parts, begin = [], 0
        while begin < len(batch):
            parts.append(self._in_memory(partial(self._start, batch, begin, progress)))
            begin += parts[-1].size
            progress.done(parts[-1].size)
        return lambda: np.concatenate([self._wait(part) for part in parts])

    def sample(self, batch: list[tuple[Sample, Item, int]], progress: Progress) -> np.ndarray:
        """x_0 of a batch of (sample, item, k), in the items' point order.

        Returns:
            (len(batch), num_points, contact_dim) float32.
        """
        return self.start(self.gather(batch), progress)()

    def gpu_busy(self, seconds: float) -> float | None:
        """Share of some seconds that the GPU spent on batches; None on a CPU."""
        return round(min(1.0, self._gpu_s / seconds), 4) if self._on_gpu and seconds else None

    def _start(self, batch: Batch, begin: int, progress: Progress) -> "_Part":
        part = batch.part(begin, begin + self.batch_size)
        progress.start_batch(self.diffusion.num_timesteps, len(part))
        if not self._on_gpu:
            return _Part(len(part), self._loop(self._inputs(part), progress.step).float())
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        inputs = self._inputs(part)
        if self._graphs:
            x_0 = self._graph(inputs)(*inputs, callback=progress.step)
        else:
            x_0 = self._loop(inputs, progress.step)
        x_0 = x_0[: len(part)].float()
        host = torch.empty(x_0.shape, dtype=x_0.dtype, pin_memory=True)
        host.copy_(x_0, non_blocking=True)
        ended.record()
        return _Part(len(part), host, began, ended)

    def _wait(self, part: "_Part") -> np.ndarray:
        if part.ended is not None:
            part.ended.synchronize()
            self._gpu_s += part.began.elapsed_time(part.ended) / 1e3
        return part.x_0.numpy()

    def _inputs(self, part: Batch) -> tuple[torch.Tensor | None, ...]:
        """keys, c_text, c_pc_xyz and c_pc_feat on the device, padded."""
        missing = self.batch_size - len(part) if self._on_gpu else 0

        def place(x):
            if x is None:
                return None
            x = x.to(self.device, non_blocking=True)
            return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x

        return tuple(map(place, (part.keys, part.c_text, part.c_pc_xyz, part.c_pc_feat)))

    def _graph(self, inputs) -> CudaSampler:
        """The captured loop, made with the first batch."""
        if self._cuda_sampler is None:
            sampling = self.config.sampling
            updates = UPDATES[sampling.method](self.diffusion, sampling.eta)
            sampler = CudaSampler(self.model, updates, self.diffusion.original_num_steps)
            sampler.capture(*inputs)
            self._cuda_sampler = sampler
        return self._cuda_sampler

    def _loop(self, inputs, callback) -> torch.Tensor:
        """The plain loop, for CPUs and for GPUs that our kernels do not know."""
        keys, c_text, c_pc_xyz, c_pc_feat = inputs
        denoise = self.model.condition(c_text, c_pc_xyz, c_pc_feat)
        shape = c_pc_xyz.shape[1], self.model.architecture.contact_dim

        def noise(step: int) -> torch.Tensor:
            values = philox.normal(keys, step, *shape, self.device)
            return values if denoise.order is None else gather_points(values, denoise.order)

        sampling = self.config.sampling
        loop = SAMPLERS[sampling.method]
        x_0 = loop(denoise, self.diffusion, noise, eta=sampling.eta, callback=callback)
        return x_0 if denoise.inverse is None else gather_points(x_0, denoise.inverse)

    def _in_memory(self, function: Callable):
        """function(), again with smaller batches while the GPU's memory does not suffice."""
        halved = False
        while True:
            try:
                result = function()
                break
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise ConfigError(
                        f"out of memory with a single map of {self.config.dataset.num_points} "
                        f"points on {self.device}{self._memory()}; free the GPU of other programs "
                        "(nvidia-smi lists them) or use a larger one. Finished chunks are kept"
                    ) from None
            # outside the except block, whose traceback holds on to tensors
            self._cuda_sampler = None
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
            dataset = self.config.dataset
            raise ConfigError(
                f"{item.sample.set}/{item.sample.index}: {problem}; the dataset gives colours "
                f"(dataset.use_color {dataset.use_color}), then OpenScene features "
                f"(dataset.use_openscene {dataset.use_openscene}): set these as they were in "
                "training, and model.scene_model likewise"
            ) from None
        return item.c_pc_feat

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
    """Maps that are on their way: x_0 in main memory, there once the device has passed `ended`."""

    size: int
    x_0: torch.Tensor
    began: torch.cuda.Event | None = None
    ended: torch.cuda.Event | None = None
