"""The captured sampling loop gives the numbers of `sample_loop`, batch after batch."""

import threading

import pytest
import torch
from golden import POINT_MAMBA_CASES, conditions, forward_files, load_case
from helpers import relative_error

from cdm.kernels import philox
from cdm.model.point_order import gather_points
from cdm.noise import stream_key
from cdm.sampling.cuda_sampler import CudaSampler, unavailable
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.samplers import sample_loop, sampler_updates

pytestmark = pytest.mark.gpu
CASES = [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("dpmpp_2m", 0.0), ("dpmpp_2m_sde", 0.0)]


def keys_of(*names):
    return philox.device_keys([stream_key(1, "noise", "s", name) for name in names], "cuda")


@pytest.fixture(params=POINT_MAMBA_CASES)
def model_and_batches(request, parity):
    """A model of afford-motion and two batches of other conditions."""
    cdm = load_case(parity, request.param).cuda()
    arrays = next(iter(forward_files(parity, request.param)))
    inputs = [x.cuda() for x in conditions(arrays)]
    return cdm, [inputs, [x.flip(0).contiguous() for x in inputs]]


def naive(cdm, name, eta, diffusion, keys, inputs):
    denoise = cdm.condition(*inputs)
    shape = inputs[1].shape[1], cdm.architecture.contact_dim

    def noise(step):
        return gather_points(philox.normal(keys, step, *shape, "cuda"), denoise.order)

    updates = sampler_updates(name, diffusion, eta)
    x_0 = sample_loop(updates, denoise, noise, diffusion.original_num_steps)
    return gather_points(x_0, denoise.inverse)


@pytest.mark.parametrize(("name", "eta"), CASES)
@torch.inference_mode()
def test_the_graph_matches_sample_loop_batch_after_batch(model_and_batches, name, eta):
    assert unavailable("cuda") is None
    cdm, batches = model_and_batches
    diffusion = create_diffusion(500, "cosine", "20")
    size = len(batches[0][0])
    updates = sampler_updates(name, diffusion, eta)
    sampler = CudaSampler(cdm, updates, diffusion.original_num_steps)
    called = []
    for turn, inputs in enumerate([*batches, batches[0]]):
        keys = keys_of(*[f"{turn % 2} {i}" for i in range(size)])
        if turn == 0:
            sampler.capture(keys, *inputs)
        out = sampler(keys, *inputs, callback=lambda t, *_: called.append(t))
        expected = naive(cdm, name, eta, diffusion, keys, inputs)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
        if turn == 0:
            first = out
    assert torch.equal(out, first)  # the third batch is the first one again
    assert called == 3 * [update.t for update in updates]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@torch.inference_mode()
def test_the_second_device_gives_the_maps_of_the_first_while_that_is_current(parity):
    arrays = next(iter(forward_files(parity, POINT_MAMBA_CASES[0])))
    diffusion, maps = create_diffusion(500, "cosine", "20"), []
    for device in ("cuda:0", "cuda:1"):
        cdm = load_case(parity, POINT_MAMBA_CASES[0]).to(device)
        inputs = [x.to(device) for x in conditions(arrays)]
        keys = keys_of(*map(str, range(len(inputs[0])))).to(device)
        updates = sampler_updates("dpmpp_2m_sde", diffusion)
        sampler = CudaSampler(cdm, updates, diffusion.original_num_steps)
        sampler.capture(keys, *inputs)
        maps.append(sampler(keys, *inputs))
        assert maps[-1].device == torch.device(device) and torch.cuda.current_device() == 0
    assert torch.equal(maps[0].cpu(), maps[1].cpu())


@torch.inference_mode()
def test_threads_that_use_the_device_do_not_end_a_capture(model_and_batches):
    cdm, [inputs, _] = model_and_batches
    diffusion = create_diffusion(500, "cosine", "2")
    ended = threading.Event()

    def read_ahead():
        size = 0
        while not ended.is_set():
            size += 4097  # memory that is not in the allocators' caches
            torch.empty(size).pin_memory().cuda(non_blocking=True).sum().item()

    thread = threading.Thread(target=read_ahead)
    thread.start()
    try:
        for _ in range(20):
            sampler = CudaSampler(cdm, sampler_updates("ddim", diffusion), 500)
            sampler.capture(keys_of(*"abcdefgh"[: len(inputs[0])]), *inputs)
    finally:
        ended.set()
        thread.join()


@torch.inference_mode()
def test_a_step_in_16_bits_errs_no_more_than_autocast_does(model_and_batches):
    """Against float64. torch's autocast of the formula says what the 16 bits can do for a model.

    It rounds at more places (simulated on the CPU: 1.3 to 1.9 times the error in bf16, 2 to 6 times
    in fp16), but not at the same ones: hence the half that bf16 may have more.
    """
    cdm, batches = model_and_batches
    for inputs in batches:
        x = torch.randn(*inputs[1].shape[:2], cdm.architecture.contact_dim, device="cuda")
        for t in (0, 120, 499):
            given = [x, torch.full((len(x),), t, device="cuda"), *inputs]
            exact = in_float64(cdm, given)
            for precision, times in (("bf16", 1.5), ("fp16", 1.0)):
                cdm.precision = precision
                denoise = cdm.condition(*inputs)
                assert denoise.fused
                out = gather_points(denoise(gather_points(x, denoise.order), t), denoise.inverse)
                peer = relative_error(cdm.naive_forward(*given), exact)
                assert relative_error(out, exact) < times * peer < 0.1, (precision, t)


def in_float64(cdm, given):
    """The formula in float64, on the CPU."""
    given = [x.cpu().double() if x.is_floating_point() else x.cpu() for x in given]
    cdm.precision = "fp32"
    exact = cdm.cpu().double().naive_forward(*given)
    cdm.float().cuda()
    return exact
