"""`cdm check-stage2`: every item of a split, and what stage 2 would find for it."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import stage2

from cdm.__main__ import main

MAP = np.ones((1, stage2.POINTS, 6), np.float32)


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return stage2.write_data(Path("data"))


def put(*sets, rows=(0, 1, 3), parent="data", array=MAP):
    for set in sets:
        folder = Path(parent, set, "pred_contact")
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows:
            np.save(folder / (f"{row:05}.npy" if isinstance(row, int) else f"{row}.npy"), array)


def check(*arguments, capsys=None):
    status = main(["check-stage2", *arguments])
    shown = capsys.readouterr() if capsys else None
    return (status, shown.out + shown.err) if shown else status


def test_all_maps_there(capsys):
    put(*stage2.SETS)
    for path in ("data", "data/"):
        status, shown = check(path, "--split", "train", capsys=capsys)
        assert status == 0 and shown.count("3 of 3 items have a map that stage 2 reads") == 3


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: os.remove(f / "00001.npy"), "1 without one, stage 2 would take ground truth"),
        (lambda f: np.save(f / "00001.npy", MAP[0]), "00001.npy: is (16, 6), expected (1, 16, 6)"),
        (lambda f: np.save(f / "00005.npy", MAP), "1 file(s) that no item asks for: 00005.npy"),
    ],
    ids=["missing", "unreadable", "unasked"],
)
def test_anything_else_is_told_with_exit_status_1(damage, told, capsys):
    put(*stage2.SETS)
    damage(Path("data/PROX/pred_contact"))
    status, shown = check("data", "--split", "train", capsys=capsys)
    assert status == 1 and told in shown
    status, shown = check("data", "--split", "train", "--sets", "HUMANISE", capsys=capsys)
    assert status == 0


def test_a_set_that_is_trained_on_together_with_others_counts_without_maps_too(capsys):
    put("HUMANISE")
    status, shown = check("data", "--split", "train", capsys=capsys)
    assert status == 1 and "H3D" not in shown and shown.count("3 without one") == 2
    assert "HumanML3D, PROX: no map at all. If stage 2 does not use it: --sets HUMANISE" in shown


def test_h3d_is_looked_at_where_it_has_maps(capsys):
    put("H3D", rows=("000021-0", "M000004-1"))
    status, shown = check("data", "--split", "train", capsys=capsys)
    assert status == 0 and "PROX" not in shown and "3 of 3 items" in shown


def test_without_any_map_every_set_is_told(capsys):
    status, shown = check("data", "--split", "train", capsys=capsys)
    assert status == 1 and all(set in shown for set in (*stage2.SETS, "H3D"))


def test_a_test_needs_the_contact_folder(capsys):
    put(*stage2.SETS, rows=(2, 4), parent="outputs/run", array=MAP.repeat(3, 0))
    status, shown = check("data", "--split", "test", capsys=capsys)
    assert status == 2 and "--contact-folder" in shown
    arguments = ("data", "--split", "test", "--contact-folder", "outputs/run")
    status, shown = check(*arguments, capsys=capsys)
    assert status == 0 and "maps of an item: 3 (2 files)" in shown
    os.remove("outputs/run/PROX/pred_contact/00004.npy")
    status, shown = check(*arguments, capsys=capsys)
    assert status == 1 and "stage 2 would stop there: PROX/4" in shown


def test_scans_are_looked_at_where_they_have_maps(capsys):
    put("custom", rows=(0, 1), parent="outputs/run")
    arguments = ("data", "--split", "test", "--contact-folder", "outputs/run")
    status, shown = check(*arguments, capsys=capsys)
    assert status == 0 and "custom/pred_contact: 2 of 2 items" in shown and "PROX" not in shown


def test_the_folder_of_the_fork_can_be_looked_at_for_training(capsys):
    put("H3D", rows=("000021-0", "M000004-1"), parent="outputs/run")
    arguments = ("--split", "train", "--contact-folder", "outputs/run", "--sets", "H3D")
    assert (
        check("data", *arguments) == 0 and check("data", "--split", "train", "--sets", "H3D") == 1
    )


def test_a_test_of_the_first_items_needs_their_maps_alone(capsys):
    for set in stage2.SETS:
        shutil.copy(f"data/{set}/all.txt", f"data/{set}/test.txt")
    order = [(set, row) for set in stage2.SETS for row in range(6)]
    random.Random(2023).shuffle(order)
    for set, row in order[:5]:
        put(set, rows=[row], parent="outputs/run", array=MAP.repeat(3, 0))
    arguments = ("data", "--split", "test", "--contact-folder", "outputs/run")
    assert check(*arguments) == 1
    status, shown = check(*arguments, "--config", "dataset={max_items: 5}", capsys=capsys)
    assert status == 0, shown


def test_points_are_those_of_the_data_and_a_configuration_tells_the_joints(capsys):
    put(*stage2.SETS, array=MAP[..., :1])
    assert check("data", "--split", "train") == 0
    settings = ("--config", "dataset={captions: first}")
    status, shown = check("data", "--split", "train", *settings, capsys=capsys)
    assert status == 1 and "is (1, 16, 1), expected (1, 16, 6)" in shown
    put(*stage2.SETS, array=MAP[:, 1:])
    status, shown = check("data", "--split", "train", capsys=capsys)
    assert status == 1 and "is (1, 15, 6), expected (1, 16, 6)" in shown


def test_a_deep_look_reads_the_values(capsys):
    put(*stage2.SETS)
    np.save("data/PROX/pred_contact/00003.npy", MAP * np.nan)
    assert check("data", "--split", "train") == 0
    status, shown = check("data", "--split", "train", "--deep", capsys=capsys)
    assert status == 1 and "00003.npy: holds NaN or infinity" in shown


def test_json_tells_every_name(capsys):
    put(*stage2.SETS, rows=(0, 1, 3, 5))
    status, shown = check("data", "--split", "train", "--json", capsys=capsys)
    found = json.loads(shown)
    assert status == 1 and not found["ok"] and len(found["sets"]) == 3
    assert found["sets"][0]["unasked"] == ["00005.npy"] and "files" not in found["sets"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dta", "--split", "train"), "dta: no such folder"),
        (("--split", "train"), "name stage 2's data folder"),
        (("data", "--split", "train", "--sets", "PRX"), "no index file of the split train of PRX"),
        (("data", "--split", "val"), "has no set with the split val"),
        (("data", "--split", "test", "--contact-folder", "x"), "x: no such folder"),
    ],
)
def test_what_cannot_be_looked_at_is_told_with_exit_status_2(arguments, message, capsys):
    status, shown = check(*arguments, capsys=capsys)
    assert status == 2 and message in shown and "Traceback" not in shown


def test_mirrored_clips_of_humanml3d_are_asked_for_unless_the_configuration_says_no(capsys):
    put(*stage2.SETS)
    shutil.move("data/HumanML3D/train.txt", "data/HumanML3D/train_without_mirror.txt")
    Path("data/HumanML3D/train.txt").write_text("0\n1\n3\n4\n")
    assert check("data", "--split", "train") == 1
    settings = "dataset={sets_config: {HumanML3D: {use_mirror: false}}}"
    assert check("data", "--split", "train", "--config", settings) == 0


def test_looking_changes_nothing():
    put(*stage2.SETS)
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert check("data", "--split", "train", "--deep") == 0
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
