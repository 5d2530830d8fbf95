"""Chunks made in this process: what decides a map, what does not, and bad items."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    DEMO_ARCHITECTURE,
    SMALL_RUN,
    overlay,
    raw_config,
    write_contacts,
    write_dataset,
)
from runs import assert_same

from cdm.archive import ContactMaps
from cdm.archive.records import read_record
from cdm.config import load_config
from cdm.errors import ArchiveError, BadItem, CDMError, ConfigError, DataError
from cdm.model.cdm import CDM
from cdm.model.text import TextEncoder, load_text_encoder
from cdm.run.generate import generate_chunk
from cdm.run.losses import find_losses
from cdm.run.merge import merge
from cdm.run.plan_files import save_plan
from cdm.run.planning import load_plan, make_plan
from cdm.run.version import version_text, workflow_version
from cdm.training.initial_weights import write_checkpoint

NUM_ITEMS, NUM_POINTS = 7, 48
# As wide as the demo's model, and one layer instead of six.
ARCHITECTURE = replace(DEMO_ARCHITECTURE, sizes=DEMO_ARCHITECTURE.sizes | {"depth": 1})
BASE = overlay(
    SMALL_RUN,
    {
        "exp_dir": "bare",
        "dataset": {"num_points": NUM_POINTS},
        "diffusion": {"timestep_respacing": 3},
        "sampling": {"precision": "fp32"},
    },
)


def configure(**changes):
    return load_config(overlay(raw_config(**BASE), changes))


def run(config, log=lambda line: None):
    """What the workflow does, chunks in reverse order; the archive's reader."""
    plan, samples = make_plan(config)
    save_plan(plan, samples)
    plan = load_plan(config)  # as jobs do
    losses = find_losses(plan)
    for chunk in reversed(plan.chunks):
        if not Path(plan.chunk_record(chunk)).exists() or chunk.name in losses:
            generate_chunk(plan, chunk, log)
    merge(plan, log)
    return ContactMaps(plan.archive)


def arrays(maps):
    return {name: maps.group[name][:] for name in sorted(maps.group.array_keys())}


@pytest.fixture(scope="session")
def finished(made_once):
    """A dataset, a small model and the finished run of both, which no test changes."""

    def make(folder):
        write_dataset(folder / "data", NUM_ITEMS, NUM_POINTS)
        write_checkpoint(folder / "bare/ckpt/model000001.pt", ARCHITECTURE)
        with contextlib.chdir(folder):
            run(configure())

    return made_once("generated", make)


