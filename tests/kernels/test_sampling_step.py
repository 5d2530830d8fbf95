"""A sampling step's update: the naive form against the loop, and the kernel against both."""

import numpy as np
import pytest
import torch
from emulator import emulate
from helpers import poison

from cdm.kernels import nvrtc, philox
from cdm.kernels.sampling_step import gpu, naive, sampling_step
from cdm.noise import normal, stream_key
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.samplers import UPDATES, Update, sample_loop, sampler_updates

BATCH, NUM_POINTS = 3, 257  # points of two blocks, the second with a single one


def keys(device="cpu"):
    names = ["a", "b", "c"][:BATCH]
    return philox.device_keys([stream_key(1, "noise", "s", name) for name in names], device)


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    if request.param == "emulated":
        emulate(gpu, monkeypatch)
        return "cpu"
    assert nvrtc.unavailable(0) is None
    return "cuda"


ROWS = {
    "start": (0, 0, 1, 0),
    "first order": (0.25, -0.5, 0, 0),
    "with noise": (0.25, -0.5, 0.125, 0),
    "second order": (0.25, -0.5, 0, 2),
    "all terms": (0.25, -0.5, 0.125, 2),
    "last step": (1, 0, 0, 0),
}


@pytest.mark.parametrize("contact_dim", [1, 6, 22])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("row", ROWS)
def test_kernel_matches_naive(device, row, in_order, contact_dim, monkeypatch):
    torch.manual_seed(0)
    shape = BATCH, NUM_POINTS, contact_dim
    x, pred, previous = torch.randn(3, *shape)
    order = torch.stack([torch.randperm(NUM_POINTS) for _ in range(BATCH)])
    table = torch.tensor([[9.0] * 4, ROWS[row], [9.0] * 4])
    steps, position = torch.tensor([3, 499, 7]), torch.tensor([1])
    states = []
    for function, where in ((naive.sampling_step, "cpu"), (gpu.sampling_step, device)):
        inputs = [x, pred, previous, None if in_order else order, keys(), table, steps, position]
        inputs = [None if a is None else a.clone().to(where) for a in inputs]
        function(*inputs)
        states.append([a.cpu() for a in inputs[:3]])
    for name, expected, found in zip(("x", "pred", "previous"), *states, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=4e-6, msg=f"{row}: {name}")
    assert torch.equal(states[1][1], pred)
    assert torch.equal(states[1][2], previous if row == "start" else pred)


def test_terms_with_a_coefficient_of_zero_may_be_nan(device):
    nan = torch.full((BATCH, NUM_POINTS, 6), torch.nan)
    steps, position = torch.tensor([500]), torch.tensor([0])
    for function, where in ((naive.sampling_step, "cpu"), (gpu.sampling_step, device)):
        x = nan.clone().to(where)
        table = torch.tensor([[0.0, 0, 1, 0]])
        arguments = [a.to(where) for a in (keys(), table, steps, position)]
        function(x, x, None, None, *arguments)
        expected = torch.from_numpy(normal(keys().numpy(), 500, NUM_POINTS, 6))
        torch.testing.assert_close(x.cpu(), expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("contact_dim", [1, 3, 6, 22])
def test_noise_belongs_to_the_point_in_any_order(device, contact_dim):
    order = torch.stack([torch.randperm(NUM_POINTS) for _ in range(BATCH)])
    x = torch.full((BATCH, NUM_POINTS, contact_dim), torch.nan, device=device)
    table, position = torch.tensor([[0.0, 0, 1, 0]]), torch.tensor([0])
    arguments = [a.to(device) for a in (order, keys(), table, torch.tensor([499]), position)]
    gpu.sampling_step(x, x, None, *arguments)
    expected = torch.from_numpy(normal(keys().numpy(), 499, NUM_POINTS, contact_dim))
    for sample in range(BATCH):
        torch.testing.assert_close(
            x[sample].cpu(), expected[sample, order[sample]], rtol=0, atol=4e-6
        )


def toy(x, t):
    """Stands for a model: bounded, and different at every step."""
    return (0.7 * x + 0.001 * t - 0.2).clip(-1, 1)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("step", [naive.sampling_step, "kernel"])
def test_a_chain_of_updates_is_the_loop_of_samplers(name, step, device):
    """Row 0 starts the chain, the next rows are the sampler's updates, as in CudaSampler."""
    function = gpu.sampling_step if step == "kernel" else step
    device = device if step == "kernel" else "cpu"
    diffusion = create_diffusion(100, "cosine", "10")
    updates = sampler_updates(name, diffusion, 0.5)
    start = diffusion.original_num_steps
    rows = [Update(start, 0.0, 0.0, 1.0), *updates]
    table = torch.tensor([row[1:] for row in rows], device=device)
    steps = torch.tensor([row.t for row in rows], device=device)
    x = torch.full((BATCH, 40, 6), torch.nan, device=device)
    previous = torch.full_like(x, torch.nan) if any(u.prev_x0_coef for u in updates) else None
    for position, row in enumerate(rows):
        pred = x.clone() if position == 0 else toy(x, row.t)
        position = torch.tensor([position], device=device)
        function(x, pred, previous, None, keys(device), table, steps, position)

    def noise(step):
        return philox.normal(keys().numpy(), step, 40, 6)

    expected = sample_loop(updates, toy, noise, start)
    torch.testing.assert_close(x.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_the_naive_form_runs_on_the_cpu_by_itself(monkeypatch):
    poison(monkeypatch)
    x = torch.zeros(1, 4, 6)
    table, position = torch.tensor([[0.0, 0, 1, 0]]), torch.tensor([0])
    sampling_step(x, x, None, None, keys()[:1], table, torch.tensor([5]), position)
    expected = normal(np.asarray(keys()[:1]), 5, 4, 6)
    np.testing.assert_array_equal(x.numpy(), expected)


def test_wrong_backends_say_so():
    x = torch.zeros(1, 4, 6)
    arguments = x, x, None, None, keys()[:1], torch.zeros(1, 4), torch.zeros(1), torch.zeros(1)
    with pytest.raises(ValueError, match="backend is 'triton', expected auto or"):
        sampling_step(*arguments, backend="triton")
    with pytest.raises(ValueError, match="backend cuda cannot run on cpu; use backend='auto'"):
        sampling_step(*arguments, backend="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_device_computes_its_own_tensors_while_the_first_is_current():
    torch.manual_seed(0)
    x, pred, previous = torch.randn(3, BATCH, NUM_POINTS, 6)
    table, position = torch.tensor([ROWS["all terms"]]), torch.tensor([0])
    results = []
    for device in ("cpu", "cuda:1"):
        inputs = (x, pred, previous, keys(), table, torch.tensor([7]), position)
        x_, pred_, previous_, *rest = (a.clone().to(device) for a in inputs)
        with torch.cuda.device(0):
            sampling_step(x_, pred_, previous_, None, *rest)
            assert torch.cuda.current_device() == 0
        results.append(x_.cpu())
    torch.testing.assert_close(*results, rtol=0, atol=4e-6)
