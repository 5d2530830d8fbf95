"""What benchmarks conclude from records, logs and archives, and what they simulate."""

import importlib
import json
import os

import numpy as np
import pytest
import torch
import zarr
from helpers import REPO, relative_error
from small_models import make_inputs, small_model


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    return importlib.import_module


def write_chunk(run, name, ended, sample, device, extra=""):
    """A record and a log of a chunk whose sampling took so long, written at a time."""
    log = run / "logs" / "generate_chunk" / f"{name}.log"
    for folder in (log.parent, run / "chunks"):
        folder.mkdir(parents=True, exist_ok=True)
    log.write_text(
        f"12:00:00 computing on {device}\n12:00:09 chunk {name}: 2 samples written in 0.5 s, 0 "
        f"skipped; 1 maps/s while sampling, 9 s in all\n{extra}"
    )
    path = run / "chunks" / f"{name}.json"
    record = {
        "seconds": {"import": 2.0, "sample": sample}, "gpu_busy": 0.5,
        "samples": [{}, {"reason": "bad"}, {}], "layout": {"k_samples": 2},
    }  # fmt: skip
    path.write_text(json.dumps(record))
    os.utime(path, (ended, ended))


def test_seconds_between_chunks_are_those_of_each_device(tmp_path, benchmark):
    timeline = benchmark("run_timeline")
    write_chunk(tmp_path, "0-a", 110.5, 10.0, "GPU-1")  # sampled from 100 to 110
    write_chunk(
        tmp_path, "1-b", 123.5, 10.0, "GPU-1", "12:00:09 finished: 9 s: start 1.0, other 0.2\n"
    )
    write_chunk(tmp_path, "2-c", 111.5, 10.0, "GPU-2")
    found = timeline.summarise(timeline.read_timeline(tmp_path), wall_s=30.0, num_devices=2)
    assert (found["chunks"], found["maps"], found["largest_chunk"]) == (3, 12, 4)
    assert found["lost_between_s"] == {"GPU-1": 3.0, "GPU-2": 0}
    assert found["lost_per_gap_s"] == 3.0
    assert found["gpu_share"] == pytest.approx(3 * 5.0 / 60)
    assert found["phases_s"] == {
        "import": 6.0,
        "sample": 30.0,
        "write": 1.5,
        "start": 1.0,
        "other": 0.2,
    }
    assert found["outside_sampling_per_chunk_s"] == 10.0


def test_archives_of_other_shards_have_the_same_digests_and_a_flipped_bit_shows(
    tmp_path, benchmark
):
    digests = benchmark("archive_digest")
    values = np.random.default_rng(0).random((200, 7, 3), np.float32)
    for name, rows in (("a", 10), ("b", 150)):
        group = zarr.create_group(tmp_path / name)
        array = group.create_array("sample", shape=values.shape, chunks=(rows, 7, 3), dtype="f4")
        array[:] = values
        group.create_array("key", shape=(2,), chunks=(2,), dtype="i4")[:] = [1, 2]
    a, b = (digests.digest_archive(tmp_path / name) for name in "ab")
    assert set(a) == {"sample", "key"} and digests.differences(a, b) == []
    assert digests.compare(tmp_path / "a", tmp_path / "b") == 0
    values[150, 3, 1] = np.nextafter(values[150, 3, 1], np.float32(2))
    zarr.open_group(tmp_path / "b")["sample"][:] = values
    assert digests.differences(a, digests.digest_archive(tmp_path / "b")) == ["sample"]
    assert digests.compare(tmp_path / "a", tmp_path / "b") == 1


@pytest.mark.parametrize("layout", ["h3d", "humanise"])
def test_items_that_share_files_are_items_of_their_own(tmp_path, benchmark, layout):
    made = benchmark("made_data")
    data = made.write_dataset(tmp_path, layout, 70, 16)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"dataset": made.dataset_section(data, layout, 16)}))
    from cdm.commands.config_files import read_config
    from cdm.datasets import FileReader
    from cdm.run.dataset import open_dataset

    config = read_config([config], [], strict=False)
    dataset = open_dataset(config, 0)
    samples, reader = dataset.samples(), FileReader(config.data_dir)
    assert len({sample.text for sample in samples}) == len(samples) == 70
    assert len({tuple(dataset.files(sample)) for sample in samples}) == 70
    assert dataset.load(samples[-1], reader).c_pc_xyz.shape == (16, 3)
    assert len({path.stat().st_ino for path in data.rglob("contacts/0*.npz")}) == made.POOL


@torch.no_grad()
def test_the_simulated_step_is_the_formula_until_something_rounds(benchmark):
    simulated = benchmark("precision_ingredients")
    cdm = small_model("PointMamba", 5, torch.float64)
    inputs = make_inputs(1, 150, 5, torch.float64)  # more points than a chunk of the scan has
    exact = cdm.naive_forward(*inputs)

    def error(formats):
        return relative_error(simulated.step(cdm, simulated.Rounding(formats), *inputs), exact)

    assert error({}) < 1e-12
    alone = {place: error({place: "fp16"}) for place in simulated.PLACES}
    assert all(1e-6 < found < 2e-3 for found in alone.values()), alone
    errors = [error(dict.fromkeys(simulated.PLACES, name)) for name in ("bf16", "tf32", "fp16")]
    taken = error({place: "fp16" for place in simulated.PLACES if place not in simulated.TAKEN})
    assert errors[0] > 4 * errors[1] and errors[1] == pytest.approx(errors[2], rel=0.1)
    assert taken < errors[2]


def test_half_precision_rounds_as_tf32_does_within_its_range(benchmark):
    formats = benchmark("precision_ingredients").FORMATS
    torch.manual_seed(0)
    x = torch.randn(1000, dtype=torch.float64) * torch.logspace(-3, 4, 1000, dtype=torch.float64)
    x = x[x.abs() > 2**-14].float().double()
    half = formats["fp16"](x)
    assert torch.equal(half, formats["tf32"](x)) and not torch.equal(half, x)
