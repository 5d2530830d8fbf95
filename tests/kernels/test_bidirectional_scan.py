"""The bidirectional scan: the naive form against the formula, the CUDA kernels against it."""

import pytest
import torch
import torch.nn.functional as F
from emulator import emulate
from helpers import poison, relative_error

from cdm.kernels.bidirectional_scan import bidirectional_scan, gate_dtype, gpu, naive
from cdm.kernels.selective_scan import selective_scan

# batch, length, d_inner, d_state, dt_rank: odd lengths, channels that fill no block, one token
SHAPES = [
    (2, 64, 64, 16, 16),
    (1, 1, 8, 16, 16),
    (3, 37, 40, 16, 16),
    (2, 200, 136, 8, 32),
    (1, 129, 64, 32, 16),
    (1, 65, 72, 64, 48),
    (2, 1000, 128, 16, 16),
]
# scale of dt and its bias: as trained, large steps, steps so small that softplus is exp
STEPS = {"usual": (1.0, -4.0), "large": (8.0, 2.0), "tiny": (0.1, -9.0)}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1.25e-3}


def make_inputs(shape, dtype=torch.float32, steps="usual", seed=0, device="cpu"):
    batch, length, d_inner, d_state, dt_rank = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    scale, bias = STEPS[steps]
    inputs = (
        normal(2, batch, length, d_inner).to(dtype),
        normal(2, batch, length, dt_rank + 2 * d_state).to(dtype),
        (normal(d_inner, dt_rank) * scale / dt_rank**0.5).to(dtype),
        normal(d_inner) + bias,
        -torch.exp(3.5 * torch.rand(d_inner, d_state, generator=generator) - 1),
        normal(d_inner),
        normal(batch, length, 2 * d_inner).to(gate_dtype(dtype)),
    )
    *inputs, xz = (x.to(device) for x in inputs)
    return [*inputs, xz[..., d_inner:]]  # as the model hands it over: half of wider rows


def in_float64(inputs):
    """The naive form in float64, of the numbers that the kernel is given."""
    return naive.bidirectional_scan(*(x.cpu().double() for x in inputs))


def test_naive_is_the_formula():
    u, x_dbl, weight, bias, A, D, z = (x.double() for x in make_inputs((2, 9, 8, 4, 3)))
    y = 0
    for d, turn in ((0, lambda x: x), (1, lambda x: x.flip(1))):
        dt, B, C = turn(x_dbl[d]).split((3, 4, 4), dim=-1)
        delta = F.softplus(dt @ weight.T + bias)
        y = y + turn(selective_scan(turn(u[d]), delta, A, B, C, D, backend="naive"))
    out = bidirectional_scan(u, x_dbl, weight, bias, A, D, z)
    torch.testing.assert_close(out, y * F.silu(z), rtol=1e-12, atol=1e-12)


def test_backends_that_cannot_run_say_so():
    inputs = make_inputs((1, 4, 8, 16, 16))
    with pytest.raises(ValueError, match="expected auto or"):
        bidirectional_scan(*inputs, backend="triton")
    with pytest.raises(ValueError, match=r"backend cuda cannot run torch\.float32 on cpu"):
        bidirectional_scan(*inputs, backend="cuda")
    with pytest.raises(ValueError, match=r"torch\.float64 on cpu.*float32, bfloat16 or float16"):
        bidirectional_scan(*(x.double() for x in inputs), backend="cuda")
    *half, z = (x.bfloat16() if x.dim() > 2 else x for x in inputs)
    with pytest.raises(ValueError, match=r"z is torch\.float32, expected torch\.bfloat16"):
        bidirectional_scan(*half, z.float(), backend="cuda")
    with pytest.raises(ValueError, match="d_state 8, 16, 32 or 64"):
        bidirectional_scan(*make_inputs((1, 4, 8, 5, 16)), backend="cuda")


# ---- the kernels, run on the CPU ----


