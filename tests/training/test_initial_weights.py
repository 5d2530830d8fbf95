"""Weights before training: the same on every machine, with the spread that layers need."""

import numpy as np
import pytest
import torch
from helpers import SMALL, small_architecture

from cdm.model.cdm import CDM
from cdm.model.checkpoint import expected_shapes
from cdm.training.initial_weights import (
    initial_state_dict,
    positional_encoding,
    write_checkpoint,
)


@pytest.mark.parametrize("arch", SMALL)
def test_every_backbone_starts_from_finite_weights_under_its_own_keys(arch):
    architecture = small_architecture(arch)
    state = initial_state_dict(architecture)
    assert {key: value.shape for key, value in state.items()} == {
        key: tuple(shape) for key, shape in expected_shapes(architecture).items()
    }
    assert all(np.isfinite(value).all() for value in state.values())
    CDM(architecture).load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    architecture = small_architecture("PointMamba")
    first, again, other = (initial_state_dict(architecture, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    matrices = [key for key, value in first.items() if value.ndim == 2 and "A_log" not in key]
    assert matrices and not any(np.array_equal(first[key], other[key]) for key in matrices)


def test_linear_layers_keep_the_variance_and_mamba_starts_as_published():
    state = initial_state_dict(small_architecture("PointMamba"))
    wide = max((v for k, v in state.items() if k.endswith("in_proj.weight")), key=np.size)
    assert np.var(wide) * wide.shape[1] == pytest.approx(1, rel=0.1)
    [a_log, *_] = [value for key, value in state.items() if key.endswith("A_log")]
    np.testing.assert_allclose(np.exp(a_log), np.tile(np.arange(1, 17), (64, 1)), rtol=1e-6)
    [bias, *_] = [value for key, value in state.items() if key.endswith("dt_proj.bias")]
    delta = np.log1p(np.exp(bias))  # softplus
    assert 0.001 <= delta.min() < delta.max() <= 0.1


def test_the_positional_encoding_is_sines_and_cosines():
    table = positional_encoding(50, 8)
    assert table.shape == (50, 8) and table.dtype == np.float32
    for step, pair in ((7, 0), (31, 3)):
        angle = step * 1e4 ** (-2 * pair / 8)
        np.testing.assert_allclose(
            table[step, 2 * pair : 2 * pair + 2], [np.sin(angle), np.cos(angle)], atol=1e-5
        )


def test_a_checkpoint_of_untrained_weights_is_read_back(tmp_path):
    architecture = small_architecture("MLP")
    write_checkpoint(tmp_path / "ckpt/model000000.pt", architecture, seed=3)
    found = torch.load(tmp_path / "ckpt/model000000.pt", weights_only=True)
    expected = initial_state_dict(architecture, seed=3)
    assert all(np.array_equal(found[key].numpy(), expected[key]) for key in expected)
    assert found.keys() == expected.keys()
