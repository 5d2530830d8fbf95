"""Every backend of the selective scan against the naive loop, and that against stored numbers."""

import os
import subprocess
import sys

import pytest
import torch
from golden import assert_close, load_arrays
from helpers import relative_error

from cdm.kernels.selective_scan import mamba_ssm, resolve_backend, selective_scan

FAST = ["numba", "chunked"]


def make_inputs(batch=2, length=17, d_inner=24, d_state=16, seed=0, delta_shift=-2.0):
    """u, delta, A, B, C, D, z, delta_bias of a typical layer."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    u, delta, z = (normal(batch, length, d_inner) for _ in range(3))
    A = -torch.arange(1, d_state + 1.0).repeat(d_inner, 1) * (1 + 0.1 * normal(d_inner, d_state))
    B, C = normal(batch, length, d_state), normal(batch, length, d_state)
    return u, delta + delta_shift, A, B, C, normal(d_inner), z, 0.1 * normal(d_inner)


def assert_agrees(backend, inputs, rtol=1e-5, atol=1e-5, **options):
    double = [x if x is None else x.double() for x in inputs]
    naive = selective_scan(*double, return_last_state=True, backend="naive", **options)
    output = selective_scan(*inputs, return_last_state=True, backend=backend, **options)
    for name, a, b in zip(("y", "last_state"), naive, output, strict=True):
        scale = max(1, a.abs().max().item())
        assert_close(f"{backend} {name}", a.cpu(), b.cpu(), rtol, atol * scale)


@pytest.mark.parametrize("backend", ["naive", *FAST, "auto"])
def test_selective_scan_matches_the_stored_numbers(parity, parity_index, backend):
    arrays = load_arrays(parity / "01_pointmamba/mamba_unit.npz")
    inputs = [arrays.get("scan." + key) for key in "u delta A B C D z delta_bias".split()]
    inputs = [x.mT if x is not None and x.ndim == 3 else x for x in inputs]  # channels last
    y, last_state = selective_scan(
        *inputs, delta_softplus=True, return_last_state=True, backend=backend
    )
    tolerance = parity_index["tolerances"]["forward_fp32"]
    assert_close("y", arrays["scan.out"].mT, y, **tolerance)
    assert_close("last_state", arrays["scan.last_state"], last_state, **tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 200])
@pytest.mark.parametrize("backend", FAST)
def test_any_length_matches_naive(backend, length, reverse):
    assert_agrees(backend, make_inputs(length=length), delta_softplus=True, reverse=reverse)


@pytest.mark.parametrize(
    "d_state", [1, 4, 6, 8, 16, pytest.param(32, marks=pytest.mark.long), 64]
)  # numba compiles another kernel for 4, 8, 16, 32 and 64, which takes seconds
@pytest.mark.parametrize("d_inner", [1, 15, 16, 33, 48])
@pytest.mark.parametrize("backend", FAST)
def test_any_width_matches_naive(backend, d_inner, d_state):
    inputs = make_inputs(d_inner=d_inner, d_state=d_state)
    assert_agrees(backend, inputs, delta_softplus=True)


@pytest.mark.parametrize("delta_softplus", [False, True])
@pytest.mark.parametrize("absent", [[5], [6], [7], [5, 6, 7]])
@pytest.mark.parametrize("backend", FAST)
def test_optional_inputs_match_naive(backend, absent, delta_softplus):
    inputs = [None if i in absent else x for i, x in enumerate(make_inputs())]
    inputs[1] = inputs[1].abs()
    assert_agrees(backend, inputs, delta_softplus=delta_softplus)


@pytest.mark.parametrize("delta_shift", [-40.0, -15.0, 0.0, 15.0, 40.0, 1000.0])
@pytest.mark.parametrize("backend", FAST)
def test_tiny_and_large_delta_match_naive(backend, delta_shift):
    inputs = make_inputs(length=100, delta_shift=delta_shift)
    assert_agrees(backend, inputs, delta_softplus=True)


@pytest.mark.parametrize("backend", FAST)
def test_long_memory_does_not_drift(backend):
    inputs = list(make_inputs(batch=1, length=3000, d_inner=8, d_state=4, delta_shift=-9.0))
    inputs[2] = inputs[2] * 0.01  # a state lives for a million steps
    assert_agrees(backend, inputs, rtol=1e-5, atol=5e-6, delta_softplus=True)


@pytest.mark.parametrize("backend", FAST)
def test_strided_inputs_match_naive(backend):
    u, delta, A, B, C, D, z, delta_bias = make_inputs()
    wide = torch.cat((B, C), dim=-1)
    B, C = wide.chunk(2, dim=-1)
    u = u.mT.contiguous().mT
    assert_agrees(backend, (u, delta, A, B, C, D, z, delta_bias), delta_softplus=True)


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_reverse_is_flip_of_forward_of_flip(backend):
    inputs = make_inputs()
    flipped = [x.flip(1) if x.ndim == 3 else x for x in inputs]
    options = {"delta_softplus": True, "return_last_state": True, "backend": backend}
    y, last_state = selective_scan(*inputs, reverse=True, **options)
    expected = selective_scan(*flipped, **options)
    assert torch.equal(y, expected[0].flip(1))
    assert torch.equal(last_state, expected[1])


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_every_output_is_written(backend, monkeypatch):
    for owner, name in ((torch, "empty_like"), (torch.Tensor, "new_empty")):
        original = getattr(owner, name)
        poisoned = lambda *a, _f=original, **k: _f(*a, **k).fill_(torch.nan)  # noqa: E731
        monkeypatch.setattr(owner, name, poisoned)
    y, last_state = selective_scan(
        *make_inputs(d_inner=21), delta_softplus=True, return_last_state=True, backend=backend
    )
    assert y.isfinite().all() and last_state.isfinite().all()


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("which", range(8))
def test_nan_is_not_hidden(backend, which):
    inputs = list(make_inputs())
    inputs[which] = inputs[which].clone()
    inputs[which].view(-1)[0] = torch.nan
    assert selective_scan(*inputs, delta_softplus=True, backend=backend).isnan().any()


def test_numba_does_not_depend_on_batch_slot_or_threads():
    inputs = make_inputs(batch=5, length=50, d_inner=72)
    num_threads = torch.get_num_threads()
    alone = [x[3:4] if x.ndim == 3 else x for x in inputs]
    expected = selective_scan(*alone, delta_softplus=True, backend="numba")
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            y = selective_scan(*inputs, delta_softplus=True, backend="numba")
            assert torch.equal(y[3:4], expected), threads
            y = selective_scan(*alone, delta_softplus=True, backend="numba")
            assert torch.equal(y, expected), threads
    finally:
        torch.set_num_threads(num_threads)


def test_chunked_gradients_match_naive():
    gradients = []
    for backend in ("naive", "chunked"):
        inputs = [x.double().requires_grad_() for x in make_inputs(length=21)]
        y, h = selective_scan(
            *inputs, delta_softplus=True, return_last_state=True, reverse=True, backend=backend
        )
        (y.sin().sum() + h.cos().sum()).backward()
        gradients.append([x.grad for x in inputs])
    for a, b in zip(*gradients, strict=True):
        assert_close("gradient", a, b, 1e-10, 1e-10)


def test_auto_takes_what_can_run():
    assert resolve_backend("cpu", torch.float32) == "numba"
    assert resolve_backend("cpu", torch.bfloat16) == "numba"
    assert resolve_backend("cpu", torch.float64) == "chunked"
    assert resolve_backend("cpu", torch.float32, needs_grad=True) == "chunked"
    expected = "mamba_ssm" if mamba_ssm.available() else "chunked"
    assert resolve_backend("cuda", torch.float32) == expected


def test_bfloat16_is_computed_in_float32():
    inputs = [x.bfloat16() for x in make_inputs()]
    y = selective_scan(*inputs, delta_softplus=True)
    assert y.dtype == torch.bfloat16
    naive = selective_scan(*[x.float() for x in inputs], delta_softplus=True, backend="naive")
    assert_close("bf16", naive, y, 1e-2, 1e-3)


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_autocast_does_not_reach_the_scan(backend):
    inputs = make_inputs()
    expected = selective_scan(*inputs, delta_softplus=True, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*inputs, delta_softplus=True, backend=backend)
    assert torch.equal(y, expected)


def test_wrong_backends_say_so():
    inputs = make_inputs()
    with pytest.raises(ValueError, match="expected auto or"):
        selective_scan(*inputs, backend="triton")
    with pytest.raises(ValueError, match="backend cuda takes"):
        selective_scan(*inputs, backend="cuda")
    with pytest.raises(ValueError, match="use backend='auto'"):
        selective_scan(*[x.double() for x in inputs], backend="numba")


@pytest.mark.long  # compiles with numba twice
def test_compiled_kernel_is_cached_and_works_without_a_cache(tmp_path):
    """A second process reads the kernel of the first; nowhere to write it is no error."""
    code = (
        "import torch, cdm.kernels.selective_scan.cpu as cpu;"
        "z = torch.ones(1, 3, 16);"
        "cpu.selective_scan(z, z, -torch.ones(16, 4), z[..., :4], z[..., :4], None, None, None,"
        " True, False);"
        "print(sum(cpu._compile(4).stats.cache_hits.values()))"
    )
    nowhere = "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = [];"

    def cache_hits(code):
        environment = os.environ | {
            "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)
        }  # fmt: skip
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
        return int(run.stdout)

    assert cache_hits(code) == 0
    assert cache_hits(code) == 1
    assert cache_hits(nowhere + code) == 0
    other_math = "import cdm.kernels.vector_math as math; math.VERSION += 2;"
    assert cache_hits(other_math + code) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 63, 200])
@pytest.mark.parametrize("backend", ["chunked", "mamba_ssm", "auto"])
def test_cuda_backends_match_naive(backend, length, reverse):
    if backend == "mamba_ssm" and not mamba_ssm.available():
        pytest.skip("mamba_ssm is not installed with its CUDA scan")
    inputs = [x.cuda() for x in make_inputs(length=length)]
    assert_agrees(backend, inputs, 1e-4, 2e-5, delta_softplus=True, reverse=reverse)


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("batch", "length", "d_inner"), [(2, 1, 64), (3, 7, 128), (2, 333, 192)])
def test_cuda_gradients_match_float64_autograd_of_naive(batch, length, d_inner, reverse):
    sizes = {"batch": batch, "length": length, "d_inner": d_inner, "d_state": 16}
    inputs = [x.cuda() for x in make_inputs(**sizes)]
    weights = torch.randn(batch, length, d_inner, device="cuda")
    results = []
    for backend, dtype in (("naive", torch.float64), ("auto", torch.float32)):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        y = selective_scan(*leaves, delta_softplus=True, reverse=reverse, backend=backend)
        (y * weights).sum().backward()
        results.append([y.detach(), *(x.grad for x in leaves)])
    for name, a, b in zip(("y", *"u delta A B C D z bias".split()), *results, strict=True):
        none = length == 1 and name == "A"  # the first step has nothing to decay
        assert not (a.any() or b.any()) if none else relative_error(b, a) < 3e-6, name
    again = [x.requires_grad_() for x in inputs]
    y = selective_scan(*again, delta_softplus=True, reverse=reverse, backend="cuda")
    (y * weights).sum().backward()
    assert all(torch.equal(x.grad, b) for x, b in zip(again, results[1][1:], strict=True))
