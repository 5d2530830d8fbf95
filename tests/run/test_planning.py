"""Making a plan: names that stay, old runs that stay finished, inputs that are refused."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from helpers import plan_run, run_config, write_contacts, write_dummy_chunk, write_split

from cdm.archive import ContactMaps
from cdm.errors import ConfigError, DataError, NotTrained
from cdm.files import seal, unseal
from cdm.run.dataset import open_dataset
from cdm.run.losses import find_losses
from cdm.run.merge import merge
from cdm.run.plan import PlannedFile
from cdm.run.plan_files import read_plan, read_samples, save_plan
from cdm.run.planning import load_plan, make_identity, make_plan

# How numerics version 3 names the chunks of the small run of tests/support/helpers.py. Finished
# chunks of users are found under such names, so they must not change as long as the numbers do not.
NAMES = {
    (): ("00000-4da332964fac34af", "00001-7d4cea1ded7c81e7", "00002-b7b67b07caa60f3c"),
    ("seed", 1): ("00000-8fc41d7a56bae786", "00001-871ee2800a75d769", "00002-9a648fd8a29e89d8"),
    ("sampling", "k_samples", 2): (
        "00000-b0c80ae2d4110bc7", "00001-913ad19c89e35818", "00002-3bcc825eaa5be4d8"
    ),
    ("diffusion", "timestep_respacing", "4"): (
        "00000-4b6f3643ef75b5ac", "00001-17a10ccd407605e7", "00002-e73cbc4a43610971"
    ),
}  # fmt: skip


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)[0]


def nested(change):
    """("a", "b", 1) -> {"a": {"b": 1}}"""
    *keys, value = change or (None,)
    for key in reversed(keys):
        value = {key: value}
    return value or {}


@pytest.mark.parametrize("change", NAMES)
def test_chunks_keep_the_names_they_always_had(plan, change):
    found = make_plan(run_config(**nested(change)))[0]
    assert tuple(chunk.name for chunk in found.chunks) == NAMES[change]


def test_every_precision_has_chunks_of_its_own(plan):
    """`auto` is a name too: it stands for what the device makes of it."""
    plans = [
        make_plan(run_config(sampling={"precision": precision}))[0]
        for precision in ("auto", "fp32", "fp16", "bf16")
    ]
    assert len({chunk.name for p in plans for chunk in p.chunks}) == 4 * len(plan.chunks)


def test_only_the_names_of_cut_bert_captions_change(plan):
    """BERT once read two tokens more than max_length; CLIP and hashing read as many as ever."""

    def identity(version, max_length):
        text_model = replace(plan.config.model.text_model, version=version, max_length=max_length)
        model = replace(plan.config.model, text_model=text_model)
        config = replace(plan.config, model=model)
        return make_identity(config, plan.architecture, "a", None, plan.statistics, True)

    for version, length in (("ViT-B/32", 20), ("hashing", 20), ("bert-base-uncased", None)):
        assert identity(version, length)["text_model"] == [version, length]
    assert identity("bert-base-uncased", 20)["text_model"] == [
        *["bert-base-uncased", 20, "with [CLS] and [SEP]"]
    ]


def chunk_names(**dataset):
    return [chunk.name for chunk in make_plan(run_config(dataset=dataset))[0].chunks]


@pytest.mark.parametrize("captions", ["random", "reference"])
def test_max_items_grows_and_shrinks_without_renaming_whole_chunks(plan, captions):
    whole = chunk_names(captions=captions)
    for most, same in ((4, 1), (6, 2), (100, 3)):
        fewer = chunk_names(captions=captions, max_items=most)
        assert fewer[:same] == whole[:same] and len(fewer) == -(-min(most, 7) // 3)
        assert fewer[same:] == [] or fewer[same] != whole[same]


def test_finished_chunks_of_the_first_items_are_kept_as_max_items_grows(plan):
    first = plan_run(Path(), dataset={"max_items": 3})[0]
    write_dummy_chunk(first, first.chunks[0])
    merge(first, lambda line: None)
    grown = plan_run(Path(), dataset={"max_items": 6})[0]
    done = [Path(grown.chunk_record(chunk)).exists() for chunk in grown.chunks]
    assert done == [True, False]
    write_dummy_chunk(grown, grown.chunks[1])
    merge(grown, lambda line: None)
    maps = ContactMaps(grown.archive)
    assert len(maps) == 6 and maps.group.attrs["config"]["dataset"]["max_items"] == 6
    again = make_plan(run_config(dataset={"max_items": 3}))[0]
    assert again == first and Path(again.chunk_record(again.chunks[0])).exists()


def test_the_other_ways_to_pick_captions_keep_their_rows_and_order(plan):
    """Of reference alone, the order is afford-motion's."""
    indices = {}
    for captions in ("random", "first", "all", "reference"):
        samples = make_plan(run_config(dataset={"captions": captions}))[1]
        indices[captions] = list(dict.fromkeys(sample.index for sample in samples))
    in_order = [str(i) for i in range(7)]
    assert indices["random"] == indices["first"] == indices["all"] == in_order
    assert indices["reference"] != in_order and sorted(indices["reference"]) == in_order


