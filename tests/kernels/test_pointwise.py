"""The fused pointwise steps on a GPU against their naive forms."""

import pytest
import torch
from helpers import poison, relative_error

from cdm.kernels.pointwise import naive
from cdm.kernels.pointwise.gpu import Pointwise

pytestmark = pytest.mark.gpu
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3e-3}


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda").to(dtype)


def make(io_dtype, d_model=64, contact_dim=6):
    return Pointwise(torch.device("cuda", 0), io_dtype, d_model, contact_dim)


def double(*tensors):
    return [x.double() for x in tensors]


@pytest.fixture(params=[(1, 1, 64), (2, 33, 256), (3, 100, 20), (1, 7, 1024)], ids=str)
def shape(request):
    torch.manual_seed(0)
    return request.param


@pytest.mark.parametrize("io_dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("contact_dim", [1, 6, 22])
def test_embed_matches(shape, io_dtype, contact_dim, monkeypatch):
    batch, num_points, hidden = shape
    inputs = (
        normal(batch, num_points, contact_dim), normal(contact_dim, hidden),
        normal(batch, num_points, hidden), normal(batch, hidden),
    )  # fmt: skip
    poison(monkeypatch)
    out = make(io_dtype, contact_dim=contact_dim).embed(*inputs)
    assert out.dtype == io_dtype
    assert relative_error(out, naive.embed(*double(*inputs))) < TOLERANCE[io_dtype]


@pytest.mark.parametrize("io_dtype", TOLERANCE, ids=str)
def test_norms_match(shape, io_dtype, monkeypatch):
    d_model = shape[-1]
    y, stream = normal(*shape, dtype=io_dtype), 3 * normal(*shape) + 1
    norms = [(normal(d_model), normal(d_model)) for _ in range(2)]
    expected = naive.embedding_norm(y, *norms)
    expected_residual = naive.residual_norm(stream, y, norms[0])
    poison(monkeypatch)
    fused = make(io_dtype, d_model)
    for out, naive_out in zip(fused.embedding_norm(y, *norms), expected, strict=True):
        assert relative_error(out, naive_out) < TOLERANCE[out.dtype]
    found = fused.residual_norm(stream, y, norms[0])
    assert found[0] is stream
    for out, naive_out in zip(found, expected_residual, strict=True):
        assert relative_error(out, naive_out) < TOLERANCE[out.dtype]


@pytest.mark.parametrize("io_dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("contact_dim", [1, 6, 22])
def test_head_matches(shape, io_dtype, contact_dim, monkeypatch):
    y, stream = normal(*shape, dtype=io_dtype), normal(*shape)
    weight, bias = normal(contact_dim, shape[-1]), normal(contact_dim)
    expected = naive.residual_head(*double(stream, y.float(), weight, bias))
    poison(monkeypatch)
    out = make(io_dtype, shape[-1], contact_dim).residual_head(stream, y, weight, bias)
    assert relative_error(out, expected) < 1e-6
