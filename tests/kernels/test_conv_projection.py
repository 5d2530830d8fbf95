"""Convolution and x_proj in one kernel: on a GPU, and run on the CPU with g++, against float64."""

import pytest
import torch
import torch.nn.functional as F
from emulator import emulate
from helpers import poison, relative_error

from cdm.kernels.causal_conv import bidirectional_conv_silu
from cdm.kernels.conv_projection import conv_projection, gpu, naive, pack_weights

TOLERANCE = {torch.bfloat16: 3e-3, torch.float16: 4e-4}  # they round by up to 2^-9 and 2^-12
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def make_inputs(batch, length, d_inner, columns, width=4, dtype=torch.bfloat16, device="cpu"):
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    x = normal(batch, length, 2 * d_inner).to(dtype)
    weight = (normal(columns, d_inner) / d_inner**0.5).to(dtype)
    inputs = x, normal(d_inner, width), normal(d_inner), weight
    x, *weights = (a.to(device) for a in inputs)
    return [x[..., :d_inner], *weights]  # as the model hands it over: half of wider rows


def check(found, inputs):
    """u against float64, and x_dbl against the product of this u in float64."""
    x, conv_weight, conv_bias, weight = (a.cpu().double() for a in inputs)
    u, x_dbl = found
    tolerance = TOLERANCE[u.dtype]
    assert u.dtype == x_dbl.dtype == inputs[0].dtype
    expected = bidirectional_conv_silu(x, conv_weight, conv_bias, backend="naive")
    assert relative_error(u, expected) < tolerance
    assert relative_error(x_dbl, F.linear(u.cpu().double(), weight)) < tolerance


def test_naive_is_a_convolution_and_a_product():
    x, conv_weight, conv_bias, weight = make_inputs(2, 9, 8, 5, dtype=torch.float64)
    u, x_dbl = conv_projection(x, conv_weight, conv_bias, weight, backend="naive")
    assert u.shape == (2, 2, 9, 8) and x_dbl.shape == (2, 2, 9, 5)
    taps = conv_weight.double()
    before, after = conv_bias + x[:, 5] * taps[:, 3], conv_bias + x[:, 5] * taps[:, 3]
    for k in range(3):
        before = before + x[:, 2 + k] * taps[:, k]
        after = after + x[:, 8 - k] * taps[:, k]
    for direction, y in enumerate((before, after)):
        torch.testing.assert_close(u[direction, :, 5], y * torch.sigmoid(y))
        torch.testing.assert_close(x_dbl[direction, :, 5], (y * torch.sigmoid(y)) @ weight.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_auto_runs_two_steps_where_the_kernel_cannot_run(dtype):
    inputs = make_inputs(2, 9, 24, 5, dtype=dtype)
    u, x_dbl = conv_projection(*inputs)
    expected = bidirectional_conv_silu(*inputs[:3])
    assert torch.equal(u, expected) and torch.equal(x_dbl, F.linear(expected, inputs[3]))
    assert pack_weights(*inputs[1:]) is None


def test_auto_keeps_gradients():
    inputs = make_inputs(1, 9, 32, 16, dtype=torch.float32)
    inputs[0].requires_grad_()
    conv_projection(*inputs)[1].sum().backward()
    assert inputs[0].grad.isfinite().all()


def test_backends_that_cannot_run_say_so():
    inputs = make_inputs(1, 4, 40, 16)
    with pytest.raises(ValueError, match="backend is 'triton', expected auto, naive or cuda"):
        conv_projection(*inputs, backend="triton")
    with pytest.raises(ValueError, match=r"found x \(1, 4, 40\) torch\.bfloat16 on cpu.*'auto'"):
        conv_projection(*inputs, backend="cuda")


# ---- the kernel, run on the CPU ----


@pytest.mark.parametrize(
    ("shape", "width", "dtype"),
    [
        ((2, 19, 64, 48), 4, torch.bfloat16),  # a block of 16 tokens, and one of 3
        ((1, 5, 96, 16), 3, torch.float16),  # three steps of 32 channels for four warps
        ((1, 17, 544, 32), 2, torch.bfloat16),  # more channels than shared memory takes at a time
        ((1, 8, 32, 144), 4, torch.float16),  # fewer warps busy; sums that need several rounds
    ],
    ids=str,
)
def test_the_kernel_matches_float64(shape, width, dtype, monkeypatch):
    inputs = make_inputs(*shape, width=width, dtype=dtype)
    emulate(gpu, monkeypatch)
    poison(monkeypatch)
    check(gpu.conv_projection(inputs[0], pack_weights(*inputs[1:])), inputs)


# ---- on a GPU ----

# batch, length, d_inner, columns; width
CASES = [
    ((1, 8192, 512, 48), 4),
    ((3, 1000, 512, 48), 4),  # a length that fills no block
    ((32, 37, 192, 48), 4),
    ((2, 1, 32, 16), 4),  # one token, one step
    ((1, 129, 96, 80), 3),
    ((2, 77, 1056, 80), 2),  # more channels than shared memory takes at a time
    ((2, 333, 256, 144), 4),
    ((5, 100, 128, 32), 1),
]


@pytest.mark.gpu
@every_dtype
@pytest.mark.parametrize(("shape", "width"), CASES, ids=str)
def test_cuda_matches_float64(shape, width, dtype, monkeypatch):
    inputs = make_inputs(*shape, width=width, dtype=dtype, device="cuda")
    poison(monkeypatch)
    found = conv_projection(*inputs, backend="cuda")
    monkeypatch.undo()
    check(found, inputs)
    assert torch.equal(found[0], bidirectional_conv_silu(*inputs[:3], backend="cuda"))


@pytest.mark.gpu
def test_cuda_takes_rows_with_any_gap():
    wide = torch.randn(2, 50, 200, device="cuda").bfloat16()
    _, *weights = make_inputs(1, 1, 64, 16, device="cuda")
    for x in (wide[..., :64], wide[..., 3:67], wide[:, ::2, 8:72], wide[..., :64].contiguous()):
        check(conv_projection(x, *weights, backend="cuda"), [x, *weights])


@pytest.mark.gpu
def test_cuda_gives_the_same_bits_again_and_at_any_place_of_a_batch():
    x, *weights = make_inputs(4, 300, 128, 48, device="cuda")
    u, x_dbl = conv_projection(x, *weights, backend="cuda")
    packed = pack_weights(*weights)
    again = conv_projection(x, *weights, packed, backend="cuda")
    assert torch.equal(again[0], u) and torch.equal(again[1], x_dbl)
    rolled = conv_projection(x.roll(1, 0), *weights, packed, backend="cuda")
    assert torch.equal(rolled[0], u.roll(1, 1)) and torch.equal(rolled[1], x_dbl.roll(1, 1))


@pytest.mark.gpu
@every_dtype
def test_auto_agrees_with_the_two_steps(dtype):
    inputs = make_inputs(2, 500, 512, 48, dtype=dtype, device="cuda")
    u, x_dbl = conv_projection(*inputs)
    steps = naive.conv_projection(*inputs, conv_backend="auto")
    assert torch.equal(u, steps[0]) and relative_error(x_dbl, steps[1]) < TOLERANCE[dtype]
