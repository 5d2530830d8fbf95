"""Maps sampled batch by batch: inputs, padding, and batches that do not fit into memory."""

import numpy as np
import pytest
import torch
from helpers import run_config
from toy_model import CONTACT_DIM, ToyModel

from cdm.datasets import Item, Sample
from cdm.errors import ConfigError
from cdm.jobs.progress import Progress
from cdm.noise import stream_key
from cdm.sampling.map_sampler import MapSampler

NUM_POINTS = 16
TEXTS = {"sit": 0.0, "lie": 1.0, "": 2.0}


def quiet(line):
    pass


def maps(count=5, feat_dim=0):
    """(sample, item, k): other points, captions and numbers."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        sample = Sample("HUMANISE", str(i // 2), i % 2, list(TEXTS)[i % 3])
        xyz = rng.normal(size=(NUM_POINTS, 3)).astype(np.float32)
        feat = rng.normal(size=(NUM_POINTS, feat_dim)).astype(np.float32)
        found.append((sample, Item(sample, xyz, feat, None, np.eye(4, dtype=np.float32)), i % 3))
    return found


def make(model=None, batch_size=4, log=quiet, **changes):
    config = run_config(seed=9, sampling={"batch_size": batch_size, **changes})
    features = {text: torch.full((4,), value) for text, value in TEXTS.items()}
    return MapSampler(model or ToyModel(), config, features, "cpu", log)


def sample(sampler, batch):
    return sampler.sample(batch, Progress(len(batch), "test", quiet))


def test_collate_puts_every_maps_inputs_in_one_row():
    batch, entries = make(ToyModel(point_feat_dim=2)).collate(maps(feat_dim=2)), maps(feat_dim=2)
    assert len(batch) == 5
    for row, (s, item, k) in enumerate(entries):
        key = stream_key(9, "noise", s.set, s.index, s.caption_idx, k)
        assert tuple(batch.keys[row].tolist()) == key
        assert batch.c_text[row].tolist() == [TEXTS[s.text]] * 4
        np.testing.assert_array_equal(batch.c_pc_xyz[row], item.c_pc_xyz)
        np.testing.assert_array_equal(batch.c_pc_feat[row], item.c_pc_feat)
    assert make().collate(maps(feat_dim=2)).c_pc_feat is None  # the model takes none


def test_point_features_of_another_width_name_the_item_and_the_keys():
    with pytest.raises(ConfigError, match=r"HUMANISE/0: 3 point features; .*dataset\.use_color"):
        make(ToyModel(point_feat_dim=2)).collate(maps(feat_dim=3))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_a_map_does_not_depend_on_its_batch(batch_size):
    alone = [sample(make(), [entry])[0] for entry in maps()]
    together = sample(make(batch_size=batch_size), maps())
    assert together.shape == (5, NUM_POINTS, CONTACT_DIM) and together.dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)
    assert len(np.unique(together[:, 0, 0])) == 5


def test_a_batch_is_sampled_in_parts_of_batch_size():
    model = ToyModel()
    sample(make(model, batch_size=2), maps())
    assert model.sizes == [2, 2, 1]


def test_a_short_batch_is_padded_with_its_last_map_on_a_gpu():
    sampler = make(batch_size=4)
    batch = sampler.collate(maps(3))
    assert [len(x) for x in sampler._inputs(batch) if x is not None] == [3, 3, 3]
    sampler._on_gpu = True
    keys, c_text, c_pc_xyz, c_pc_feat = sampler._inputs(batch)
    assert c_pc_feat is None
    for padded, given in ((keys, batch.keys), (c_text, batch.c_text), (c_pc_xyz, batch.c_pc_xyz)):
        assert torch.equal(padded, given[[0, 1, 2, 2]])


@pytest.mark.parametrize(
    ("fits", "sizes"),
    [(5, [5]), (3, [5, 2, 2, 1]), (2, [5, 2, 2, 1]), (1, [5, 2, 1, 1, 1, 1, 1])],
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(fits, sizes):
    model, lines = ToyModel(fits=fits), []
    found = sample(make(model, batch_size=5, log=lines.append), maps())
    assert model.sizes == sizes
    np.testing.assert_allclose(found, sample(make(batch_size=5), maps()), rtol=1e-6, atol=1e-6)
    warnings = [line for line in lines if line.startswith("warning: out of GPU memory")]
    assert len(warnings) == (len(sizes) > 1)
    if warnings:
        assert f"with batch_size 5; going on with {sizes[-2] if fits > 1 else 1}" in warnings[0]


def test_the_smaller_batch_is_kept_for_later_batches():
    model = ToyModel(fits=2)
    sampler = make(model, batch_size=4)
    sample(sampler, maps(4))
    sample(sampler, maps(4))
    assert model.sizes == [4, 2, 2, 2, 2]


def test_memory_is_released_before_a_smaller_batch_is_tried(monkeypatch):
    sampler, forgotten = make(ToyModel(fits=2), batch_size=4), []
    monkeypatch.setattr(sampler._runner, "forget", lambda: forgotten.append(sampler.batch_size))
    sample(sampler, maps(4))
    assert forgotten == [4]


def test_a_single_map_that_does_not_fit_says_what_to_do():
    with pytest.raises(ConfigError, match="out of memory with a single map of 32 points on cpu"):
        sample(make(ToyModel(fits=0)), maps(2))


def test_progress_counts_every_map_once_and_every_step():
    seen = []

    class Counting(Progress):
        def start_batch(self, num_steps, size):
            seen.append((num_steps, size))

        def step(self, *_):
            seen.append("step")

        def done(self, size):
            seen.append(size)

    sampler = make(batch_size=3)
    sampler.sample(maps(4), Counting(4, "test", quiet))
    steps = ["step"] * sampler.diffusion.num_timesteps
    assert seen == [(len(steps), 3), *steps, 3, (len(steps), 1), *steps, 1]


def test_the_log_says_how_the_model_runs():
    lines = []
    sampler = make(log=lines.append)
    assert lines == ["model: Toy in fp32, selective scan by numba"]
    assert sampler.gpu_busy(5.0) is None
