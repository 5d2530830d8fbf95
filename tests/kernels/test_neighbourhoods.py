"""Attention and groups: the naive forms against the formula, the kernels against them."""

import pytest
import torch
from emulator import emulate
from golden import assert_close
from helpers import poison, relative_error
from torch import nn

from cdm.kernels import neighbourhoods
from cdm.kernels.neighbourhoods import Weights, cpu, gpu, grouped_max, naive, vector_attention

TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 1.25e-3}


def make_inputs(num_points, channels, neighbours, dtype=torch.float64, batch=2):
    torch.manual_seed(0)
    shared = channels // 8
    q, k, v = (torch.randn(batch, num_points, channels, dtype=dtype) for _ in range(3))
    rows = torch.randint(batch * num_points, (batch, num_points, neighbours))
    positions = torch.randn(batch, num_points, neighbours, 3, dtype=dtype)
    pairs = ((channels, 3), (channels,), (shared, channels), (shared, shared))
    position, scale, hidden, out = (torch.randn(*shape, dtype=dtype) for shape in pairs)
    position, hidden, out = ((w / w.shape[1] ** 0.5, w[:, 0] / 3) for w in (position, hidden, out))
    return q, k, v, rows, positions, Weights(position, (scale, 0.1 * scale), hidden, out)


def formula(q, k, v, rows, positions, weights):
    """Point by point, with one weight for eight channels c, c + shared, ..."""
    mlp = nn.functional.linear
    out = torch.empty_like(q)
    for b in range(len(q)):
        for i in range(q.shape[1]):
            p = mlp(positions[b, i], *weights.position)
            k_j, v_j = k.flatten(0, 1)[rows[b, i]], v.flatten(0, 1)[rows[b, i]]
            u = ((k_j - q[b, i] + p) * weights.norm[0] + weights.norm[1]).clamp(min=0)
            w = mlp(mlp(u, *weights.hidden).clamp(min=0), *weights.out)
            w = (w.exp() / w.exp().sum(dim=0)).repeat(1, 8)
            out[b, i] = (w * (v_j + p)).sum(dim=0)
    return out


@pytest.mark.parametrize(("num_points", "channels", "neighbours"), [(1, 32, 8), (5, 64, 16)])
def test_naive_is_the_formula(num_points, channels, neighbours):
    inputs = make_inputs(num_points, channels, neighbours)
    assert_close("out", formula(*inputs), naive.vector_attention(*inputs), 1e-12, 1e-12)


def test_groups_are_the_formula():
    x, _, _, rows, offsets, weights = make_inputs(5, 32, 4)
    found = naive.grouped_max(x, rows, offsets, weights.position[0])
    for b, i in ((0, 0), (1, 4)):
        features = x.flatten(0, 1)[rows[b, i]] + offsets[b, i] @ weights.position[0].T
        assert_close("max", features.max(dim=0).values, found[b, i], 1e-12, 1e-12)


@pytest.mark.parametrize(("num_points", "channels", "neighbours"), [(1, 32, 8), (70, 512, 16)])
def test_blocks_of_points_are_the_whole(num_points, channels, neighbours, monkeypatch):
    """Also where the last block is a short one."""
    monkeypatch.setattr(cpu, "ELEMENTS", 3 * 2 * channels * neighbours)
    q, *rest, weights = make_inputs(num_points, channels, neighbours)
    expected = naive.vector_attention(q, *rest, weights)
    assert_close("attention", expected, vector_attention(q, *rest, weights), 1e-12, 1e-12)
    _, _, rows, offsets = rest
    expected = naive.grouped_max(q, rows, offsets, weights.position[0])
    found = grouped_max(q, rows, offsets, weights.position[0])
    assert_close("max", expected, found, 1e-12, 1e-12)


@pytest.fixture
def kernels(request, monkeypatch):
    """The module whose functions launch the kernels, and the device of their arguments."""
    if request.param == "cuda":
        return neighbourhoods, "cuda"
    emulate(gpu, monkeypatch)
    return gpu, "cpu"


LAYOUTS = [(1, 32, 8), (3, 64, 8), (37, 96, 5), (129, 128, 16), (512, 256, 16), (8, 512, 16)]
every_case = pytest.mark.parametrize(
    ("kernels", "num_points", "channels", "neighbours"),
    [("emulated", 37, 96, 5)]
    + [pytest.param("cuda", *layout, marks=pytest.mark.gpu) for layout in LAYOUTS],
    indirect=["kernels"],
)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@every_case
@dtypes
@torch.no_grad()
def test_the_kernel_of_groups_matches_naive(
    kernels, num_points, channels, neighbours, dtype, monkeypatch
):
    module, device = kernels
    x, _, _, rows, offsets, weights = make_inputs(num_points, channels, neighbours)
    x, weight, offsets = x.to(dtype), weights.position[0].to(dtype), offsets.float()
    expected = naive.grouped_max(x.double(), rows, offsets, weight.double())
    poison(monkeypatch)
    out = module.grouped_max(*(a.to(device) for a in (x, rows, offsets, weight)))
    assert out.dtype == dtype
    assert relative_error(out, expected) < TOLERANCE[dtype]


@every_case
@dtypes
@torch.no_grad()
def test_the_kernels_of_attention_match_naive(
    kernels, num_points, channels, neighbours, dtype, monkeypatch
):
    module, device = kernels
    q, k, v, rows, positions, weights = make_inputs(num_points, channels, neighbours)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    products = [tuple(x.to(dtype) for x in pair) for pair in weights[2:]]
    exact = Weights(*weights[:2], *[tuple(x.double() for x in pair) for pair in products])
    expected = naive.vector_attention(q.double(), k.double(), v.double(), rows, positions, exact)
    poison(monkeypatch)
    single = [tuple(x.float().to(device) for x in pair) for pair in weights[:2]]
    there = Weights(*single, *[tuple(x.to(device) for x in pair) for pair in products])
    inputs = (x.to(device) for x in (q, k, v, rows, positions.float()))
    out = module.vector_attention(*inputs, there)
    assert out.dtype == dtype
    assert relative_error(out, expected) < TOLERANCE[dtype]
