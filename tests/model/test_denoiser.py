"""A model with conditions bound, and the two ways in which it is called."""

import pytest
import torch
from helpers import small_architecture

from cdm.model.cdm import CDM
from cdm.model.denoiser import Denoiser, PerSample, WholeBatch

BATCH, NUM_POINTS = 3, 40


@pytest.fixture(scope="module")
def cdm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CDM(small_architecture("PointMamba")).eval()


def conditions(seed=1, batch=BATCH):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 30, generator=generator),
        torch.randn(batch, NUM_POINTS, 3, generator=generator),
    )


def noisy_maps(batch=BATCH):
    return torch.randn(batch, NUM_POINTS, 6, generator=torch.Generator().manual_seed(9))


def test_a_batch_is_split_into_copies_of_single_samples_and_joined_again():
    x, y = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    parts = PerSample().split((x, (y,)), 3)
    assert [part[0].tolist() for part in parts] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [part[1][0].tolist() for part in parts] == [[0], [1], [2]]
    parts[0][0].fill_(9)
    assert x[0, 0] == 0  # a copy
    assert torch.equal(PerSample().join([part[1][0] for part in parts]), y)
    assert WholeBatch().split(x, 3) == [x] and WholeBatch().join([x]) is x


@pytest.mark.parametrize("calls", [PerSample(), WholeBatch()])
def test_functions_run_once_for_each_part_and_keep_their_order(calls):
    x, y = torch.arange(4.0)[:, None], torch.ones(4, 1)
    columns = (calls.split(tensor, 4) for tensor in (x, y))
    results = calls.map(lambda a, b: (a + b, len(a)), *columns)
    assert torch.equal(calls.join([result for result, _ in results]), x + y)
    assert {size for _, size in results} == ({1} if isinstance(calls, PerSample) else {4})
    assert calls.join([None]) is None and calls.once(lambda: 7) == 7
    assert PerSample().join([None, None]) is None


def test_per_sample_calls_have_no_gradients_and_one_thread():
    weight = torch.ones(1, requires_grad=True)
    with torch.enable_grad():
        [result] = PerSample().map(lambda x: (x * weight, torch.get_num_threads()), [weight])
    assert not result[0].requires_grad


@torch.no_grad()
def test_a_cpu_computes_each_sample_by_itself_and_gradients_need_the_whole_batch(cdm):
    assert isinstance(Denoiser(cdm, *conditions())._calls, PerSample)
    with torch.enable_grad():
        denoise = Denoiser(cdm, *conditions())
        assert isinstance(denoise._calls, WholeBatch)
        assert denoise(noisy_maps(), 5).requires_grad


@torch.no_grad()
def test_both_ways_of_calling_agree_within_rounding(cdm):
    with torch.enable_grad():
        whole = Denoiser(cdm, *conditions())
        expected, order = whole(noisy_maps(), 5).detach(), whole.order
    denoise = Denoiser(cdm, *conditions())
    assert torch.equal(denoise.order, order)
    torch.testing.assert_close(denoise(noisy_maps(), 5), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_timestep_may_be_one_for_all_or_one_for_each(cdm):
    denoise, x_t = Denoiser(cdm, *conditions()), noisy_maps()
    out = denoise(x_t, 7)
    assert torch.equal(denoise(x_t, torch.tensor([7])), out)
    assert torch.equal(denoise(x_t, torch.tensor([7, 7, 7])), out)
    mixed = denoise(x_t, torch.tensor([7, 300, 7]))
    assert torch.equal(mixed[[0, 2]], out[[0, 2]])
    assert torch.equal(mixed[1], denoise(x_t, 300)[1]) and not torch.equal(mixed[1], out[1])


@torch.no_grad()
def test_rebinding_takes_other_conditions_into_the_same_memory(cdm):
    denoise, x_t = Denoiser(cdm, *conditions()), noisy_maps()
    before = [id(x) for state in denoise._states for x in state if torch.is_tensor(x)]
    denoise.rebind(*conditions(2))
    after = [id(x) for state in denoise._states for x in state if torch.is_tensor(x)]
    assert before == after
    assert torch.equal(denoise(x_t, 5), Denoiser(cdm, *conditions(2))(x_t, 5))


@torch.no_grad()
def test_a_sample_is_the_same_alone_and_in_a_batch(cdm):
    c_text, c_pc_xyz = conditions()
    x_t = noisy_maps()
    out = Denoiser(cdm, c_text, c_pc_xyz)(x_t, 5)
    for i in range(BATCH):
        alone = Denoiser(cdm, c_text[i : i + 1], c_pc_xyz[i : i + 1])(x_t[i : i + 1], 5)
        assert torch.equal(alone[0], out[i])
