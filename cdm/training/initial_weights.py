"""The weights before training, made from a seed."""

import math
from pathlib import Path

import numpy as np

from cdm.model.architecture import Architecture
from cdm.model.checkpoint import expected_shapes
from cdm.noise import normal, stream_key, uniform


def initial_state_dict(architecture: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """Untrained weights of any backbone, under afford-motion's keys; the same on every machine.

    Linear layers and learned tokens are normal with variance 1 / fan-in. Norms start as the
    identity, with running mean 0 and variance 1. A, D and the bias of delta start as in Mamba (Gu
    and Dao 2023, section 3.6: A_n = -n, delta in [0.001, 0.1]).

    Returns:
        key -> float32 array; counts of batches are int64.
    """
    shapes = expected_shapes(architecture)
    return {key: _initial(key, shape, seed) for key, shape in shapes.items()}


def _initial(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The initial value of one key, chosen by the last part of its name."""
    kind = key.rsplit(".", 1)[-1]
    stream = stream_key(seed, "weights", "", key)
    if kind == "pe":
        return positional_encoding(shape[0], shape[-1])[:, None]
    if kind == "A_log":
        return np.tile(np.log(np.arange(1, shape[1] + 1, dtype=np.float32)), (shape[0], 1))
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind in ("D", "running_var") or (kind == "weight" and len(shape) == 1):  # of a norm
        return np.ones(shape, np.float32)
    if key.endswith("dt_proj.bias"):
        picks = [uniform(stream_key(seed, "weights", str(i), key)) for i in range(shape[0])]
        delta = np.exp(np.asarray(picks) * math.log(0.1 / 0.001) + math.log(0.001))
        return (delta + np.log(-np.expm1(-delta))).astype(np.float32)  # inverse of softplus
    if kind in ("bias", "in_proj_bias", "running_mean"):
        return np.zeros(shape, np.float32)
    fan_in = math.prod(shape[1:])
    return normal(np.array([stream], np.uint32), 0, shape[0], fan_in)[0].reshape(
        shape
    ) * np.float32(fan_in**-0.5)


def positional_encoding(steps: int, dim: int) -> np.ndarray:
    """(steps, dim) float32 sinusoids of the step number (Vaswani et al. 2017, section 3.5)."""
    position = np.arange(steps, dtype=np.float32)[:, None]
    frequency = np.exp(np.arange(0, dim, 2, dtype=np.float32) * np.float32(-math.log(1e4) / dim))
    table = np.empty((steps, dim), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(position * frequency), np.cos(position * frequency)
    return table


def write_checkpoint(path: Path, architecture: Architecture, seed: int = 0) -> None:
    """Save untrained weights in the form of afford-motion's checkpoints."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key: torch.from_numpy(value.copy())
        for key, value in initial_state_dict(architecture, seed).items()
    }
    torch.save(state, path)
