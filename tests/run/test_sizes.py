"""`auto` sizes follow from configuration, model and number of samples; a run keeps its own."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import (
    DEMO_ARCHITECTURE,
    demo_config,
    plan_run,
    run_config,
    small_architecture,
    write_dummy_chunk,
)

from cdm.archive import ContactMaps
from cdm.config import load_config
from cdm.model.architecture import Architecture
from cdm.model.backbones import BACKBONES
from cdm.run import inputs, losses, sizes
from cdm.run.losses import find_losses
from cdm.run.merge import merge
from cdm.run.plan import describe_plan
from cdm.run.plan_files import read_plan, read_plan_for, save_plan
from cdm.run.planning import make_plan
from cdm.run.sizes import (
    STEP_MS,
    bytes_per_sample,
    choose_chunk_size,
    most_maps,
    seconds_per_sample,
    with_sizes,
    without_sizes,
)

TRAIN_SPLIT = 24544  # maps of HumanML3D's training split
AUTO = {"workflow": {"chunk_size": "auto"}, "sampling": {"batch_size": "auto"}}
FULL_SIZE = Architecture("PointMamba", 6, 128, 512, 0, 256, {"trans_dim": 256, "depth": 8})


def full_size(**changes):
    """8192 points, auto sizes; `sampling` and `workflow` may be changed."""
    return demo_config(dataset={"num_points": 8192}, **changes)


@pytest.mark.parametrize(("steps", "size"), [(18, 3072), (100, 896), (500, 192), (1000, 64)])
def test_a_chunk_of_a_training_split_is_about_60_s_of_an_h200(steps, size):
    config = full_size()
    assert choose_chunk_size(config, FULL_SIZE, steps, TRAIN_SPLIT) == size
    seconds = size * seconds_per_sample(config, FULL_SIZE, steps)
    assert 30 <= seconds <= 70 and -(-TRAIN_SPLIT // size) >= 8


@pytest.mark.parametrize(("samples", "size"), [(2048, 192), (3072, 192), (6000, 192)])
def test_a_chunk_of_the_full_chain_is_not_cut_to_40_s(samples, size):
    """Rounded up to a multiple of four, 18 chunks of 3072 samples became 24 of 42 s."""
    assert choose_chunk_size(full_size(), FULL_SIZE, 500, samples) == size


@pytest.mark.parametrize("arch", BACKBONES)
@pytest.mark.parametrize("samples", [4_000, TRAIN_SPLIT, 1_000_000])
@pytest.mark.parametrize("steps", [18, 500])
def test_a_chunk_is_whole_batches_of_bounded_work_and_memory(arch, samples, steps):
    config, architecture = full_size(), small_architecture(arch)
    size = choose_chunk_size(config, architecture, steps, samples)
    batch = with_sizes(config, size)[0].sampling.batch_size
    assert size % batch == 0
    assert size * seconds_per_sample(config, architecture, steps) <= 60 + 32 * 1.0
    assert size * bytes_per_sample(config, architecture) <= 2e9 + 64 * 1e6
    # Eight chunks, but for what an H200 does in less than eight times 10 s.
    total_s = samples * seconds_per_sample(config, architecture, steps)
    assert -(-samples // size) >= 8 or total_s < 80


@pytest.mark.parametrize(
    ("samples", "size"), [(1, 1), (4, 4), (15, 15), (16, 8), (24, 12), (300, 150)]
)
def test_chunks_of_small_data_stay_small(samples, size):
    """A CPU takes seconds for what an H200 does in milliseconds."""
    assert choose_chunk_size(demo_config(), DEMO_ARCHITECTURE, 20, samples) == size


@pytest.mark.parametrize(("samples", "size"), [(512, 256), (2048, 1024), (4096, 1024)])
def test_chunks_are_no_shorter_than_the_start_of_a_job(samples, size):
    """With 18 steps; of the first two there are two chunks, of the last one four."""
    assert choose_chunk_size(full_size(), FULL_SIZE, 18, samples) == size


def test_24_scans_with_the_full_chain_are_cut_for_a_cpu():
    """An H200 takes 8 s for them, two CPU threads 3.6 hours."""
    assert choose_chunk_size(full_size(), FULL_SIZE, 500, 24) == 12


def test_more_maps_of_a_sample_and_slower_arithmetic_make_smaller_chunks():
    usual = choose_chunk_size(full_size(), FULL_SIZE, 500, TRAIN_SPLIT)
    eight = full_size(sampling={"k_samples": 8})
    assert choose_chunk_size(eight, FULL_SIZE, 500, TRAIN_SPLIT) == usual / 8
    fp32 = full_size(sampling={"precision": "fp32"})
    assert choose_chunk_size(fp32, FULL_SIZE, 500, TRAIN_SPLIT) == 32  # a batch of 64 takes 2 min


def test_every_backbone_has_a_time_of_its_step():
    assert set(STEP_MS) == set(BACKBONES)


@pytest.mark.parametrize(
    ("points", "maps"), [(256, 256), (1024, 256), (8192, 64), (10_000, 52), (1_000_000, 1)]
)
def test_a_batch_has_64_maps_of_8192_points(points, maps):
    config = demo_config(dataset={"num_points": points})
    assert most_maps(config) == maps
    assert with_sizes(config, 1_000)[0].sampling.batch_size == maps
    assert with_sizes(config, 1)[0].sampling.batch_size == 1  # never more than a chunk's


def test_a_number_still_sets_each_size():
    config = full_size(workflow={"chunk_size": 100}, sampling={"batch_size": 32})
    assert with_sizes(config, 7) == (config, ())
    half = full_size(sampling={"batch_size": 32})
    found, auto = with_sizes(half, 96)
    assert (found.workflow.chunk_size, auto) == (96, ("workflow.chunk_size",))
    assert choose_chunk_size(half, FULL_SIZE, 18, TRAIN_SPLIT) % 32 == 0
    assert without_sizes(found, auto) == half


def test_the_sizes_do_not_depend_on_the_device():
    plans = [choose_chunk_size(full_size(gpu=gpu), FULL_SIZE, 18, 24544) for gpu in (None, 0)]
    assert len(set(plans)) == 1


# --- plans ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(plan):
    return [chunk.name for chunk in plan.chunks]


def test_a_plan_has_numbers_and_remembers_that_they_were_auto(folder):
    plan = plan_run(folder, **AUTO)[0]
    assert plan.config.workflow.chunk_size == 7 and plan.config.sampling.batch_size == 7
    assert plan.asked == run_config(**AUTO) != plan.config
    assert "7 in 1 chunks of 7, batches of 7" in describe_plan(plan)
    assert read_plan(plan.config.run_dir) == plan  # what commands read
    assert read_plan_for(run_config(**AUTO)) == plan  # what jobs read
    assert read_plan_for(run_config()) is None
    assert load_config(plan.config.as_dict()) == plan.config


def test_auto_names_chunks_as_the_same_number_does(folder):
    auto = names(plan_run(folder, **AUTO)[0])
    assert auto == names(make_plan(run_config(workflow={"chunk_size": 7}))[0])


def test_a_run_keeps_the_size_of_its_finished_chunks(folder):
    before = plan_run(folder)[0]  # chunks of 3
    assert len(make_plan(run_config(**AUTO))[0].chunks) == 1  # nothing is finished
    write_dummy_chunk(before, before.chunks[1])
    after = make_plan(run_config(**AUTO))[0]
    assert names(after) == names(before)
    assert "chunk size      3, as that of the chunks that this run has; auto would now take 7" in (
        describe_plan(after)
    )
    # Of other settings no chunk is finished, and back again they are found.
    assert len(plan_run(folder, seed=5, **AUTO)[0].chunks) == 1
    assert names(make_plan(run_config(**AUTO))[0]) == names(before)
    # A number still sets the size.
    other = make_plan(run_config(workflow={"chunk_size": 2}))[0]
    assert len(other.chunks) == 4


def test_a_trial_with_few_samples_does_not_decide_for_many(folder, monkeypatch):
    trial = plan_run(folder, dataset={"max_items": 1}, **AUTO)[0]
    write_dummy_chunk(trial, trial.chunks[0])
    assert len(make_plan(run_config(**AUTO))[0].chunks) == 7  # of 1, as seven are not many
    monkeypatch.setattr(sizes, "GROWN", 7)
    assert len(make_plan(run_config(**AUTO))[0].chunks) == 7  # of 1, as 7 is no great number
    monkeypatch.setattr(sizes, "TOO_SMALL", 7)
    plan, samples = make_plan(run_config(**AUTO))
    assert len(plan.chunks) == 1
    # The new size holds from then on, whether a chunk of it is finished or not.
    save_plan(plan, samples)
    assert names(make_plan(run_config(**AUTO))[0]) == names(plan)
    write_dummy_chunk(plan, plan.chunks[0])
    assert names(make_plan(run_config(**AUTO))[0]) == names(plan)
    assert names(make_plan(run_config(dataset={"max_items": 1}, **AUTO))[0]) != names(trial)


def test_a_merged_archive_keeps_its_size_without_its_chunks(folder):
    plan = plan_run(folder)[0]
    records = [write_dummy_chunk(plan, chunk) for chunk in plan.chunks]
    merge(plan, lambda line: None)
    for record in records:
        record.unlink()
    assert make_plan(run_config(**AUTO))[0].archive_record == plan.archive_record


def test_a_record_that_cannot_be_read_decides_no_size(folder):
    plan = plan_run(folder)[0]
    write_dummy_chunk(plan, plan.chunks[0]).write_bytes(b"{}")
    Path(plan.folder, "plan.json").unlink()
    assert len(make_plan(run_config(**AUTO))[0].chunks) == 1


def test_an_archive_of_auto_sizes_tells_numbers(folder):
    plan = plan_run(folder, **AUTO)[0]
    write_dummy_chunk(plan, plan.chunks[0])
    merge(plan, lambda line: None)
    config = ContactMaps(plan.archive).attributes["config"]
    assert (config["workflow"]["chunk_size"], config["sampling"]["batch_size"]) == (7, 7)


@pytest.mark.parametrize("changes", [{}, AUTO], ids=["number", "auto"])
def test_a_finished_record_is_read_once_while_a_run_is_planned(folder, monkeypatch, changes):
    before = plan_run(folder)[0]
    for chunk in before.chunks[:2]:
        write_dummy_chunk(before, chunk)
    Path(before.folder, "plan.json").unlink()  # so that auto has to look at the records
    read = []
    for module in (inputs, losses):
        original = module.read_record
        monkeypatch.setattr(
            module, "read_record", lambda path, f=original: (read.append(path.stem), f(path))[1]
        )
    plan = make_plan(run_config(**changes))[0]
    assert find_losses(plan) == {} and sorted(read) == names(before)[:2]
    # A plan that was read from its file tells nothing of the chunks, so records are read again.
    assert find_losses(replace(plan, finished={})) == {} and read[2:] == names(before)[:2]
