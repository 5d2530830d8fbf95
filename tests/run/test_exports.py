"""Stage 2 reads what is exported for it, to the last bit; or it is told why it would not."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import stage2
from stage2 import export

from cdm.__main__ import main
from cdm.archive import ContactMaps, data_folder
from cdm.errors import ArchiveError, ConfigError, DataError
from cdm.run.exports import export_table

RUN, DATA = Path("outputs/run"), Path("data")
RECORD = RUN / "pred_contact.json"
CUSTOM = {"dataset": {"name": "ContactMapCustomDataset"}}
TEST = {"dataset": {"phase": "test"}}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage2.write_data(DATA)


def archived(plan, set, index, caption_idx=None) -> np.ndarray:
    """The distances in the archive of a sample, read apart from the exports."""
    maps = ContactMaps(plan.archive)
    [row] = [
        row
        for row, key in enumerate(maps.keys)
        if key[:2] == (set, str(index)) and caption_idx in (None, key[2])
    ]
    return maps.group["distance"][row].astype(np.float32)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


# --- right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "dtype"), [("train", "float32"), ("all", "float16")])
def test_stage_2_trains_on_every_map_of_the_sets(split, dtype):
    config = stage2.stage_1(DATA, dataset={"phase": split}, workflow={"dtype": dtype})
    plan = stage2.make_archive(config)
    lines = export(plan, to="data/", **{"for": "train"})
    for set in stage2.SETS:
        maps, ground_truth = stage2.rows_of_a_training(DATA, set, split)
        assert not ground_truth and len(maps) == (3 if split == "train" else 6)
        for row, values in maps.items():
            assert_same(values, archived(plan, set, row)[0])
    assert all(
        "items have a map" in line or "linked" in line or "-> outputs" in line for line in lines
    )
    assert [each["ok"] for each in json.loads(RECORD.read_text())["stage_2"]] == [True] * 3


@pytest.mark.parametrize(("captions", "fork"), [("random", False), ("all", False), ("all", True)])
def test_stage_2_trains_on_every_map_of_h3d(captions, fork):
    dataset = {"name": "ContactHumanML3DDataset", "captions": captions}
    plan = stage2.make_archive(stage2.stage_1(DATA, dataset=dataset))
    export(plan, **{"for": "train"}, to=None if fork else "data")
    maps, ground_truth = stage2.clips_of_a_training(DATA, "train", RUN if fork else None)
    assert not ground_truth and set(maps) == {"000021", "M000004"}
    for clip, files in maps.items():
        for name, values in files.items():
            caption_idx = int(name.removesuffix(".npy").split("-")[1])
            assert_same(values, archived(plan, "H3D", clip, caption_idx)[0])
    assert sum(map(len, maps.values())) == (5 if captions == "all" else 3)


@pytest.mark.parametrize(("k", "dtype"), [(1, "float32"), (30, "float16")])
def test_stage_2_tests_on_all_maps_in_the_folder_of_the_run(k, dtype):
    options = {"sampling": {"k_samples": k}, "workflow": {"dtype": dtype}}
    plan = stage2.make_archive(stage2.stage_1(DATA, **TEST, **options))
    export(plan, **{"for": "test"})
    for set in stage2.SETS:
        for row, values in stage2.rows_of_a_test(DATA, set, RUN).items():
            assert_same(values, archived(plan, set, row))
    found = json.loads(RECORD.read_text())["stage_2"]
    assert [each["num_maps"] for each in found] == [{str(k): 2}] * 3


def test_stage_2_tests_on_clips_and_on_scans():
    clips = {"name": "ContactHumanML3DDataset", "phase": "test"}
    plan = stage2.make_archive(stage2.stage_1(DATA, dataset=clips))
    export(plan, **{"for": "test"})
    maps = stage2.clips_of_a_test(DATA, RUN)
    assert set(maps) == {("000021", 0), ("000021", 2), ("M000004", 0)}
    for (clip, caption_idx), values in maps.items():
        assert_same(values, archived(plan, "H3D", clip, caption_idx))
    plan = stage2.make_archive(stage2.stage_1(DATA, **CUSTOM))
    export(plan, **{"for": "test"})
    for row, values in stage2.rows_of_a_test(DATA, "custom", RUN).items():
        assert_same(values, archived(plan, "custom", row))


def test_an_export_after_the_archive_was_made_again_is_the_new_one_alone():
    old = stage2.make_archive(stage2.stage_1(DATA))
    export(old, to="data")
    (DATA / "PROX/train.txt").write_text("000003\n")
    new = stage2.make_archive(stage2.stage_1(DATA, seed=7))
    export(new, to="data")
    maps, ground_truth = stage2.rows_of_a_training(DATA, "PROX", "train")
    assert not ground_truth and os.listdir(DATA / "PROX/pred_contact") == ["00003.npy"]
    assert_same(maps[3], archived(new, "PROX", 3)[0])
    assert not np.array_equal(maps[3], np.load(DATA / "HUMANISE/pred_contact/00003.npy")[0])


def test_the_runs_own_folder_as_the_data_folder_is_what_is_written_anyway():
    plan = stage2.make_archive(stage2.stage_1(DATA))
    export(plan, to=str(RUN.absolute()) + "/")
    assert not (RUN / "PROX/pred_contact.json").exists()
    assert len(os.listdir(RUN / "PROX/pred_contact")) == 3


# --- wrong ----------------------------------------------------------------------------------------

REFUSED = {
    "k": (
        {"sampling": {"k_samples": 2}, "export": {"for": "train"}},
        r"export\.for is train but sampling\.k_samples is 2: .*Set sampling\.k_samples to 1",
    ),
    "k, by the folder": (
        {"sampling": {"k_samples": 2}, "export": {"to": "data"}},
        r"export\.to is data but sampling\.k_samples is 2",
    ),
    "captions": (
        {"dataset": {"captions": "all"}, "export": {"for": "train"}},
        r"dataset\.captions is all: .*00004-0\.npy.*Set dataset\.captions to random or first",
    ),
    "captions of a test": (
        {"dataset": {"captions": "all", "phase": "test"}, "export": {"for": "test"}},
        r"dataset\.captions is all",
    ),
    "test split to train": (
        {"dataset": {"phase": "test"}, "export": {"for": "train"}},
        r"dataset\.phase is test: stage 2 trains on the items of",
    ),
    "train split to test": (
        {"export": {"for": "test"}}, r"dataset\.phase is train: stage 2 tests on the items of test",
    ),
    "scans to train": ({**CUSTOM, "export": {"for": "train"}}, r"have no motions to train"),
}  # fmt: skip


@pytest.mark.parametrize("way", REFUSED)
def test_what_stage_2_would_not_read_is_refused_before_anything_runs(way):
    changes, message = REFUSED[way]
    with pytest.raises(ConfigError, match=message):
        stage2.stage_1(DATA, **changes)


def test_more_maps_than_training_reads_are_told_where_nothing_is_asked_for():
    plan = stage2.make_archive(stage2.stage_1(DATA, sampling={"k_samples": 2}))
    told = "\n".join(export(plan))
    assert "00000.npy: is (2, 16, 6), expected (1, 16, 6)" in told
    with pytest.raises(ValueError):  # as stage 2 itself finds
        stage2.rows_of_a_training(RUN, "PROX", split_beside(RUN))


def split_beside(folder: Path, sets=stage2.SETS) -> str:
    """Put the index files beside the maps, and name the split."""
    for set in sets:
        shutil.copy(DATA / set / "train.txt", folder / set)
    return "train"


def test_names_that_nobody_reads_are_told_where_nothing_is_asked_for():
    plan = stage2.make_archive(stage2.stage_1(DATA, dataset={"captions": "all", "sets": ["PROX"]}))
    told = "\n".join(export(plan))
    assert "0 of 3 items have a map" in told
    assert "7 file(s) that no item asks for: 00000-0.npy" in told
    assert len(stage2.rows_of_a_training(RUN, "PROX", split_beside(RUN, ["PROX"]))[1]) == 3


def test_a_bad_item_that_was_skipped_is_told_with_its_reason():
    plan = stage2.make_archive(stage2.stage_1(DATA), skipped=("HUMANISE/3",))
    lines = export(plan, to="data")
    assert "  1 without one, stage 2 would take ground truth: HUMANISE/3" in lines
    assert "  1 of these were skipped as bad items: HUMANISE/3 (NaN in points)" in lines
    assert stage2.rows_of_a_training(DATA, "HUMANISE", "train")[1] == [3]
    with pytest.raises(FileNotFoundError):
        (DATA / "HUMANISE/test.txt").write_text("000003\n")
        stage2.rows_of_a_test(DATA, "HUMANISE", DATA)


def test_a_stale_map_of_an_item_that_is_skipped_now_does_not_stay():
    export(stage2.make_archive(stage2.stage_1(DATA)), to="data")
    export(stage2.make_archive(stage2.stage_1(DATA, seed=7), ("HUMANISE/3",)), to="data")
    assert stage2.rows_of_a_training(DATA, "HUMANISE", "train")[1] == [3]


def test_a_foreign_map_of_a_skipped_item_is_told():
    plan = stage2.make_archive(stage2.stage_1(DATA), skipped=("HUMANISE/3",))
    (DATA / "HUMANISE/pred_contact").mkdir()
    np.save(DATA / "HUMANISE/pred_contact/00003.npy", np.ones((1, 16, 6), np.float32))
    lines = export(plan, to="data")
    assert "  1 file(s) that it reads are not of this export: 00003.npy" in lines


def test_a_lost_shard_leaves_the_data_folder_as_it_was():
    plan = stage2.make_archive(stage2.stage_1(DATA))
    next(Path(plan.archive, "distance").glob("c.*")).unlink()
    with pytest.raises(ArchiveError, match="No such file"):
        export(plan, to="data")
    assert not list(DATA.rglob("pred_contact*")) and not RECORD.exists()


def test_an_export_that_was_cut_off_is_told_by_the_check_and_goes_on(monkeypatch, capsys):
    plan, put, left = stage2.make_archive(stage2.stage_1(DATA)), data_folder._put_file, [4]

    def stop(*args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return put(*args)

    monkeypatch.setattr(data_folder, "_put_file", stop)
    with pytest.raises(KeyboardInterrupt):
        export(plan, to="data")
    assert main(["check-stage2", "data", "--split", "train"]) == 1
    assert "3 without one" in capsys.readouterr().out and not RECORD.exists()
    assert len(stage2.rows_of_a_training(DATA, "PROX", "train")[1]) == 3
    export(plan, to="data")
    assert main(["check-stage2", "data", "--split", "train", "--deep"]) == 0
    for set in stage2.SETS:
        maps, ground_truth = stage2.rows_of_a_training(DATA, set, "train")
        assert not ground_truth and len(maps) == 3


@pytest.mark.parametrize(
    ("to", "error", "message"),
    [
        ("dta", (ArchiveError, DataError), "dta: no such folder"),
        ("outputs", DataError, r"outputs.*(no such|train\.txt)"),
    ],
)
def test_a_folder_that_is_no_data_folder_is_refused_before_anything_is_written(to, error, message):
    plan = stage2.make_archive(stage2.stage_1(DATA))
    with pytest.raises(error, match=message):
        export(plan, to=to)
    assert not (RUN / "PROX").exists() and not Path("dta").exists()


# --- made again when it has to be -----------------------------------------------------------------


def test_the_npz_has_what_the_dataset_has_beside_the_maps():
    config = stage2.stage_1(
        DATA, sampling={"k_samples": 2}, dataset={"phase": "test", "sets": ["HUMANISE"]}
    )
    plan, lines = stage2.make_archive(config), []
    export_table(plan, RUN / "maps.npz", lines.append)
    found = np.load(RUN / "maps.npz", allow_pickle=True)
    assert len(lines) == 1 and len(found["k_samples_list"]) == len(found["sample_list"]) == 2
    for item, items, row in zip(found["sample_list"], found["k_samples_list"], (2, 4), strict=True):
        contacts = np.load(DATA / f"HUMANISE/contact_motion/contacts/{row:05}.npz")
        distance = contacts["dist"][:, [0, 10, 11, 12, 20, 21]]
        x = (np.exp(-0.5 * distance**2 / 0.8**2) - 0.2) / 0.3
        np.testing.assert_allclose(item["x"], x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            item["c_pc_feat"], (contacts["points"][:, 3:] + 1) / 2, rtol=1e-6
        )
        np.testing.assert_array_equal(item["info_obj_mask"], np.arange(16) < 5)
        scene = f"scene{row}"
        assert item["info_scene_mesh"] == f"data/HUMANISE/scenes/{scene}/{scene}_vh_clean_2.ply"
        assert items["k_samples"].shape == (2, 16, 6) and "sample" not in items
        np.testing.assert_array_equal(items["k_samples"][0], item["sample"])
        np.testing.assert_array_equal(items["x"], item["x"])


def test_an_item_that_can_no_longer_be_read_lacks_those_fields_and_the_log_says_so():
    plan, lines = stage2.make_archive(stage2.stage_1(DATA, **CUSTOM)), []
    (DATA / "custom/points/0001.npz").unlink()
    export_table(plan, RUN / "maps.npz", lines.append)
    first, second = np.load(RUN / "maps.npz", allow_pickle=True)["sample_list"]
    assert "1 sample(s) could not be read again" in lines[-1] and "0001.npz" in lines[-1]
    assert "c_pc_feat" in first and "x" not in first  # scans have no ground truth
    assert set(first) - set(second) == {"c_pc_feat", "info_scene_mesh"}


def test_an_item_of_other_points_lends_the_npz_nothing():
    """It was edited, and the chunk whose record would tell was removed."""
    config = stage2.stage_1(DATA, sampling={"k_samples": 2}, **CUSTOM)
    plan, lines = stage2.make_archive(config), []
    points = np.load(DATA / "custom/points/0001.npz")["points"]
    points[:, 0] += 1
    np.savez(DATA / "custom/points/0001.npz", points=points)
    export_table(plan, RUN / "maps.npz", lines.append)
    first, second = np.load(RUN / "maps.npz", allow_pickle=True)["sample_list"]
    assert "c_pc_feat" in first and "c_pc_feat" not in second
    assert "1 sample(s) could not be read again" in lines[-1]
    assert "custom/1 caption 0" in lines[-1] and "not those that its map was made for" in lines[-1]
