"""The workflow as people run it: snakemake on the command line, stopped, changed and resumed."""

import json
import os
import re
import shutil
import signal
import subprocess
import zipfile

import forked
import numpy as np
import pytest
import stage2
import yaml
from helpers import (
    DEMO_MODEL,
    NUM_POINTS,
    REPO,
    SMALL_RUN,
    write_contacts,
    write_dataset,
    write_split,
)
from in_process import make_chunks
from runs import assert_same
from waiting import wait_until

from cdm.archive import ContactMaps

NUM_ITEMS, CHUNK_SIZE = 7, 3
CONFIG = SMALL_RUN
COMMAND = ("--cores", "2", "--resources", "gpu=1")


def snakemake(folder, *arguments):
    """Run this checkout's Snakefile in a folder; the finished process, all output in `stdout`."""
    options = ("-s", REPO / "Snakefile", "--configfile", "mine.yaml", *COMMAND)
    return forked.snakemake(folder, *arguments, *options)


def run(folder, *arguments):
    done = snakemake(folder, *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def type_snakemake(folder, *arguments, snakefile=REPO / "Snakefile"):
    """The command itself, in a process that shares nothing with this one."""
    command = ["snakemake", *arguments, "-s", snakefile, "--configfile", "mine.yaml", *COMMAND]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(map(str, command), cwd=folder, **pipes)
    assert done.returncode == 0, done.stdout
    return done.stdout


def unlock(folder):
    """What the pages say to type after a kill."""
    run(folder, "--unlock")


def planned(folder, *arguments):
    """Chunk numbers that a dry run would make, and the other rules it would run."""
    return parse_plan(run(folder, "-n", *arguments))


def parse_plan(output):
    chunks = re.findall(r"output: outputs/\w+/chunks/(\d+)-\w+\.json", output)
    rules = set(re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE))
    return sorted(map(int, chunks)), rules - {"all", "generate_chunk"}


def configure(folder, **changes):
    (folder / "mine.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))


def arrays(folder, name="run"):
    group = ContactMaps(folder / f"outputs/{name}/contact_maps.zarr").group
    return {key: group[key][:] for key in sorted(group.array_keys())}


@pytest.fixture(scope="session")
def finished(made_once):
    """A folder with a dataset and a run that Snakemake finished."""

    def make(folder):
        write_dataset(folder / "data", NUM_ITEMS, NUM_POINTS)
        configure(folder)
        assert "contact_maps.zarr" in type_snakemake(folder)

    return made_once("finished", make)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it that a test may change; times and hard links as they were."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", finished, copy], check=True)
    return copy


def contacts(folder, index):
    return folder / f"data/HUMANISE/contact_motion/contacts/{index:05}.npz"


