"""The two runners: the plain loop, and when the captured one captures its graph."""

from types import SimpleNamespace
from typing import ClassVar

import torch
from toy_model import CONTACT_DIM, ToyModel

from cdm.kernels import philox
from cdm.noise import stream_key
from cdm.sampling import cuda_sampler, runners
from cdm.sampling.cuda_sampler import AHEAD, CudaSampler
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.runners import Captured, Plain
from cdm.sampling.samplers import sample_loop, sampler_updates

DIFFUSION = create_diffusion(100, "cosine", "5")
UPDATES = sampler_updates("ddpm", DIFFUSION)
STEPS = [update.t for update in UPDATES]


def inputs(batch=3, num_points=9):
    torch.manual_seed(0)
    keys = philox.device_keys([stream_key(1, "noise", "s", i) for i in range(batch)], "cpu")
    return keys, torch.randn(batch, 4), torch.randn(batch, num_points, 3), None


def test_plain_is_sample_loop_with_the_noise_of_each_map():
    keys, c_text, c_pc_xyz, _ = batch = inputs()
    steps = []
    x_0 = Plain(ToyModel(), DIFFUSION, UPDATES).run(batch, lambda t, *_: steps.append(t))
    assert steps == STEPS

    def noise(step):
        return philox.normal(keys, step, 9, CONTACT_DIM)

    denoise = ToyModel().condition(c_text, c_pc_xyz)
    expected = sample_loop(UPDATES, denoise, noise, DIFFUSION.original_num_steps)
    assert torch.equal(x_0, expected)
    assert not torch.equal(x_0[0], x_0[1])


def test_plain_gives_the_points_in_the_callers_order_whatever_the_models_order():
    in_order = Plain(ToyModel(), DIFFUSION, UPDATES).run(inputs(), lambda *_: None)
    reordered = Plain(ToyModel(reorder=True), DIFFUSION, UPDATES).run(inputs(), lambda *_: None)
    torch.testing.assert_close(reordered, in_order, rtol=1e-6, atol=1e-6)


class FakeCudaSampler:
    """Stands in for the CUDA graph: remembers what it captured and was called with."""

    made: ClassVar[list] = []

    def __init__(self, model, updates, start):
        self.arguments = model, updates, start
        self.captured, self.called = [], []
        self.made.append(self)

    def capture(self, *inputs):
        self.captured.append(inputs)

    def __call__(self, *inputs, callback):
        self.called.append(inputs)
        callback(7, None, None)
        return inputs[2]


def test_captured_captures_once_and_again_after_forget(monkeypatch):
    monkeypatch.setattr(FakeCudaSampler, "made", [])
    monkeypatch.setattr(runners, "CudaSampler", FakeCudaSampler)
    model, batch, steps = ToyModel(), inputs(), []
    runner = Captured(model, DIFFUSION, UPDATES)
    runner.prepare(batch)
    for _ in range(2):
        assert runner.run(batch, lambda t, *_: steps.append(t)) is batch[2]
    [sampler] = FakeCudaSampler.made
    assert sampler.arguments == (model, UPDATES, DIFFUSION.original_num_steps)
    assert sampler.captured == [batch] and sampler.called == [batch, batch]
    assert steps == [7, 7]
    runner.forget()
    smaller = inputs(batch=1)
    runner.run(smaller, lambda *_: None)
    assert [each.captured for each in FakeCudaSampler.made] == [[batch], [smaller]]


def test_a_capture_that_fails_is_not_kept(monkeypatch):
    """Out of memory in the middle of a capture: the next batch must not replay a part of it."""

    class Failing(FakeCudaSampler):
        def capture(self, *inputs):
            raise torch.OutOfMemoryError("out of memory (made up)")

    monkeypatch.setattr(FakeCudaSampler, "made", [])
    monkeypatch.setattr(runners, "CudaSampler", Failing)
    runner = Captured(ToyModel(), DIFFUSION, UPDATES)
    for _ in range(2):
        try:
            runner.run(inputs(), lambda *_: None)
        except torch.OutOfMemoryError:
            continue
        raise AssertionError("a graph that was never captured was replayed")
    assert len(FakeCudaSampler.made) == 2


def test_the_host_is_never_far_ahead_of_the_device_over_many_short_batches(monkeypatch):
    submitted, reached = [0], [0]

    class Event:
        def record(self):
            self.at = submitted[0]

        def synchronize(self):
            reached[0] = self.at

    class Graph:
        def replay(self):
            submitted[0] += 1

    monkeypatch.setattr(cuda_sampler.torch.cuda, "Event", Event)
    model = SimpleNamespace(contact_layer=torch.nn.Linear(1, 1))
    sampler = CudaSampler(model, UPDATES, DIFFUSION.original_num_steps)
    sampler._graph, ahead = Graph(), []
    for _ in range(40):  # batches of five steps
        sampler._replay(lambda *_: ahead.append(submitted[0] - reached[0]))
    assert len(ahead) == 40 * len(UPDATES) and max(ahead) <= 2 * AHEAD
