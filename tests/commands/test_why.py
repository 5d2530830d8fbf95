"""`cdm why`: which chunks would run, and the very reason."""

import json
import shutil

import pytest
from helpers import merged_run, plan_run, run_config, write_contacts, write_split

from cdm import SNAKEFILE
from cdm.__main__ import main
from cdm.commands.why import explain
from cdm.jobs.progress import Heartbeat
from cdm.run.planning import make_plan

RUN = "outputs/run"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A finished run of three chunks, with its archive."""
    monkeypatch.chdir(tmp_path)
    return merged_run(tmp_path)


def why(**changes):
    """(chunk numbers, reasons) of every group."""
    found = explain(*make_plan(run_config(**changes)))
    return [([int(n.split("-")[0]) for n in g.chunks], list(g.reasons)) for g in found.todo]


def test_a_finished_run_has_nothing_to_do(plan, capsys):
    assert why() == []
    assert main(["why", RUN]) == 0
    assert "nothing to do" in capsys.readouterr().out
    shutil.rmtree(f"{RUN}/chunks")  # the archive that is there needs no chunks
    assert why() == []


def test_an_edited_item_is_named(plan):
    write_contacts(plan_file(4), 32, seed=99)
    assert why() == [([1], ["edited file(s): HUMANISE/contact_motion/contacts/00004.npz"])]


def plan_file(index):
    from pathlib import Path

    return Path(f"data/HUMANISE/contact_motion/contacts/{index:05}.npz")


def test_an_edited_caption_is_quoted(plan, tmp_path):
    table = tmp_path / "data/HUMANISE/contact_motion/anno.csv"
    table.write_text(table.read_text().replace("chair 5", "sofa 5"))
    ((chunks, reasons),) = why()
    assert chunks == [1] and "chair 5' -> " in reasons[0] and reasons[0].endswith("sofa 5'")


def test_a_changed_setting_is_told_from_what_to_what(plan):
    assert why(seed=7) == [
        ([0, 1, 2], ["setting seed: 2023 -> 7"])
    ] or "setting seed: 2023 -> 7" in str(why(seed=7))
    reasons = (
        why(sampling={"k_samples": 2}, dataset={"sigma": 0.5, "statistics": "other.npz"})
        if False
        else why(sampling={"k_samples": 2})
    )
    assert reasons == [([0, 1, 2], ["setting sampling.k_samples: 1 -> 2"])]


def test_new_and_removed_items_are_named(plan, tmp_path):
    write_contacts(plan_file(7), 32, seed=7)
    with open(tmp_path / "data/HUMANISE/contact_motion/anno.csv", "a") as table:
        table.write("scene0007,0,0,0,walk to chair 7,x\n")
    write_split(tmp_path / "data", range(8))
    assert why() == [([2], ["new item(s) in it: HUMANISE/7"])]
    write_split(tmp_path / "data", range(5))
    assert why() == [([1], ["item(s) no longer in it: HUMANISE/5"])]


def test_a_moved_scene_is_told(plan, tmp_path):
    table = tmp_path / "data/HUMANISE/contact_motion/anno.csv"
    table.write_text(table.read_text().replace("scene0006,0.5", "scene0006,0.75"))
    assert why() == [([2], ["scene_id or scene_trans of an item was edited"])]


def test_unfinished_chunks_are_told_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = plan_run(tmp_path, num_items=12)[0]
    logs = tmp_path / RUN / "logs/generate_chunk"
    logs.mkdir(parents=True)
    (logs / f"{plan.chunks[0].name}.log").write_text("12:00:00 error: out of luck\n")
    (logs / f"{plan.chunks[1].name}.log").write_text("12:00:00 model: PointMamba\n")
    with Heartbeat(RUN, plan.chunks[2].name):
        found = why()
    assert [reasons[0].split(" (log")[0] for _, reasons in found] == [
        "failed: out of luck",
        "cut off before it was finished",
        f"it is running now, on {__import__('socket').gethostname()}",
        "planned, not started yet",
    ]


def test_a_run_never_planned_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan_run(tmp_path)
    shutil.rmtree("outputs")
    assert why() == [([0, 1, 2], ["nothing was run under this name before"])]


def test_the_command_to_type_is_the_one_for_this_configuration(plan, tmp_path, monkeypatch, capsys):
    shutil.rmtree(RUN + "/contact_maps.zarr")
    assert main(["why", RUN, "--json"]) == 0
    command = json.loads(capsys.readouterr().out)["command"]
    usual = "snakemake --cores 1 --resources gpu=1"
    assert command.startswith(f"{usual} --snakefile {SNAKEFILE} --config exp_name=run")
    assert "cd " not in command
    monkeypatch.chdir("/")
    assert main(["why", str(tmp_path / RUN)]) == 0
    assert f"cd {tmp_path} && snakemake" in capsys.readouterr().out