@pytest.mark.parametrize("captions", ["random", "reference"])
def test_captions_do_not_depend_on_how_the_split_is_cut(plan, captions):
    rows = []
    for size in (1, 3, 100):
        dataset, workflow = {"captions": captions}, {"chunk_size": size}
        found = plan_run(Path(), dataset=dataset, workflow=workflow)[0]
        opened = open_dataset(found.config, found.architecture.point_feat_dim)
        rows.append([row for chunk in found.chunks for row in read_samples(found, chunk, opened)])
    assert rows[0] == rows[1] == rows[2] and len(rows[0]) == 7


def test_a_grid_is_named_by_its_steps_and_refused_where_it_is_not_possible(plan):
    def names(respacing):
        found = make_plan(run_config(diffusion={"timestep_respacing": respacing}))[0]
        return [chunk.name for chunk in found.chunks]

    assert names("snr4") == names("steps=0, 331, 498, 499") != names("4")
    with pytest.raises(ConfigError, match='"snr2" to "snr500" are possible'):
        names("snr501")


def in_the_old_form(path):
    """A record as versions wrote it that knew size and mtime only, and named devices."""
    content = unseal(path.read_bytes())
    content["contents"] = {
        group: {
            name: {key: found[key] for key in ("size", "mtime_ns", "sha256")}
            for name, found in files.items()
        }
        for group, files in content["contents"].items()
    }
    content["provenance"]["device"] = "CPU (4 thread(s))"
    path.chmod(0o644)
    path.write_bytes(seal(content))


def test_a_run_of_the_old_form_is_finished_and_one_edit_reruns_one_chunk(plan):
    for chunk in plan.chunks:
        in_the_old_form(write_dummy_chunk(plan, chunk))
    merge(plan, lambda line: None)
    again = make_plan(run_config())[0]
    assert again == plan and find_losses(again) == {} and Path(again.archive_record).exists()
    # Another ctime and inode say nothing where the record holds neither.
    path = Path("data/HUMANISE/contact_motion/contacts/00004.npz")
    os.chmod(path, 0o600)
    assert make_plan(run_config())[0] == plan
    write_contacts(path, 32, seed=99)
    edited = make_plan(run_config())[0]
    same = [a == b for a, b in zip(edited.chunks, plan.chunks, strict=True)]
    assert same == [True, False, True]


def test_an_item_replaced_with_the_same_size_and_mtime_reruns_its_chunk(plan):
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    path = Path("data/HUMANISE/contact_motion/contacts/00004.npz")
    times, size = (path.stat().st_mtime_ns,) * 2, path.stat().st_size
    write_contacts(path.with_name("new"), 32, seed=99)
    os.utime(path.with_name("new"), ns=times)
    path.with_name("new").replace(path)
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (times[0], size)
    changed = make_plan(run_config())[0]
    assert [a == b for a, b in zip(changed.chunks, plan.chunks, strict=True)] == [True, False, True]