def lose(folder, *numbers):
    """Remove chunks, and the archive with its record."""
    outputs = folder / "outputs/run"
    chunks = [path for n in numbers for path in (outputs / "chunks").glob(f"{n:05}-*")]
    assert len(chunks) == 2 * len(numbers)
    for path in [*chunks, *outputs.glob("contact_maps*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_finished_run_has_nothing_to_do(folder):
    assert "Nothing to be done" in run(folder)
    assert len(ContactMaps(folder / "outputs/run/contact_maps.zarr")) == NUM_ITEMS


def test_a_run_leaves_the_files_that_the_readme_promises(finished):
    base = finished / "outputs/run"
    assert "PointMamba (trans_dim 96" in (base / "checkpoint_info.txt").read_text()
    assert len((base / "plan/samples.tsv").read_text().splitlines()) == NUM_ITEMS + 1
    logs = sorted((base / "logs/generate_chunk").glob("*.log"))
    assert len(logs) == 3 and re.search(r"maps/s, ETA \d+:\d\d:\d\d", logs[0].read_text())
    assert (
        json.loads((base / "plan/plan.json").read_bytes())["architecture"]["arch"] == "PointMamba"
    )


def test_a_touched_file_reruns_nothing(folder):
    for path in (folder / "data").rglob("*"):
        os.utime(path)
    assert planned(folder) == ([], set())


def test_a_copied_data_folder_reruns_nothing(folder):
    shutil.copytree(folder / "data", folder / "elsewhere")
    shutil.rmtree(folder / "data")
    configure(folder, dataset=CONFIG["dataset"] | {"data_dir": "elsewhere"})
    assert planned(folder) == ([], set())


def test_an_edited_item_reruns_exactly_its_chunk_and_undoing_it_none(folder):
    before = contacts(folder, 4).read_bytes()
    write_contacts(contacts(folder, 4), NUM_POINTS, seed=99)
    assert planned(folder) == ([1], {"merge"})
    old = arrays(folder)
    make_chunks(folder)
    run(folder)
    new = arrays(folder)
    changed = [
        i for i in range(NUM_ITEMS) if not np.array_equal(old["sample"][i], new["sample"][i])
    ]
    assert changed == [4]
    contacts(folder, 4).write_bytes(before)
    assert planned(folder) == ([], {"merge"})
    run(folder)
    assert_same(arrays(folder), old)


def contents_of(folder):
    """Every file of a run, with its inode and time."""
    files = [path for path in sorted((folder / "outputs").rglob("*")) if not path.is_dir()]
    return {path: (os.lstat(path).st_ino, os.lstat(path).st_mtime_ns) for path in files}


def test_a_lost_shard_is_repaired_by_the_same_command_and_looking_changes_nothing(folder):
    before, outputs = arrays(folder), folder / "outputs/run"
    (outputs / "contact_maps.zarr/distance/c.1.0.0.0").unlink()
    (store,) = outputs.glob("chunks/00001-*.zarr")
    files = contents_of(folder)
    # The archive alone is lost: its chunks still have everything.
    assert planned(folder) == ([], {"merge"})
    # The chunk's store is away for a moment.
    store.rename(folder / "away")
    assert planned(folder) == ([1], {"merge"})
    (folder / "away").rename(store)
    assert planned(folder) == ([], {"merge"})
    assert contents_of(folder) == files
    # Both are lost.
    (store / "distance/c.0.0.0.0").unlink()
    shown = run(folder)
    assert "contact_maps.zarr/distance/c.1.0.0.0: is missing; merge runs again" in shown
    assert_same(arrays(folder), before)
    assert planned(folder) == ([], set())


def test_a_finished_run_gets_its_lost_plan_back_and_looking_writes_nothing(folder):
    plan = folder / "outputs/run/plan"
    before = {name: (plan / name).read_bytes() for name in ("plan.json", "samples.tsv")}
    (plan / "plan.json").write_bytes(before["plan.json"][:-100])
    (plan / "samples.tsv").unlink()
    type_snakemake(folder, "-n")  # a process of its own, because this is done as Python ends
    assert not (plan / "samples.tsv").exists()
    assert "Nothing to be done" in type_snakemake(folder)
    assert {name: (plan / name).read_bytes() for name in before} == before


def test_a_run_in_another_folder_writes_and_tells_paths_there(folder, tmp_path):
    started = tmp_path / "started"
    started.mkdir()
    shutil.copy(folder / "mine.yaml", started)
    (folder / "outputs/run/plan/plan.json").unlink()
    shutil.copytree(REPO / "profiles/default", started / "own")
    own = ("--workflow-profile", "own", "--directory", folder)
    assert "Nothing to be done" in type_snakemake(started, *own)
    assert (folder / "outputs/run/plan/plan.json").exists()
    (folder / "outputs/run/contact_maps.zarr").rename(folder / "away")
    told = type_snakemake(started, "--directory", folder)
    assert f'ContactMaps("{folder}/outputs/run/contact_maps.zarr")' in told
    assert {path.name for path in started.iterdir()} == {"mine.yaml", "own"}


def test_a_link_that_leads_nowhere_is_told_without_a_traceback(folder):
    (folder / ".snakemake").rename(folder / "away")
    (folder / ".snakemake").symlink_to("scratch")
    told = snakemake(folder)
    assert told.returncode == 1 and ".snakemake: a link to scratch, which is not" in told.stdout
    assert "Traceback" not in told.stdout


def test_an_edited_caption_reruns_exactly_its_chunk(folder):
    table = folder / "data/HUMANISE/contact_motion/anno.csv"
    table.write_text(table.read_text().replace("sit on chair 5", "lie on bed 5"))
    assert planned(folder) == ([1], {"merge"})


def test_a_grown_split_runs_the_new_items_and_the_chunk_they_fill(folder):
    for index in (7, 8, 9):
        write_contacts(contacts(folder, index), NUM_POINTS, index)
    with open(folder / "data/HUMANISE/contact_motion/anno.csv", "a") as table:
        table.writelines(f"scene{i:04},0,0,0,walk to chair {i},x\n" for i in (7, 8, 9))
    write_split(folder / "data", range(10))
    assert planned(folder) == ([2, 3], {"merge"})
    make_chunks(folder)
    assert planned(folder) == ([], {"merge"})
    run(folder)
    assert len(ContactMaps(folder / "outputs/run/contact_maps.zarr")) == 10


def test_a_shrunk_split_runs_no_chunk_that_stayed_whole(folder):
    write_split(folder / "data", range(6))
    assert planned(folder) == ([], {"merge"})
    write_split(folder / "data", range(5))
    assert planned(folder) == ([1], {"merge"})
    write_split(folder / "data", range(NUM_ITEMS))
    assert planned(folder) == ([], set())


def test_unrelated_settings_rerun_nothing(folder):
    configure(
        folder,
        sampling={"batch_size": 5},
        workflow={"chunk_size": CHUNK_SIZE, "threads": 2},
        dataset=CONFIG["dataset"] | {"on_bad_item": "skip"},
        gpu="auto",
    )
    assert planned(folder) == ([], set())


def test_changed_settings_make_new_chunks_and_going_back_finds_the_old(folder):
    old = arrays(folder)
    configure(folder, seed=1)
    assert planned(folder) == ([0, 1, 2], {"merge"})
    make_chunks(folder, [0, 2])
    assert planned(folder) == ([1], {"merge"})
    make_chunks(folder)
    run(folder)
    assert not np.array_equal(arrays(folder)["sample"], old["sample"])
    configure(folder)
    assert planned(folder) == ([], {"merge"})
    run(folder)
    assert_same(arrays(folder), old)


def test_settings_from_the_command_line_count_like_those_of_a_file(folder):
    assert planned(folder, "--config", "seed=1") == ([0, 1, 2], {"merge"})
    assert planned(folder, "--config", "sampling={k_samples: 2}") == ([0, 1, 2], {"merge"})
    assert planned(folder, "--config", "gpu=auto", "sampling={batch_size: 1}") == ([], set())


@pytest.mark.parametrize("arguments", [[], ["--cores", "2"]], ids=str)
def test_a_dry_run_needs_neither_cores_nor_resources(folder, arguments):
    options = ("-s", REPO / "Snakefile", "--configfile", "mine.yaml", "--config", "seed=1")
    done = forked.snakemake(folder, "-n", *arguments, *options)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^generate_chunk +3$", done.stdout, re.MULTILINE), done.stdout


def test_losing_snakemakes_memory_loses_nothing(folder):
    shutil.rmtree(folder / ".snakemake")
    assert planned(folder) == ([], set())
    configure(folder, seed=1)
    shutil.rmtree(folder / ".snakemake", ignore_errors=True)
    assert planned(folder) == ([0, 1, 2], {"merge"})


def test_a_moved_run_folder_reruns_nothing(folder, tmp_path):
    moved = folder.rename(tmp_path / "moved")
    assert planned(moved) == ([], set())


def test_an_edited_comment_in_a_script_reruns_nothing(folder, tmp_path):
    workflow = tmp_path / "workflow"
    workflow.mkdir()
    for name in ("Snakefile", "rules", "scripts", "config", "profiles", "envs", "cdm"):
        subprocess.run(["cp", "-a", REPO / name, workflow], check=True)
    snakefile = workflow / "Snakefile"
    lose(folder)  # the archive: its merge leaves Snakemake's memory of the scripts of this copy
    assert "rule merge" in type_snakemake(folder, snakefile=snakefile)
    for name in ("scripts/generate_chunk.py", "scripts/merge.py", "cdm/run/generate.py"):
        path = workflow / name
        path.write_text(path.read_text() + "\n# a remark\n")
    assert parse_plan(type_snakemake(folder, "-n", snakefile=snakefile)) == ([], set())

    # A profile of one's own that says nothing of it; and somebody who asks for it.
    (folder / "profile").mkdir()
    (folder / "profile/config.yaml").write_text("keep-going: true\n")
    own = ("-n", "--workflow-profile", "profile")
    assert parse_plan(type_snakemake(folder, *own, snakefile=snakefile)) == ([], set())
    typed = (*own, "--rerun-triggers", "code")
    assert "merge" in parse_plan(type_snakemake(folder, *typed, snakefile=snakefile))[1]


def test_exports_follow_the_archive(folder):
    run(folder, "export_npz", "export_pred_contact")
    base = folder / "outputs/run"
    found = np.load(base / "generated_contact_maps.npz", allow_pickle=True)
    assert int(found["dataset_size"]) == NUM_ITEMS
    assert len(list((base / "HUMANISE/pred_contact").glob("*.npy"))) == NUM_ITEMS
    assert planned(folder, "export_npz", "export_pred_contact") == ([], set())
    table = base / "generated_contact_maps.npz"
    table.write_bytes(table.read_bytes()[:-100])
    assert planned(folder, "export_npz", "export_pred_contact") == ([], {"export_npz"})
    configure(folder, seed=1)
    assert planned(folder, "export_npz")[1] == {"merge", "export_npz"}


def test_an_export_runs_again_for_its_own_settings_and_no_chunk_does(folder):
    targets = ("export_pred_contact", "export_ply")
    configure(folder, export={"to": "data/", "for": "train", "items": 2})
    assert planned(folder, *targets) == ([], set(targets))
    told = run(folder, *targets)
    assert f"data/HUMANISE/pred_contact: {NUM_ITEMS} of {NUM_ITEMS} items have a map" in told
    maps, ground_truth = stage2.rows_of_a_training(folder / "data", "HUMANISE", "train")
    assert not ground_truth and len(maps) == NUM_ITEMS
    assert len(list((folder / "outputs/run/ply").glob("*-*/contact_joint_05.ply"))) == 2
    assert planned(folder, *targets) == ([], set())
    (folder / "data/HUMANISE/pred_contact/00003.npy").unlink()
    assert planned(folder, *targets) == ([], {"export_pred_contact"})
    configure(folder, export={"items": ["HUMANISE/3"]})
    assert planned(folder, *targets) == ([], set(targets))


def test_measures_and_study_follow_the_maps_and_their_own_settings(folder):
    few = {"diffusion": {"steps": 4, "timestep_respacing": 2}}
    study = {"compare": {"samplers": ["dpmpp_2m 2"], "k_samples": 2, "max_items": 2}}
    configure(folder, **few, **study)
    make_chunks(folder)
    run(folder, "report", "compare_samplers")
    base = folder / "outputs/run"
    assert "found" not in (base / "report/metrics.txt").read_text().splitlines()[5]  # no masks
    assert "IoU@0.2" in (base / "report/report.html").read_text()
    assert (
        "draws of the full chain (4 steps)" in (base / "compare_samplers/summary.txt").read_text()
    )
    assert "<h2>Few steps</h2>" in (base / "report/report.html").read_text()
    assert planned(folder, "report", "compare_samplers") == ([], set())
    configure(folder, **few, **study, report={"items": 3})
    assert planned(folder, "report", "compare_samplers") == ([], {"report"})
    configure(folder, **few, **study, evaluation={"top_k": [5]})
    again = {"evaluate", "report", "compare_samplers"}
    assert planned(folder, "report", "compare_samplers") == ([], again)
    masks = folder / "data/HUMANISE/contact_motion/target_mask"
    masks.mkdir()
    np.save(masks / "00000.npy", np.arange(NUM_POINTS) < 9)
    configure(folder, **few, **study)
    assert planned(folder, "report", "compare_samplers") == ([], again)
    configure(folder, **few, **study, seed=1)
    assert planned(folder, "report")[1] == {"merge", "evaluate", "report"}


@pytest.mark.long
def test_snakemakes_own_report_has_the_page_under_results(folder):
    said = type_snakemake(folder, "report")
    again = type_snakemake(folder, "report")
    assert "Nothing to be done" in again and "report.html" not in type_snakemake(folder)
    for each in (said, again):
        assert each.rstrip().splitlines()[-1] == str(folder / "outputs/run/report/report.html")
    type_snakemake(folder, "--report", "all.zip")
    with zipfile.ZipFile(folder / "all.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    first = contents["all/report.html"].decode()
    assert "Contact maps" in first and "maps and measures" in first
    page = (folder / "outputs/run/report/report.html").read_bytes()
    assert page in [content for name, content in contents.items() if "/raw/" in name]


@pytest.mark.long
def test_a_flipped_bit_in_a_chunk_is_named_by_the_merge_with_the_way_to_rebuild_it(folder):
    old = arrays(folder)
    shutil.rmtree(folder / "outputs/run/contact_maps.zarr")
    shard = next((folder / "outputs/run/chunks").glob("00001-*.zarr")) / "sample/c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 4
    shard.chmod(0o644)
    shard.write_bytes(content)
    done = snakemake(folder)
    assert done.returncode != 0
    found = re.search(
        r"(\S+sample/c.0.0.0.0): corrupt .*to rebuild this chunk: (.*?), then", done.stdout
    )
    assert found and "Traceback" not in done.stdout, done.stdout
    subprocess.run(found[2], shell=True, cwd=folder, check=True)
    assert planned(folder) == ([1], {"merge"})
    run(folder)
    assert_same(arrays(folder), old)


def start(folder):
    """The command itself, in a group of its own."""
    command = ["snakemake", "-s", REPO / "Snakefile", "--configfile", "mine.yaml", *COMMAND]
    with open(folder / "killed.log", "ab") as log:
        return subprocess.Popen(
            list(map(str, command)), cwd=folder, stdout=log, stderr=log, start_new_session=True
        )


def kill_group(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_after_a_kill_snakemake_says_how_to_unlock(folder):
    old = arrays(folder)
    lose(folder, 1)
    process = start(folder)
    locks = folder / ".snakemake/locks"
    wait_until(lambda: list(locks.glob("*")) or process.poll() is not None, "a lock")
    kill_group(process)
    assert list(locks.glob("*")), (folder / "killed.log").read_text()
    done = snakemake(folder)
    assert done.returncode != 0 and "--unlock" in done.stdout
    unlock(folder)
    assert "rule generate_chunk" in run(folder)
    assert_same(arrays(folder), old)


# --- bad input: one readable message, no traceback, in seconds ---


def config_with(section, **changes):
    return lambda folder: configure(folder, **{section: {**CONFIG[section], **changes}})


def no_checkpoint(folder):
    (folder / "exp").mkdir()
    configure(folder, exp_dir="exp")


def bad_split(folder):
    write_split(folder / "data", [3, 900, 901])


def empty_split(folder):
    write_split(folder / "data", [])


def missing_column(folder):
    table = folder / "data/HUMANISE/contact_motion/anno.csv"
    table.write_text(table.read_text().replace("utterance", "caption"))


def missing_file(folder):
    contacts(folder, 2).unlink()


def no_encoder(folder):
    text_model = {"version": "ViT-B/32", "path": "clip"}
    configure(folder, model=DEMO_MODEL | {"text_model": text_model}, exp_dir="exp")
    save_clip_checkpoint(folder / "exp/ckpt/model000001.pt")


def save_clip_checkpoint(path):
    """The demo's weights with a text share as wide as CLIP's."""
    import torch

    from cdm.model.checkpoint import find_checkpoint

    state = torch.load(find_checkpoint("demo"), weights_only=True)
    key = "contact_model.embedding.net.0.weight"
    state[key] = torch.zeros(len(state[key]), state[key].shape[1] - 128 + 512)
    path.parent.mkdir(parents=True)
    torch.save(state, path)


BAD_INPUT = {
    "no checkpoint": (no_checkpoint, r"no checkpoint: looked for exp/ckpt/model\*\.pt"),
    "nothing trained": (
        lambda folder: configure(folder, exp_dir=None),
        r"has no ckpt/model\*\.pt yet.*snakemake train",
    ),
    "contradiction": (config_with("sampling", eta=0.5), r"ddpm, which has no eta"),
    "wrong data_dir": (config_with("dataset", data_dir="dta"), r"dta: no such folder \(looked for"),
    "unknown key": (config_with("sampling", batchsize=4), r"did you mean 'sampling\.batch_size'"),
    "id out of range": (bad_split, r"train\.txt.*900"),
    "empty selection": (empty_split, r"train\.txt"),
    "missing column": (missing_column, r"columns utterance are missing"),
    "missing file": (missing_file, r"1 of 7 files .* are missing"),
    "no statistics of custom": (
        config_with("dataset", name="ContactMapCustomDataset"),
        r"custom/anno\.csv: no such file",
    ),
    "no encoder": (no_encoder, r"no weights of the text encoder ViT-B/32"),
    "respacing": (
        lambda folder: configure(folder, diffusion={"timestep_respacing": 501}),
        r"501",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_told_in_the_plan_without_a_traceback(folder, name):
    spoil, message = BAD_INPUT[name]
    spoil(folder)
    done = snakemake(folder, "-n")
    assert done.returncode != 0
    assert re.search(message, done.stdout, re.DOTALL), done.stdout
    assert "Traceback" not in done.stdout, done.stdout


def test_a_bad_item_fails_its_chunk_only_and_is_told_without_a_traceback(folder):
    write_contacts(contacts(folder, 4), NUM_POINTS - 1, 4)
    lose(folder, 1, 2)
    done = snakemake(folder)
    assert done.returncode != 0 and "Traceback" not in done.stdout, done.stdout
    assert f"({NUM_POINTS - 1}, 6)" in done.stdout and "on_bad_item to skip" in done.stdout
    assert "2 of 3 chunks are finished" in done.stdout
    assert len(list((folder / "outputs/run/chunks").glob("*.json"))) == 2


def test_without_a_checkpoint_one_can_be_trained(tmp_path):
    configure(tmp_path, exp_dir=None)
    assert planned(tmp_path, "train") == ([], {"train"})


def test_a_dry_run_of_the_demo_needs_no_files(tmp_path):
    (tmp_path / "mine.yaml").write_text("{}")
    chunks, rules = planned(tmp_path)
    assert chunks and rules == {"demo_data", "merge"}
    assert not (tmp_path / "outputs").exists()
