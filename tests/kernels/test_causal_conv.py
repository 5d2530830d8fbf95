"""The causal convolution against conv1d and against its definition."""

import pytest
import torch
import torch.nn.functional as F
from emulator import emulate
from golden import assert_close
from helpers import poison, relative_error

from cdm.kernels.causal_conv import bidirectional_conv_silu, causal_conv_silu, gpu


def make_inputs(batch=2, length=17, d_inner=24, width=4):
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(batch, length, d_inner, generator=generator)
    weight = torch.randn(d_inner, width, generator=generator)
    return x, weight, torch.randn(d_inner, generator=generator)


@pytest.mark.parametrize("backend", ["naive", "numba"])
def test_last_kernel_element_meets_the_current_point(backend):
    x, weight, bias = make_inputs(length=5)
    y = causal_conv_silu(x, weight, bias, backend=backend)
    expected = F.silu(
        bias + weight[:, 3] * x[:, 2] + weight[:, 2] * x[:, 1] + weight[:, 1] * x[:, 0]
    )
    assert_close("y_2", expected, y[:, 2])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("d_inner", [1, 15, 48])
@pytest.mark.parametrize("length", [1, 2, 3, 63])
def test_numba_matches_naive(length, d_inner, width, reverse):
    inputs = make_inputs(length=length, d_inner=d_inner, width=width)
    double = [x.double() for x in inputs]
    expected = causal_conv_silu(*double, reverse=reverse, backend="naive")
    y = causal_conv_silu(*inputs, reverse=reverse, backend="numba")
    assert_close("y", expected, y, 1e-6, 2e-6)


@pytest.mark.parametrize("backend", ["naive", "numba"])
def test_reverse_is_flip_of_forward_of_flip(backend):
    x, weight, bias = make_inputs()
    expected = causal_conv_silu(x.flip(1), weight, bias, backend=backend).flip(1)
    y = causal_conv_silu(x, weight, bias, reverse=True, backend=backend)
    assert_close("y", expected, y, 1e-6, 2e-6)


def test_numba_does_not_depend_on_batch_slot_or_threads():
    x, weight, bias = make_inputs(batch=5, d_inner=21)
    alone = causal_conv_silu(x[3:4], weight, bias, backend="numba")
    num_threads = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            y = causal_conv_silu(x, weight, bias, backend="numba")
            assert torch.equal(y[3:4], alone), threads
    finally:
        torch.set_num_threads(num_threads)


def test_every_output_is_written(monkeypatch):
    inputs = make_inputs(d_inner=21)
    poison(monkeypatch)
    assert causal_conv_silu(*inputs, backend="numba").isfinite().all()


def test_auto_keeps_gradients():
    x, weight, bias = make_inputs()
    causal_conv_silu(x.requires_grad_(), weight, bias).sum().backward()
    assert x.grad.isfinite().all()


def test_wrong_backends_say_so():
    x, weight, bias = make_inputs()
    with pytest.raises(ValueError, match="expected auto, naive or numba"):
        causal_conv_silu(x, weight, bias, backend="triton")
    with pytest.raises(ValueError, match="cuda on CUDA devices"):
        causal_conv_silu(x, weight, bias, backend="cuda")
    with pytest.raises(ValueError, match="use backend='auto'"):
        causal_conv_silu(x.double(), weight, bias, backend="numba")


def test_both_directions_are_two_convolutions():
    x, weight, bias = make_inputs()
    both = bidirectional_conv_silu(x, weight, bias)
    for direction, reverse in enumerate((False, True)):
        assert torch.equal(both[direction], causal_conv_silu(x, weight, bias, reverse))
    with pytest.raises(ValueError, match="expected auto, naive or cuda"):
        bidirectional_conv_silu(x, weight, bias, backend="numba")
    with pytest.raises(ValueError, match="use backend='auto'"):
        bidirectional_conv_silu(x, weight, bias, backend="cuda")


TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3e-3, torch.float16: 4e-4}


@pytest.mark.parametrize(("dtype", "width"), [*zip(TOLERANCE, (4, 3, 1), strict=True)], ids=str)
def test_the_kernel_run_on_the_cpu_matches_naive_in_both_directions(dtype, width, monkeypatch):
    emulate(gpu, monkeypatch)
    wide, weight, bias = make_inputs(length=37, d_inner=80, width=width)
    x, weight, bias = wide.to(dtype)[..., :40], weight[:40], bias[:40]
    expected = bidirectional_conv_silu(*(a.double() for a in (x, weight, bias)), backend="naive")
    poison(monkeypatch)
    out = gpu.bidirectional_conv_silu(x, weight, bias)
    assert out.dtype == dtype and relative_error(out, expected) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2, 37, 40), (1, 1, 8), (3, 16, 64), (2, 1000, 512)], ids=str)
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCE.items())
def test_cuda_matches_naive_in_both_directions(shape, width, dtype, tolerance, monkeypatch):
    batch, length, d_inner = shape
    torch.manual_seed(0)
    x = torch.randn(batch, length, 2 * d_inner, device="cuda").to(dtype)[..., :d_inner]
    weight, bias = torch.randn(d_inner, width).cuda(), torch.randn(d_inner).cuda()
    expected = bidirectional_conv_silu(*(a.double() for a in (x, weight, bias)), backend="naive")
    poison(monkeypatch)
    out = bidirectional_conv_silu(x, weight, bias, backend="cuda")
    assert out.dtype == dtype and relative_error(out, expected) < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("length", "width"), [(1, 4), (17, 2), (1000, 4)])
def test_cuda_gradients_match_float64_autograd_of_naive(length, width, reverse):
    inputs = [x.cuda() for x in make_inputs(length=length, width=width)]
    results = []
    for backend, dtype in (("naive", torch.float64), ("auto", torch.float32)):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        y = causal_conv_silu(*leaves, reverse=reverse, backend=backend)
        y.sin().sum().backward()
        results.append([y.detach(), *(x.grad for x in leaves)])
    for name, a, b in zip(("y", "x", "weight", "bias"), *results, strict=True):
        assert relative_error(b, a) < 3e-6, name
