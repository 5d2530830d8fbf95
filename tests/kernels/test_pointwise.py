"""The fused pointwise steps against their naive forms: on a GPU, and run on the CPU with g++."""

import pytest
import torch
from emulator import emulate
from helpers import poison, relative_error

from cdm.kernels.pointwise import gpu, naive
from cdm.kernels.pointwise.gpu import Pointwise

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3e-3, torch.float16: 4e-4}
# In half precision the terms of the residual stream stay float32.
TERM = {dtype: dtype for dtype in TOLERANCE} | {torch.float16: torch.float32}


# On a GPU many shapes; on the CPU, where each takes seconds to compile, two.
SHAPES = [(1, 1, 64), (2, 33, 256), (3, 100, 20), (1, 7, 1024)]
CASES = [("emulated", shape, 6) for shape in ((1, 1, 64), (1, 9, 20))] + [
    pytest.param("cuda", shape, contact_dim, marks=pytest.mark.gpu)
    for shape in SHAPES
    for contact_dim in (1, 6, 22)
]
every_case = pytest.mark.parametrize(("device", "shape", "contact_dim"), CASES, indirect=["device"])


@pytest.fixture
def device(request, monkeypatch):
    if request.param != "emulated":
        return request.param
    emulate(gpu, monkeypatch)
    return "cpu"


@pytest.fixture
def normal(device):
    torch.manual_seed(0)
    return lambda *shape, dtype=torch.float32: torch.randn(*shape).to(device, dtype)


def make(io_dtype, d_model=64, contact_dim=6):
    return Pointwise(torch.device("cuda", 0), io_dtype, d_model, contact_dim)


def double(*tensors):
    return [x.double() for x in tensors]


@every_case
@pytest.mark.parametrize("io_dtype", TOLERANCE, ids=str)
def test_embed_matches(normal, shape, io_dtype, contact_dim, monkeypatch):
    batch, num_points, hidden = shape
    inputs = (
        normal(batch, num_points, contact_dim), normal(contact_dim, hidden),
        normal(batch, num_points, hidden), normal(batch, hidden),
    )  # fmt: skip
    poison(monkeypatch)
    out = make(io_dtype, contact_dim=contact_dim).embed(*inputs)
    assert out.dtype == TERM[io_dtype]
    assert relative_error(out, naive.embed(*double(*inputs))) < TOLERANCE[out.dtype]


def norm_of(out, d_model):
    """A norm as it was written, and the error it may have."""
    if out.dtype != torch.float16:
        return out, TOLERANCE[out.dtype]
    high, low, again = out.split(d_model, dim=-1)
    assert torch.equal(high, again) and relative_error(high, high.float() + low) < 4e-4
    return high.float() + low, 1e-6


@every_case
@pytest.mark.parametrize("io_dtype", TOLERANCE, ids=str)
def test_norms_match(normal, shape, contact_dim, io_dtype, monkeypatch):
    d_model = shape[-1]
    y, stream = normal(*shape, dtype=TERM[io_dtype]), 3 * normal(*shape) + 1
    norms = [(normal(d_model), normal(d_model)) for _ in range(2)]
    expected = naive.embedding_norm(y, *norms)
    expected_residual = naive.residual_norm(stream, y, norms[0])
    poison(monkeypatch)
    fused = make(io_dtype, d_model, contact_dim)
    begun, normed = fused.embedding_norm(y, *norms), fused.residual_norm(stream, y, norms[0])
    assert normed[0] is stream and begun[1].dtype == normed[1].dtype == io_dtype
    for found, naive_out in ((begun, expected), (normed, expected_residual)):
        assert relative_error(found[0], naive_out[0]) < TOLERANCE[torch.float32]
        norm, limit = norm_of(found[1], d_model)
        assert relative_error(norm, naive_out[1]) < limit


@every_case
@pytest.mark.parametrize("io_dtype", TOLERANCE, ids=str)
def test_head_matches(normal, shape, io_dtype, contact_dim, monkeypatch):
    y, stream = normal(*shape, dtype=TERM[io_dtype]), normal(*shape)
    weight, bias = normal(contact_dim, shape[-1]), normal(contact_dim)
    expected = naive.residual_head(*double(stream, y.float(), weight, bias))
    poison(monkeypatch)
    out = make(io_dtype, shape[-1], contact_dim).residual_head(stream, y, weight, bias)
    assert relative_error(out, expected) < 1e-6


@pytest.mark.parametrize(
    "device", ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True
)
def test_what_half_precision_cannot_hold_becomes_infinity(normal):
    y, norm = normal(1, 1, 64), (normal(64).abs() + 1e9, normal(64))
    fused = make(torch.float16)
    _, out = fused.residual_norm(torch.zeros_like(y), y, norm)
    assert out[..., :64].isinf().all()