# Lengths that fill no tile of 8 tokens, from one tile up to eight; segments of one or two tiles.
@pytest.mark.parametrize(
    ("shape", "dtype", "steps", "halves", "segments"),
    [
        ((2, 29, 40, 16, 16), torch.bfloat16, "usual", 2, 1),
        ((1, 61, 24, 16, 16), torch.bfloat16, "usual", 1, 4),
        ((1, 29, 72, 16, 16), torch.bfloat16, "large", 2, 2),
        ((1, 5, 8, 8, 32), torch.float16, "large", 1, 1),
        ((1, 19, 16, 32, 16), torch.float16, "tiny", 2, 3),
        ((2, 37, 72, 16, 16), torch.float32, "large", 0, 0),
    ],
    ids=str,
)
def test_the_kernels_match_naive(shape, dtype, steps, halves, segments, monkeypatch):
    inputs = make_inputs(shape, dtype, steps)
    emulate(gpu, monkeypatch)
    monkeypatch.setattr(gpu, "split", lambda *_: (halves, segments))
    poison(monkeypatch)
    out = gpu.bidirectional_scan(*inputs)
    monkeypatch.undo()
    assert out.dtype == dtype
    assert relative_error(out, in_float64(inputs)) < TOLERANCE[dtype]


# ---- on a GPU ----


@pytest.mark.gpu
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_cuda_matches_naive(dtype, shape, steps, monkeypatch):
    inputs = make_inputs(shape, dtype, steps, device="cuda")
    poison(monkeypatch)
    out = bidirectional_scan(*inputs, backend="cuda")
    monkeypatch.undo()
    assert out.dtype == dtype
    assert relative_error(out, in_float64(inputs)) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(20))
def test_cuda_matches_naive_on_random_shapes(seed):
    generator = torch.Generator().manual_seed(seed)

    def pick(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    d_state = (8, 16, 32, 64)[pick(0, 4)]
    shape = pick(1, 4), pick(1, 300), 8 * pick(1, 20), d_state, 16 * pick(1, 4)
    for dtype, tolerance in TOLERANCE.items():
        inputs = make_inputs(shape, dtype, seed=seed, device="cuda")
        error = relative_error(bidirectional_scan(*inputs, backend="cuda"), in_float64(inputs))
        assert error < tolerance, (shape, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("segments", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(1, 1003, 64, 16, 16), (2, 300, 40, 32, 32)], ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 5e-3), (torch.float16, 7e-4)])
def test_cuts_into_warps_and_segments_change_nothing(
    shape, segments, halves, dtype, limit, monkeypatch
):
    inputs = make_inputs(shape, dtype, device="cuda")
    monkeypatch.setattr(gpu, "split", lambda *_: (halves, segments))
    assert relative_error(bidirectional_scan(*inputs), in_float64(inputs)) < limit


@pytest.mark.gpu
@pytest.mark.parametrize("which", [0, 1, 6], ids=["u", "x_dbl", "z"])
def test_what_overflows_in_half_precision_never_passes_for_a_number(which):
    inputs = make_inputs((1, 100, 64, 16, 16), torch.float16, device="cuda")
    inputs[which][(-1,) * inputs[which].dim()] = float("inf")
    assert not bidirectional_scan(*inputs).isfinite().all()


@pytest.mark.gpu
def test_small_batches_are_cut_finer():
    """132 multiprocessors or so: 32 maps of full size need no cut, one does."""
    halves, segments = gpu.split(64, 8192, 512, "cuda")
    assert (halves, segments) == (2, 1)
    assert gpu.split(1, 8192, 512, "cuda")[1] > 1
    assert gpu.split(1, 100, 512, "cuda")[1] == 1  # too short to cut


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_cuda_gives_the_same_bits_again_and_at_any_place_of_a_batch(dtype):
    inputs = make_inputs((4, 300, 64, 16, 16), dtype, device="cuda")
    out = bidirectional_scan(*inputs)
    assert torch.equal(bidirectional_scan(*inputs), out)
    u, x_dbl, *weights, z = inputs
    rolled = bidirectional_scan(u.roll(1, 1), x_dbl.roll(1, 1), *weights, z.roll(1, 0))
    assert torch.equal(rolled, out.roll(1, 0))
