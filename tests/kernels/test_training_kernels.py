"""The kernels of training and their gradients, run on the CPU, against the naive forms."""

import pytest
import torch
from emulator import emulate
from helpers import relative_error

from cdm.kernels.causal_conv import gpu as conv
from cdm.kernels.causal_conv import naive as naive_conv
from cdm.kernels.selective_scan import gpu as scan
from cdm.kernels.selective_scan import naive as naive_scan

WIDTH = 4
SHAPES = [  # batch, length, d_inner, reverse
    (1, 1, 64, False),
    (2, 7, 64, True),
    (1, 8, 128, False),
    (2, 37, 128, True),
]
DTYPES = {torch.float32: 1e-6, torch.bfloat16: 1e-2}  # with the error they may have
every_case = pytest.mark.parametrize(
    ("shape", "dtype"), [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
)


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    for module in (scan, conv):
        emulate(module, monkeypatch)


def check(function, naive, inputs, weights, tolerance):
    """Values, and gradients of a weighted sum, against those of the naive form in float64."""
    results = []
    for f, tensors in ((function, inputs), (naive, [x.double() for x in inputs])):
        leaves = [x.clone().requires_grad_() for x in tensors]
        y = f(*leaves)
        y.backward(weights.to(y.dtype))
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        if expected.any():
            assert relative_error(found, expected) < tolerance
        else:  # of A, where there is but one step
            assert not found.any()


@every_case
def test_gradients_of_the_scan_match_float64_autograd_of_naive(shape, dtype):
    batch, length, d_inner, reverse = shape
    torch.manual_seed(0)
    wide = [torch.randn(batch, length, n).to(dtype) for n in (d_inner, d_inner, 4 + 16 + 16)]
    A, (D, bias) = -3 * torch.rand(d_inner, 16), torch.randn(2, d_inner)

    def kernel(u, delta, rows, A, D, bias):
        _, B, C = rows.split((4, 16, 16), dim=-1)  # as they come: rows apart
        return scan.selective_scan(u, delta, A, B, C, D, None, bias, reverse)

    def naive(u, delta, rows, A, D, bias):
        u, delta, rows = (x.flip(1) if reverse else x for x in (u, delta, rows))
        _, B, C = rows.split((4, 16, 16), dim=-1)
        y, _ = naive_scan.selective_scan(u, delta, A, B, C, D, None, bias, True)
        return y.flip(1) if reverse else y

    weights = torch.randn(batch, length, d_inner).to(dtype)
    check(kernel, naive, [*wide, A, D, bias], weights, DTYPES[dtype])


@every_case
def test_gradients_of_the_convolution_match_float64_autograd_of_naive(shape, dtype):
    batch, length, d_inner, reverse = shape
    torch.manual_seed(0)
    both = torch.randn(batch, length, 2 * d_inner).to(dtype)

    def kernel(both, weight, bias):
        x, _ = both.chunk(2, dim=-1)  # as it comes: rows apart
        return conv.causal_conv_silu(x, weight, bias, reverse)

    def naive(both, weight, bias):
        x, _ = both.flip(1 if reverse else ()).chunk(2, dim=-1)
        y = naive_conv.causal_conv_silu(x, weight, bias)
        return y.flip(1) if reverse else y

    weights = torch.randn(batch, length, d_inner).to(dtype)
    inputs = [both, torch.randn(d_inner, WIDTH), torch.randn(d_inner)]
    check(kernel, naive, inputs, weights, DTYPES[dtype])
