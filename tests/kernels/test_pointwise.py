"""The fused pointwise steps on a GPU against their reference."""

import pytest
import torch
from helpers import poison, relative_error

from cdm.kernels.pointwise import naive
from cdm.kernels.pointwise.gpu import Pointwise

pytestmark = pytest.mark.gpu
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3e-3}


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda").to(dtype)


def make(half, d_model=64, contact_dim=6):
    return Pointwise(torch.device("cuda", 0), half, d_model, contact_dim)


def double(*tensors):
    return [x.double() for x in tensors]


@pytest.fixture(params=[(1, 1, 64), (2, 33, 256), (3, 100, 20), (1, 7, 1024)], ids=str)
def shape(request):
    torch.manual_seed(0)
    return request.param


@pytest.mark.parametrize("half", TOLERANCE, ids=str)
@pytest.mark.parametrize("contact_dim", [1, 6, 22])
def test_embed_matches(shape, half, contact_dim, monkeypatch):
    batch, num_points, hidden = shape
    inputs = (
        normal(batch, num_points, contact_dim), normal(contact_dim, hidden),
        normal(batch, num_points, hidden), normal(batch, hidden),
    )  # fmt: skip
    poison(monkeypatch)
    out = make(half, contact_dim=contact_dim).embed(*inputs)
    assert out.dtype == half
    assert relative_error(out, naive.embed(*double(*inputs))) < TOLERANCE[half]


@pytest.mark.parametrize("half", TOLERANCE, ids=str)
def test_norms_match(shape, half, monkeypatch):
    d_model = shape[-1]
    y, stream = normal(*shape, dtype=half), 3 * normal(*shape) + 1
    norms = [(normal(d_model), normal(d_model)) for _ in range(2)]
    expected = naive.embedding_norm(y, *norms)
    expected_residual = naive.residual_norm(stream, y, norms[0])
    poison(monkeypatch)
    fused = make(half, d_model)
    for out, reference in zip(fused.embedding_norm(y, *norms), expected, strict=True):
        assert relative_error(out, reference) < TOLERANCE[out.dtype]
    found = fused.residual_norm(stream, y, norms[0])
    assert found[0] is stream
    for out, reference in zip(found, expected_residual, strict=True):
        assert relative_error(out, reference) < TOLERANCE[out.dtype]


@pytest.mark.parametrize("half", TOLERANCE, ids=str)
@pytest.mark.parametrize("contact_dim", [1, 6, 22])
def test_head_matches(shape, half, contact_dim, monkeypatch):
    y, stream = normal(*shape, dtype=half), normal(*shape)
    weight, bias = normal(contact_dim, shape[-1]), normal(contact_dim)
    expected = naive.residual_head(*double(stream, y.float(), weight, bias))
    poison(monkeypatch)
    out = make(half, shape[-1], contact_dim).residual_head(stream, y, weight, bias)
    assert relative_error(out, expected) < 1e-6