def test_a_touched_item_is_hashed_by_the_first_run_and_then_remembered(plan, monkeypatch):
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    os.utime("data/HUMANISE/contact_motion/contacts/00004.npz")
    assert make_plan(run_config())[0] == plan
    assert not Path("outputs/run/plan/contents.json").exists()  # looking keeps nothing
    save_plan(*make_plan(run_config()))
    monkeypatch.setattr("cdm.run.inputs.hash_file", None)  # would fail
    assert make_plan(run_config())[0] == plan


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"files": {"a": 1}}', b"flip"])
def test_a_damaged_memory_of_hashes_is_made_anew(plan, damage):
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    os.utime("data/HUMANISE/contact_motion/contacts/00004.npz")
    save_plan(*make_plan(run_config()))
    path = Path("outputs/run/plan/contents.json")
    whole = path.read_bytes()
    path.write_bytes(damage if damage != b"flip" else whole.replace(b"0", b"1", 1))
    assert make_plan(run_config())[0] == plan
    save_plan(*make_plan(run_config()))
    assert path.read_bytes() == whole


def test_a_flipped_hash_cannot_pass_for_todays_content(plan):
    """The memory of hashes names an edit's chunk, so it must not be believed when it is edited."""
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    path = Path("data/HUMANISE/contact_motion/contacts/00004.npz")
    write_contacts(path, 32, seed=99)
    edited = make_plan(run_config())
    save_plan(*edited)
    memory = Path("outputs/run/plan/contents.json")
    content = orjson.loads(memory.read_bytes())
    (entry,) = (entry for name, entry in content["files"].items() if name.endswith("00004.npz"))
    record = unseal(Path(plan.chunk_record(plan.chunks[1])).read_bytes())
    (name,) = (name for name in record["contents"]["items"] if name.endswith("00004.npz"))
    entry[-1] = record["contents"]["items"][name]["sha256"]  # as if nothing had been edited
    memory.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    assert make_plan(run_config())[0] == edited[0]


def test_jobs_take_the_plan_that_was_saved_and_make_a_damaged_one_anew(plan):
    assert load_plan(run_config()) == plan
    path = Path("outputs/run/plan/plan.json")
    path.write_bytes(path.read_bytes().replace(b'"depth": 6', b'"depth": 7'))
    assert load_plan(run_config()) == plan
    path.unlink()
    assert load_plan(run_config()) == plan
    assert not path.exists()


def test_the_identity_holds_json_values_only(plan):
    assert orjson.loads(orjson.dumps(plan.identity)) == plan.identity
    assert read_plan("outputs/run").identity == plan.identity


def test_every_part_of_the_identity_changes_the_names(plan):
    usual = {
        "config": plan.config,
        "architecture": plan.architecture,
        "checkpoint_sha256": "a",
        "scene_model_sha256": None,
        "statistics": plan.statistics,
        "rotates": True,
    }
    sizes = plan.architecture.sizes | {"depth": 7}
    others = (
        {"config": replace(plan.config, seed=7)},
        {"architecture": replace(plan.architecture, sizes=sizes)},
        {"checkpoint_sha256": "b"},
        {"scene_model_sha256": "c"},
        {"statistics": replace(plan.statistics, values=None)},
        {"rotates": False},
    )
    found = [make_identity(**usual | other) for other in ({}, *others)]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_a_split_without_samples_is_told(plan):
    write_split(Path("data"), [])
    with pytest.raises(DataError, match=r"train\.txt list no item"):
        make_plan(run_config())


def test_a_run_without_a_checkpoint_of_its_own_says_what_to_type(plan):
    with pytest.raises(NotTrained, match="snakemake train"):
        make_plan(run_config(exp_dir=None))


def test_a_chunk_is_never_larger_than_what_is_left(plan):
    whole = make_plan(run_config(workflow={"chunk_size": 10_000_000}))[0]
    assert [(chunk.start, chunk.stop) for chunk in whole.chunks] == [(0, 7)]
    assert [chunk.num_samples for chunk in plan.chunks] == [3, 3, 1]
    assert isinstance(plan.checkpoint, PlannedFile) and len(plan.checkpoint.sha256) == 64


def test_a_job_reads_its_plan_without_torch_and_zarr():
    code = "import sys, cdm.run.planning; print({'torch', 'zarr'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
