"""One step of training: model, optimiser, averaged weights, and the loss."""

import math
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cdm.config import Config
from cdm.errors import CheckpointError
from cdm.files import replacing
from cdm.kernels.cuda_graph import capture
from cdm.model.architecture import Architecture
from cdm.model.backbones.base import map_tensors
from cdm.model.cdm import CDM, resolve_precision
from cdm.model.scene_model import PointTransformerSeg
from cdm.model.state_dict import is_frozen
from cdm.model.training_record import differences, sampling_settings
from cdm.sampling.diffusion import GaussianDiffusion, create_diffusion
from cdm.training.initial_weights import initial_state_dict
from cdm.training.items import TrainingBatch
from cdm.training.record import training_settings

RUNNING = "running_mean", "running_var"  # ends of the keys of a batch norm's statistics
CURVE_POINTS = 1000  # of the loss curve, at most twice as many


class Trainer:
    """Model, optimiser and averaged weights, at some step.

    Args:
        config: sections `training`, `diffusion`, `dataset` and `model`, and the seed.
        architecture: of the model.
        device: torch device name.
        weights: that it begins with, a whole state dict; random ones by default.
        dropout: as of `Backbone.set_dropout`; 0 for none.
        scene_model: the frozen scene model, on the device; None if the dataset gives what the
            backbone sees. It is no part of `model`, so no checkpoint holds its weights.
        trained_on: items and statistics, name -> content, which a state must have been trained on
            too; None to compare them with nothing.
    Attributes:
        step: steps of the optimiser that are done.
        curve: the loss curve, rows of (step, mean loss since the row before).
        average: weights averaged over the steps, or None without `training.ema_decay`.
    """

    def __init__(
        self,
        config: Config,
        architecture: Architecture,
        device: str,
        weights: dict[str, torch.Tensor] | None = None,
        dropout: float = 0.0,
        scene_model: PointTransformerSeg | None = None,
        trained_on: dict[str, str] | None = None,
    ):
        self.trained_on = trained_on or {}
        self.config, self.architecture, self.device = config, architecture, device
        training = config.training
        precision = resolve_precision(training.precision, device)
        self.model = CDM(architecture, precision=precision)
        if weights is None:
            state = initial_state_dict(architecture, config.seed)
            weights = {key: torch.from_numpy(value.copy()) for key, value in state.items()}
        self.model.load_state_dict(weights)
        self.model.to(device).train()
        self.scene_model = scene_model
        self.dropout = dropout
        if dropout:
            self.model.contact_model.set_dropout(dropout)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=training.lr,
            weight_decay=training.weight_decay,
            fused=device != "cpu",
        )
        # torch's AveragedModel would wait for the device at every step.
        self.average: list[torch.Tensor] | None = None
        if training.ema_decay is not None:
            self.average = [x.clone() for x in self._trained().values()]
        diffusion = config.diffusion
        chain = create_diffusion(diffusion.steps, diffusion.noise_schedule)
        self.noising = noising_coefficients(chain, device)
        self.step = 0
        self.curve: list[list[float]] = []
        self._losses: list[torch.Tensor] = []
        self._recent = math.nan
        # Computes the loss of a batch, and .grad of the weights.
        self._gradients: Callable | None = None

    @property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.model.parameters())

    def train_step(self, batch: TrainingBatch) -> None:
        """Take one step of the optimiser, without waiting for the device."""
        # Learning rate, timesteps and noise of this step.
        training = self.config.training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(training, self.step)
        seed = (self.config.seed * 1_000_003 + self.step) % 2**64
        generator = torch.Generator(self.device)
        generator.manual_seed(seed)
        shape, num_steps = batch.x_start.shape, self.noising.shape[1]
        t = draw_timesteps(shape[0], num_steps, training.noisy_timestep_fraction, generator)
        noise = torch.randn(shape, generator=generator, device=self.device)

        # Gradients, and the step.
        batch = self.with_scene_features(batch)
        if self._gradients is None:
            self._gradients = self._eager
            if self.device != "cpu":
                self._gradients = _GradientGraph(self._eager, self.model, batch, t, noise)
        if self.dropout:
            # Its masks come from torch's default generator, other numbers than those above. A CUDA
            # graph reads the seed of that generator at each replay, so it is set after the capture.
            torch.manual_seed(seed ^ 2**63)
        loss = self._gradients(batch, t, noise)
        if training.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.grad_clip)
        self.optimizer.step()

        # Averaged weights, and a point of the curve now and then.
        if self.average is not None and training.ema_decay is not None:
            weights = list(self._trained().values())
            torch._foreach_lerp_(self.average, weights, 1 - training.ema_decay)
        self.step += 1
        self._losses.append(loss.detach())
        if self.step % max(1, training.steps // CURVE_POINTS) == 0:
            self.recent_loss()

    def with_scene_features(self, batch: TrainingBatch) -> TrainingBatch:
        """The batch with the features that the scene model makes of its points and colours.

        They are made of the turned points, as in sampling, and have no gradients. So they are an
        input of the gradients' CUDA graph, and not a part of it.
        """
        if self.scene_model is None:
            return batch
        return batch._replace(c_pc_feat=self.scene_model(batch.c_pc_xyz, batch.c_pc_feat))

    def loss(self, batch: TrainingBatch, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`diffusion_loss` of the model with its present weights."""
        return diffusion_loss(self.model, self.noising, batch, t, noise)

    def _eager(self, batch, t, noise) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch, t, noise)
        loss.backward()
        return loss

    def recent_loss(self) -> float:
        """Mean loss of the steps since the last call; they become a point of the curve."""
        if self._losses:
            self._recent = float(torch.stack(self._losses).mean())
            self._losses.clear()
            self.curve.append([self.step, self._recent])
        return self._recent

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights to sample with; keys and types are those of afford-motion's checkpoints."""
        state = self.model.state_dict()
        if self.average is not None:
            state |= dict(zip(self._trained(), self.average, strict=True))
        return {
            key: (value.float() if value.is_floating_point() else value).cpu()
            for key, value in state.items()
            if not is_frozen(key)
        }

    def _trained(self) -> dict[str, torch.Tensor]:
        """What training changes and averages: weights, and the statistics of batch norms."""
        found = {name: weight.detach() for name, weight in self.model.named_parameters()}
        buffers = self.model.named_buffers()
        return found | {name: x for name, x in buffers if name.endswith(RUNNING)}

    def save(self, path: Path) -> None:
        """Write everything that is needed to go on."""
        state = {
            "step": self.step,
            "curve": self.curve,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "settings": self._settings(),
        }
        save_tensors(state, path)

    def resume(self, path: Path) -> bool:
        """Go on from what `save` wrote; False if there is nothing.

        Raises:
            CheckpointError: it cannot be read, or it is of another training.
        """
        if not path.exists():
            return False
        anew = (
            f"give a new exp_name with training.init_from: {path.parents[1]}, which begins with "
            f"the newest model there, or remove {path.parent} to train from the start"
        )
        try:
            _check_sums(path)
            state = torch.load(path, map_location=self.device, weights_only=True)
            found = dict(state["settings"])
        except Exception as error:  # a damaged file raises anything: zip, pickle, torch
            raise CheckpointError(
                f"{path}: cannot be read ({type(error).__name__}: {error}); {anew}"
            ) from None
        # Older versions did not write every key; what they did not write is not compared.
        expected = {key: value for key, value in self._settings().items() if key in found}
        differing = differences({key: found[key] for key in expected}, expected)
        if differing:
            listed = "".join(f"\n  {line}" for line in differing)
            raise CheckpointError(
                f"{path}: is of another training:{listed}\nRestore what differs; or {anew}"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average = state["average"]
            self.step, self.curve = state["step"], state["curve"]
            self._recent = self.curve[-1][1] if self.curve else math.nan
        except Exception as error:  # tensors or keys that are not those of this model
            raise CheckpointError(
                f"{path}: does not fit the model ({type(error).__name__}: {error}); {anew}"
            ) from None
        return True

    def _settings(self) -> dict[str, Any]:
        """What must not change while a training goes on; anything else may."""
        kept = sampling_settings(self.config) | training_settings(self.config)
        return {"architecture": asdict(self.architecture)} | kept | self.trained_on


def _check_sums(path: Path) -> None:
    """Hold a file of `save_tensors` against the checksums in it, which `torch.load` does not read.

    Raises:
        BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as file:
        broken = file.testzip()
    if broken:
        raise zipfile.BadZipFile(f"{broken} fails its checksum")


def save_tensors(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, whole or not at all.

    Raises:
        ArchiveError: the disk is full or not writable (`replacing`).
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # Its zip file could not be closed, because the system had refused to write before.
            refused = error.__context__
            raise refused if isinstance(refused, OSError) else error from None


def noising_coefficients(diffusion: GaussianDiffusion, device: str) -> torch.Tensor:
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) of every step: (2, steps) float32."""
    tables = diffusion.sqrt_alphas_cumprod, diffusion.sqrt_one_minus_alphas_cumprod
    return torch.tensor(np.stack(tables), dtype=torch.float32, device=device)


def draw_timesteps(
    count: int, num_steps: int, noisy_timestep_fraction: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw timesteps: (count,) int64 in [0, num_steps).

    With thousands of points per map, the target object stays recognisable unless the noise is
    very strong. So only the noisiest tenth of the steps trains the model to find it. The rest of
    the steps trains the model to remove weak noise.

    Args:
        noisy_timestep_fraction: from 0 to 1, of timesteps drawn from the noisiest tenth of the
            chain; the rest are uniform over the whole chain.
        generator: on the device where the timesteps are wanted.
    """
    u, v = torch.rand(2, count, generator=generator, device=generator.device, dtype=torch.float64)
    u = torch.where(v < noisy_timestep_fraction, 1 - u / 10, u)
    return (num_steps * u).long().clamp_(max=num_steps - 1)


def diffusion_loss(
    model, noising: torch.Tensor, batch: TrainingBatch, t: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of the predicted x_0; a scalar tensor.

    Args:
        model: called as model(x_t, t, c_text, c_pc_xyz, c_pc_feat).
        noising: `noising_coefficients`. x_t is the same as in `GaussianDiffusion.q_sample`.
        t: (batch,) int64.
        noise: standard normal, shaped like batch.x_start.
    """
    signal, spread = noising[:, t, None, None]
    x_t = signal * batch.x_start + spread * noise
    return F.mse_loss(model(x_t, t, *batch[1:]), batch.x_start)


class _GradientGraph:
    """Loss and gradients of a step as a CUDA graph. Without it, a step waits for Python.

    Args:
        gradients: called as gradients(batch, t, noise); returns the loss and sets .grad of the
            weights anew.
        model: its batch norms keep their statistics: those of the run before the capture go.
        inputs: of the first step; those of later steps have the same shapes.
    """

    def __init__(self, gradients: Callable, model: torch.nn.Module, *inputs):
        self._inputs = map_tensors(torch.clone, tuple(inputs))
        kept = [buffer.clone() for buffer in model.buffers()]
        self._graph, self._loss = capture(lambda: gradients(*self._inputs).detach())
        for buffer, before in zip(model.buffers(), kept, strict=True):
            buffer.copy_(before)

    def __call__(self, *inputs) -> torch.Tensor:
        map_tensors(torch.Tensor.copy_, self._inputs, inputs)
        self._graph.replay()
        return self._loss.clone()


def learning_rate(training, step: int) -> float:
    """The learning rate of a step: it rises, then is constant or falls to zero as half a cosine."""
    rate = training.lr * min(1.0, (step + 1) / max(1, training.warmup_steps))
    if training.lr_schedule == "cosine":
        rate *= (1 + math.cos(math.pi * min(1.0, step / training.steps))) / 2
    return rate
