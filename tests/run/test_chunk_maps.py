"""A chunk's arrays: what is stored is finite, and a sample that has no map has none at all."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import DEMO_ARCHITECTURE, SMALL_RUN, overlay, raw_config, write_dataset

from cdm.archive.shards import ShardSums
from cdm.config import load_config
from cdm.datasets import FileReader
from cdm.datasets.statistics import Statistics
from cdm.errors import BadItem, ConfigError
from cdm.run.chunk_maps import ChunkMaps
from cdm.run.dataset import open_dataset
from cdm.run.planning import make_plan
from cdm.training.initial_weights import write_checkpoint

NUM_POINTS = 48


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A dataset and a model of one layer, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", 3, NUM_POINTS)
    architecture = replace(DEMO_ARCHITECTURE, sizes=DEMO_ARCHITECTURE.sizes | {"depth": 1})
    write_checkpoint(tmp_path / "bare/ckpt/model000001.pt", architecture)


def configure(**changes):
    base = {"exp_dir": "bare", "dataset": {"num_points": NUM_POINTS}}
    return load_config(overlay(raw_config(**overlay(SMALL_RUN, base)), changes))


def store_one(values=None, on_bad_item="fail", dtype="float32", sampling=None, **item):
    """ChunkMaps of two samples, after one map of the first was stored."""
    changes = {"dataset": {"on_bad_item": on_bad_item}, "workflow": {"dtype": dtype}}
    config = configure(**changes, sampling=sampling or {})
    plan, samples = make_plan(config)
    statistics = Statistics(np.full((1, 6), 0.2), np.full((1, 6), 0.3), "")
    maps = ChunkMaps(plan, samples[:2], statistics, log=lambda line: None)
    x_0 = np.zeros((NUM_POINTS, 6), np.float32)
    x_0[values or ()] = 0.0 if values is None else np.nan
    usual = {
        "sample": samples[0],
        "c_pc_xyz": np.ones((NUM_POINTS, 3), np.float32),
        "info_scene_trans": np.eye(4),
        "info_aug_trans": np.eye(4),
    }
    maps.store(0, 0, SimpleNamespace(**usual | item), x_0)
    return maps


def test_a_stored_map_is_finite_and_its_row_is_ok():
    maps = store_one()
    arrays = maps.finished_arrays()
    assert all(np.isfinite(values[0]).all() for values in arrays.values())
    assert all(np.isnan(values[1]).all() for values in arrays.values())
    assert [row["status"] for row in maps.sample_rows()] == ["ok", "ok"]


FAR = np.full((NUM_POINTS, 3), 70_000.0)
NOT_FINITE = {
    "the model gave NaN": {"values": (3, 2)},
    "'points' has a value that is not": {"c_pc_xyz": FAR, "dtype": "float16"},
    "'scene_trans' has a value that is not": {"info_scene_trans": np.eye(4) * 1e39},
    "'aug_trans' has a value that is not": {"info_aug_trans": np.full((4, 4), np.nan)},
}


@pytest.mark.parametrize("message", NOT_FINITE)
def test_a_value_that_is_not_finite_once_it_is_cast_is_refused_or_skipped(message):
    with pytest.raises(BadItem, match=rf"HUMANISE/0 caption 1: {message}") as error:
        store_one(**NOT_FINITE[message])
    assert "set dataset.on_bad_item to skip" in str(error.value)
    maps = store_one(**NOT_FINITE[message], on_bad_item="skip")
    row = maps.sample_rows()[0]
    assert row["status"] == "skipped" and message in row["reason"]
    assert "on_bad_item" not in row["reason"]  # that is set
    assert all(np.isnan(values[0]).all() for values in maps.finished_arrays().values())


def test_fp16_says_that_its_range_may_be_the_reason_and_what_to_set():
    advice = "set sampling.precision to bf16 or fp32"
    for precision in ("auto", "bf16", "fp32", "fp16"):
        with pytest.raises(BadItem, match="the model gave NaN") as error:
            store_one(values=(3, 2), sampling={"precision": precision})
        assert (advice in str(error.value)) == (precision == "fp16")


def test_one_bad_map_of_several_skips_the_sample_whole():
    config = configure(dataset={"on_bad_item": "skip"}, sampling={"k_samples": 2})
    plan, samples = make_plan(config)
    maps = ChunkMaps(plan, samples[:1], Statistics(np.zeros((1, 6)), np.ones((1, 6)), ""), print)
    item = SimpleNamespace(
        c_pc_xyz=np.ones((NUM_POINTS, 3)), info_scene_trans=np.eye(4), info_aug_trans=np.eye(4)
    )
    maps.store(0, 0, item, np.zeros((NUM_POINTS, 6), np.float32))
    maps.store(0, 1, item, np.full((NUM_POINTS, 6), np.inf, np.float32))
    assert all(np.isnan(values).all() for values in maps.finished_arrays().values())


def test_rows_are_summed_up_while_maps_are_made_in_any_order_and_are_what_the_arrays_hold():
    config = configure(dataset={"on_bad_item": "skip"}, sampling={"k_samples": 2})
    plan, samples = make_plan(config)
    statistics = Statistics(np.zeros((1, 6)), np.ones((1, 6)), "")
    maps = ChunkMaps(plan, [*samples, samples[0]], statistics, log=lambda line: None)
    item = SimpleNamespace(
        c_pc_xyz=np.ones((NUM_POINTS, 3)), info_scene_trans=np.eye(4), info_aug_trans=np.eye(4)
    )

    def store(row, k, value):
        maps.store(row, k, item, np.full((NUM_POINTS, 6), value, np.float32))
        return len(maps.sums["sample"].crcs)

    # A row waits for all its maps and for the rows before it; a skipped one is passed over.
    assert store(1, 0, 0.1) == store(1, 1, 0.2) == store(0, 1, 0.3) == 0
    assert store(0, 0, 0.4) == 2
    maps.skip(2, BadItem("damaged"))
    assert store(3, 0, 0.5) == 3  # and the last row lacks a map
    arrays = maps.finished_arrays()
    for name, sums in maps.sums.items():
        assert sums.end(4) == ShardSums.of(arrays[name]).end(4)
        assert sums.finite == [True, True, False, False]


@pytest.mark.parametrize("threads", [1, 3])
def test_items_that_cannot_be_used_are_skipped_in_the_order_of_the_rows(folder, threads, tmp_path):
    contacts = tmp_path / "data/HUMANISE/contact_motion/contacts"
    for name in ("00000.npz", "00002.npz"):
        (contacts / name).write_bytes(b"damaged")
    plan, samples = make_plan(configure(dataset={"on_bad_item": "skip"}))
    lines = []
    statistics = Statistics(np.zeros((1, 6)), np.ones((1, 6)), "")
    maps = ChunkMaps(plan, samples, statistics, lines.append)
    dataset = open_dataset(plan.config, 0)
    items = maps.read(dataset, FileReader(plan.config.data_dir), threads, ahead=3)
    assert [row for row, _ in maps.usable_items(items)] == [1]
    assert list(maps.reasons) == [0, 2] and len(lines) == 2
    assert "00000.npz" in lines[0] and "00002.npz" in lines[1]


@pytest.mark.parametrize(
    "k_samples, num_samples, advice",
    [(1000, 10**9, "chunk_size: 867}"), (10**12, 3, "a smaller sampling.k_samples")],
)
def test_maps_that_do_not_fit_into_memory_end_with_what_to_set(k_samples, num_samples, advice):
    plan, _ = make_plan(configure(sampling={"k_samples": k_samples}))
    many = type("Samples", (), {"__len__": lambda self: num_samples})()
    statistics = Statistics(np.full((1, 6), 0.2), np.full((1, 6), 0.3), "")
    with pytest.raises(ConfigError, match=r"GB of main memory.*workflow.chunk_size is 3") as error:
        ChunkMaps(plan, many, statistics, log=lambda line: None)
    assert advice in str(error.value)
