"""The MLP: its forms, and what its configuration is held against."""

import pytest
import torch
import torch.nn.functional as F
from golden import assert_close
from small_models import check_forms, shapes_and_config
from torch import nn

from cdm.errors import CheckpointError
from cdm.model.backbones.mlp import EPS, Stage, _short_rows
from cdm.model.checkpoint import infer_architecture


@pytest.mark.parametrize("case", ["05_mlp_small", "05b_mlp_default"])
def test_fast_and_naive_forms_match_afford_motion(parity, parity_index, case):
    check_forms(parity, parity_index, case)


@pytest.fixture
def columns():
    """Own and shared columns of points, (2, 30, 7) and (2, 5), far from mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(0)
    own = 3 * torch.randn(2, 30, 7, generator=generator, dtype=torch.float64) + 2
    return own, torch.randn(2, 5, generator=generator, dtype=torch.float64) - 1


def groups(own, shared):
    """All columns, the fraction of own ones, means and variances of both groups, all per point."""
    wide = shared[:, None].expand(-1, own.shape[1], -1)
    var_own, mean_own = torch.var_mean(own, dim=-1, correction=0, keepdim=True)
    var_shared, mean_shared = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
    return torch.cat([own, wide], -1), 7 / 12, (mean_own, mean_shared), (var_own, var_shared)


def test_eq_4_the_mean_of_all_columns_follows_from_the_groups(columns):
    every, f, (mean_own, mean_shared), _ = groups(*columns)
    expected = every.mean(dim=-1, keepdim=True)
    assert_close("mean", expected, f * mean_own + (1 - f) * mean_shared, 1e-12, 1e-12)


def test_eq_5_the_variance_of_all_columns_follows_from_the_groups(columns):
    every, f, (mean_own, mean_shared), (var_own, var_shared) = groups(*columns)
    d = mean_own - mean_shared
    out = f * var_own + (1 - f) * var_shared + f * (1 - f) * d.square()
    assert_close("variance", every.var(dim=-1, correction=0, keepdim=True), out, 1e-12, 1e-12)


def test_eq_6_each_group_is_shifted_from_its_own_mean(columns):
    every, f, (mean_own, mean_shared), _ = groups(*columns)
    own, shared = every.split([7, 5], dim=-1)
    d = mean_own - mean_shared
    out = torch.cat([own - mean_own + (1 - f) * d, shared - mean_shared - f * d], dim=-1)
    assert_close("deviations", every - every.mean(dim=-1, keepdim=True), out, 1e-12, 1e-12)


@pytest.mark.parametrize("with_shared", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_eq_7_short_rows_are_norm_and_linear_layer(columns, with_shared, bias):
    own, shared = columns
    every = groups(own, shared)[0] if with_shared else own
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(every.shape[-1]), nn.Linear(every.shape[-1], 9, bias=bias)
    for weight in (*norm.parameters(), *linear.parameters()):
        nn.init.normal_(weight)
    norm, linear = norm.double(), linear.double()
    assert norm.eps == EPS
    rows, weight = _short_rows(norm, linear, own, shared if with_shared else None)
    assert rows.shape[-1] == weight.shape[1] == (16 if with_shared else 8)  # 7 + 4 and 7 + 1
    assert_close("rows", linear(norm(every)), torch.bmm(rows, weight), 1e-12, 1e-12)


@torch.no_grad()
def test_a_stage_has_one_function_in_both_forms(columns):
    own, shared = columns
    torch.manual_seed(0)
    stage = Stage(12, 10, 2, True).double()
    hidden = stage.hidden(own, shared)
    out = F.linear(hidden, stage.mlp_post[3].weight, stage.mlp_post[3].bias)
    assert_close("stage", stage(groups(own, shared)[0]), out, 1e-12, 1e-12)


def test_lists_in_the_configuration_are_held_against_the_weights():
    shapes, config = shapes_and_config("MLP", point_mlp_dims=[12, 21])
    with pytest.raises(CheckpointError, match=r"point_mlp_dims is \[12, 21\], .* have \[12, 20\]"):
        infer_architecture(shapes, config, "x.pt")