@pytest.fixture(autouse=True)
def folder(finished, tmp_path, monkeypatch):
    """A copy of the dataset and the model, as working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "bare"):
        shutil.copytree(finished / name, name)
    return tmp_path


@pytest.fixture
def usual(finished, folder):
    """Arrays of the usual run, which lies in the working folder."""
    shutil.copytree(finished / "outputs", "outputs")
    return arrays(ContactMaps("outputs/run/contact_maps.zarr"))


def contacts(index):
    return Path(f"data/HUMANISE/contact_motion/contacts/{index:05}.npz")


@pytest.mark.parametrize("chunk_size", [1, 5, 7, 1000])
def test_chunk_size_changes_no_bit(usual, chunk_size):
    config = configure(exp_name="other", workflow={"chunk_size": chunk_size})
    assert_same(arrays(run(config)), usual)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_changes_no_bit_on_the_cpu(usual, batch_size):
    config = configure(exp_name="other", sampling={"batch_size": batch_size})
    assert_same(arrays(run(config)), usual)


def test_a_sample_is_the_same_whatever_else_is_in_the_dataset(usual):
    Path("data/HUMANISE/train.txt").write_text("000005\n")
    found = arrays(run(configure(exp_name="other")))
    np.testing.assert_array_equal(found["sample"][0], usual["sample"][5])


def test_seed_method_and_steps_change_the_maps(usual):
    changes = [
        {"seed": 1},
        {"sampling": {"method": "ddim"}},
        {"diffusion": {"timestep_respacing": 4}},
        {"diffusion": {"noise_schedule": "linear"}},
    ]
    for number, change in enumerate(changes):
        found = arrays(run(configure(exp_name=f"other{number}", **change)))
        assert not np.array_equal(found["sample"], usual["sample"]), change


def test_k_samples_are_different_maps_and_the_first_is_the_usual_one(usual):
    found = arrays(run(configure(exp_name="other", sampling={"k_samples": 3})))
    assert found["sample"].shape[:2] == (NUM_ITEMS, 3)
    np.testing.assert_array_equal(found["sample"][:, 0], usual["sample"][:, 0])
    assert not np.array_equal(found["sample"][:, 1], found["sample"][:, 2])


def test_all_captions_make_one_sample_each(usual):
    maps = run(configure(exp_name="other", dataset={"captions": "all"}))
    assert len(maps) == 2 * NUM_ITEMS - 1  # item 1 has one caption, the empty one
    assert maps.keys[:4] == [
        ("HUMANISE", i, c) for i, c in (("0", 0), ("0", 1), ("1", 0), ("2", 0))
    ]


def test_captions_that_lose_words_are_in_the_log_and_in_the_record(monkeypatch):
    encoder = TextEncoder(load_text_encoder("hashing", None, 128), lambda c: len(c.split()), 4)
    monkeypatch.setattr("cdm.run.load.load_text_encoder", lambda *args: encoder)
    lines = []
    run(configure(dataset={"captions": "all", "max_items": 2}), lines.append)
    (told,) = [line for line in lines if line.startswith("text: ")]
    assert "1 of 3 samples have a caption longer than hashing reads" in told
    assert "HUMANISE/0 caption 1 'walk to, then sit on chair 0'" in told
    (record,) = [read_record(path) for path in Path("outputs/run/chunks").glob("*.json")]
    assert [row["caption_idx"] for row in record.cut] == [1] and len(record.samples) == 3


def test_an_empty_caption_is_legal(usual):
    maps = ContactMaps("outputs/run/contact_maps.zarr")
    assert maps.group["text"][1] == "" and maps.group["status"][1] == "ok"
    assert np.isfinite(maps.distance("HUMANISE", 1)).all()


def test_distances_follow_from_the_samples_and_the_statistics(usual):
    contact = np.clip(usual["sample"].astype(np.float64) * 0.3 + 0.2, 1e-6, 1)
    expected = np.sqrt(-2 * np.log(contact)) * 0.8
    np.testing.assert_allclose(usual["distance"], expected, atol=2e-4)


def test_points_are_those_of_the_file_turned_by_the_recorded_rotation(usual):
    for index in range(NUM_ITEMS):
        points = np.load(contacts(index))["points"][:, :3]
        turned = points @ usual["aug_trans"][index, :3, :3].T
        np.testing.assert_allclose(usual["points"][index], turned, atol=1e-5)
    assert not np.allclose(usual["aug_trans"][0], np.eye(4))
    config = configure(exp_name="other", dataset={"transforms": []})
    np.testing.assert_array_equal(arrays(run(config))["aug_trans"][0], np.eye(4))


def test_attributes_say_where_the_numbers_come_from(usual):
    attributes = ContactMaps("outputs/run/contact_maps.zarr").attributes
    assert attributes["config"]["seed"] == 2023
    assert len(attributes["checkpoint"]["sha256"]) == 64
    assert attributes["statistics"]["sigma"] == 0.8
    assert attributes["versions"]["torch"] == torch.__version__
    assert attributes["workflow"]["made_chunks"] == [version_text(workflow_version())]


def test_half_precision_stays_near_single(usual):
    for precision, limit in (("bf16", 0.05), ("fp16", 0.00625)):
        maps = run(configure(exp_name="other", sampling={"precision": precision}))
        assert maps.attributes["precision"] == precision
        found = arrays(maps)
        error = np.linalg.norm(found["sample"] - usual["sample"]) / np.linalg.norm(usual["sample"])
        assert 0 < error < limit


def test_computed_statistics_are_float64_means_and_stay_out_of_the_data_folder():
    next(Path("data").glob("Mean_Std*")).unlink()
    config = configure()
    plan, _ = make_plan(config)
    assert plan.statistics.computed
    from cdm.datasets import FileReader
    from cdm.datasets.statistics import compute_statistics, save_statistics
    from cdm.run.dataset import open_dataset

    dataset = open_dataset(config, 0)
    save_statistics(plan.statistics.path, compute_statistics(dataset, FileReader("data")))
    found = ContactMaps(run(config).path).attributes["statistics"]
    dist = np.concatenate([np.load(contacts(i))["dist"] for i in range(NUM_ITEMS)])
    contact = np.exp(-0.5 * dist[:, [0, 10, 11, 12, 20, 21]].astype(np.float64) ** 2 / 0.64)
    np.testing.assert_allclose(found["mean"][0], contact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["std"][0], contact.std(0), rtol=1e-6)
    assert not list(Path("data").glob("Mean_Std*"))


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_maps_within_rounding(usual):
    found = arrays(run(configure(exp_name="other", gpu=0)))
    np.testing.assert_allclose(found["sample"], usual["sample"], rtol=1e-4, atol=1e-4)
    assert found["text"].tolist() == usual["text"].tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("chunk_size", [1, 5, 1000])
def test_chunk_size_changes_no_bit_on_a_gpu(chunk_size):
    usual = arrays(run(configure(gpu=0, sampling={"batch_size": 4})))
    other = {"workflow": {"chunk_size": chunk_size}, "sampling": {"batch_size": 4}}
    assert_same(arrays(run(configure(exp_name="other", gpu=0, **other))), usual)


@pytest.mark.gpu
def test_precision_auto_is_bf16_on_a_gpu_and_fp32_on_the_cpu():
    for gpu, precision in ((0, "bf16"), (None, "fp32")):
        maps = run(configure(exp_name=precision, gpu=gpu, sampling={"precision": "auto"}))
        assert maps.attributes["precision"] == precision


@pytest.mark.gpu
def test_a_gpu_out_of_memory_halves_the_batch_and_goes_on():
    """With room for a few maps only, whatever other programs on this GPU leave."""
    big = {"dataset": {"num_points": 4096}, "sampling": {"batch_size": 64, "precision": "fp32"}}
    write_dataset(Path("large"), 64, 4096)
    config = configure(
        gpu=0, workflow={"chunk_size": 64}, **overlay(big, {"dataset": {"data_dir": "large"}})
    )
    usual = arrays(run(config))
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    lines = []
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 600 * 2**20) / total)
    try:
        found = arrays(run(replace(config, exp_name="little"), lines.append))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    [warning] = [line for line in lines if line.startswith("warning: out of GPU memory")]
    assert "batch_size 64; going on with" in warning and "sampling={batch_size: " in warning
    np.testing.assert_allclose(found["sample"], usual["sample"], rtol=1e-4, atol=1e-4)


# --- too little memory ---------------------------------------------------------------------------


def fits_at_most(num_maps, monkeypatch):
    """A device whose memory takes so many maps at a time."""
    condition = CDM.condition

    def small(self, c_text, c_pc_xyz, c_pc_feat=None):
        if len(c_pc_xyz) > num_maps:
            raise torch.OutOfMemoryError("out of memory (made up)")
        return condition(self, c_text, c_pc_xyz, c_pc_feat)

    monkeypatch.setattr(CDM, "condition", small)


@pytest.mark.parametrize(("fits", "batch_size"), [(1, 1), (2, 1), (3, 3)])
def test_out_of_memory_halves_the_batch_and_goes_on(usual, monkeypatch, fits, batch_size):
    fits_at_most(fits, monkeypatch)
    lines = []
    sampling = {"batch_size": 7}
    config = configure(exp_name="other", sampling=sampling, workflow={"chunk_size": 7})
    assert_same(arrays(run(config, lines.append)), usual)
    [warning] = [line for line in lines if line.startswith("warning: out of GPU memory")]
    assert f"batch_size 7; going on with {batch_size}, which fits" in warning
    assert f"--config 'sampling={{batch_size: {batch_size}}}'" in warning


def test_a_single_map_that_does_not_fit_says_so(monkeypatch):
    fits_at_most(0, monkeypatch)
    with pytest.raises(ConfigError, match="out of memory with a single map of 48 points"):
        run(configure())
    assert not list(Path("outputs/run/chunks").glob("*.json"))


# --- bad items -----------------------------------------------------------------------------------


def too_few_points(path):
    write_contacts(path, NUM_POINTS - 1, 4)


def nan_points(path):
    points = np.load(path)["points"]
    points[3, 1] = np.nan
    write_contacts(path, NUM_POINTS, 4, points=points)


def missing_key(path):
    write_contacts(path, NUM_POINTS, 4, points=None)


def truncated(path):
    path.write_bytes(path.read_bytes()[:500])


def not_an_archive(path):
    path.write_bytes(b"not a zip")


def unreadable(path):
    path.unlink()
    path.mkdir()


BAD = {
    too_few_points: f"({NUM_POINTS - 1}, 6)",
    nan_points: "NaN",
    missing_key: "points",
    truncated: "00004.npz",
    not_an_archive: "00004.npz",
    unreadable: "00004.npz",
}


@pytest.mark.parametrize("damage", BAD)
def test_a_bad_item_fails_its_chunk_with_one_message_and_leaves_nothing(damage):
    damage(contacts(4))
    with pytest.raises(BadItem) as error:
        run(configure())
    message = str(error.value)
    assert "00004.npz" in message and BAD[damage] in message
    assert "set dataset.on_bad_item to skip" in message
    assert not list(Path("outputs/run/chunks").glob("*00001-*"))


@pytest.mark.parametrize("damage", BAD)
def test_a_skipped_item_is_in_the_status_column_and_in_the_records(usual, damage):
    damage(contacts(4))
    maps = run(configure(exp_name="other", dataset={"on_bad_item": "skip"}))
    found = arrays(maps)
    assert found["status"].tolist() == ["ok"] * 4 + ["skipped"] + ["ok"] * 2
    assert np.isnan(found["sample"][4]).all() and np.isnan(found["points"][4]).all()
    others = [0, 1, 2, 3, 5, 6]
    np.testing.assert_array_equal(found["sample"][others], usual["sample"][others])
    record = next(Path("outputs/other").glob("contact_maps-*.json")).read_text()
    assert '"num_skipped": 1' in record and BAD[damage] in record


@pytest.mark.parametrize("damage", BAD)
def test_an_item_that_turned_bad_after_its_chunk_was_made_reruns_that_chunk(usual, damage):
    names = [chunk.name for chunk in make_plan(configure())[0].chunks]
    damage(contacts(4))
    plan, _ = make_plan(configure())
    assert [chunk.name == name for chunk, name in zip(plan.chunks, names, strict=True)] == [
        True, False, True
    ]  # fmt: skip


def test_a_missing_file_is_found_in_the_plan_and_can_be_skipped(usual):
    contacts(4).unlink()
    with pytest.raises(DataError, match=r"1 of 7 files .*\n.*00004\.npz"):
        make_plan(configure())
    maps = run(configure(exp_name="other", dataset={"on_bad_item": "skip"}))
    assert maps.group["status"][4] == "skipped"


def test_a_repaired_item_has_its_chunk_made_again(usual):
    whole = contacts(4).read_bytes()
    nan_points(contacts(4))
    config = configure(exp_name="other", dataset={"on_bad_item": "skip"})
    run(config)
    contacts(4).write_bytes(whole)
    assert_same(arrays(run(config)), usual)


def test_an_item_edited_between_plan_and_job_is_never_filed_under_the_old_content(usual):
    plan, samples = make_plan(configure())
    write_contacts(contacts(4), NUM_POINTS, 99)
    plan, samples = make_plan(configure())  # the edit has its own name now
    save_plan(plan, samples)
    write_contacts(contacts(4), NUM_POINTS, 100)
    with pytest.raises(ArchiveError, match="edited after this run was planned"):
        generate_chunk(plan, plan.chunks[1], lambda line: None)
    assert not Path(plan.chunk_record(plan.chunks[1])).exists()


def test_statistics_that_change_between_plan_and_job_are_refused():
    plan, samples = make_plan(configure())
    save_plan(plan, samples)
    mean, std = np.full((1, 6), 0.21, np.float32), np.full((1, 6), 0.3, np.float32)
    np.savez(plan.statistics.path, mean=mean, std=std)
    with pytest.raises(ArchiveError, match="changed since the run was planned"):
        generate_chunk(plan, plan.chunks[0], lambda line: None)


def test_a_model_that_gives_nan_never_reaches_the_archive(folder):
    from cdm.model.checkpoint import find_checkpoint

    state = torch.load(find_checkpoint("bare"), weights_only=True)
    state["contact_layer.weight"][2] = 3e38  # finite, but products with it are not
    Path("exp/ckpt").mkdir(parents=True)
    torch.save(state, "exp/ckpt/model000001.pt")
    with pytest.raises(BadItem, match="the model gave NaN"):
        run(configure(exp_dir="exp"))


def test_numbers_beyond_fp16_end_the_run_with_what_to_set_and_not_in_a_map(folder):
    from cdm.model.checkpoint import find_checkpoint

    state = torch.load(find_checkpoint("bare"), weights_only=True)
    state["contact_model.embedding.net.0.bias"] += 1e5  # a norm follows, so fp32 can do it
    Path("exp/ckpt").mkdir(parents=True)
    torch.save(state, "exp/ckpt/model000001.pt")
    assert np.isfinite(arrays(run(configure(exp_dir="exp")))["sample"]).all()
    with pytest.raises(BadItem, match=r"beyond 65504 .* set sampling\.precision to bf16 or fp32"):
        run(configure(exp_dir="exp", exp_name="half", sampling={"precision": "fp16"}))


def test_a_chunk_of_bad_items_only_is_finished(usual):
    for index in range(3):
        truncated(contacts(index))
    lines = []
    maps = run(configure(exp_name="other", dataset={"on_bad_item": "skip"}), lines.append)
    assert maps.group["status"][:].tolist() == ["skipped"] * 3 + ["ok"] * 4
    (line,) = (line for line in lines if "s, 3 skipped; " in line)
    assert ": 0 samples written in" in line and "0.00 maps/s" in line


def test_a_shard_has_no_more_room_than_the_archive_needs(usual):
    config = configure(exp_name="other", workflow={"chunk_size": 10_000_000})
    maps = run(config)
    assert maps.group["sample"].shards[0] == NUM_ITEMS
    assert_same(arrays(maps), usual)


def test_records_tell_the_device_in_parts(usual):
    plan, _ = make_plan(configure())
    recorded = read_record(Path(plan.chunk_record(plan.chunks[0]))).provenance
    threads = recorded["device"].pop("threads")
    assert recorded["device"] == {"kind": "cpu", "name": "CPU"} and threads >= 1
    assert recorded["versions"]["torch"] == torch.__version__
    assert ContactMaps(plan.archive).attributes["devices"][0]["kind"] == "cpu"


def test_point_features_count_only_where_the_model_sees_them():
    write_checkpoint(Path("exp/ckpt/model000001.pt"), replace(ARCHITECTURE, point_feat_dim=0))
    blind = {"exp_dir": "exp", "model": {"scene_model": raw_config()["model"]["scene_model"]}}

    def names(use_color, **changes):
        plan, _ = make_plan(configure(dataset={"use_color": use_color}, **changes))
        return [chunk.name for chunk in plan.chunks]

    assert names(True, **blind) == names(False, **blind)
    assert names(True) != names(True, **blind)
    with pytest.raises(ConfigError, match="trained on 3 point features, the dataset gives 0"):
        names(False)


def test_a_chunk_of_another_run_is_refused_by_name():
    plan, _ = make_plan(configure())
    with pytest.raises(CDMError, match="Start snakemake again"):
        plan.find_chunk("00000-0123456789abcdef")


def test_losing_the_plan_folder_loses_nothing(usual):
    shutil.rmtree("outputs/run/plan")
    plan = load_plan(configure())
    assert all(Path(path).exists() for path in plan.chunk_records())


def test_what_lost_its_store_is_made_again_and_nothing_is_removed_by_planning(usual):
    plan, _ = make_plan(configure())
    first = plan.chunks[0]
    shutil.rmtree(Path(plan.chunk_record(first)).with_suffix(".zarr"))
    shutil.rmtree(plan.archive)
    assert list(find_losses(make_plan(configure())[0])) == [first.name, "merge"]
    assert Path(plan.chunk_record(first)).exists() and Path(plan.archive_record).exists()
    assert_same(arrays(run(configure())), usual)
    assert find_losses(plan) == {}


@pytest.mark.parametrize(("turns", "told"), [(1, [False, True]), (None, [True])])
def test_a_job_tells_when_its_turn_has_come(folder, turns, told):
    plan, samples = make_plan(configure(dataset={"max_items": 1}))
    save_plan(plan, samples)
    found = []
    heartbeat = SimpleNamespace(
        report=lambda *_: None, report_turn=lambda has_turn: found.append(has_turn)
    )
    generate_chunk(plan, plan.chunks[0], lambda line: None, 1, heartbeat, turns=turns)
    assert found == told
