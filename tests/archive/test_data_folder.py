"""A data folder is written to only when asked, and nothing in it is lost that is not ours."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cdm.archive import data_folder
from cdm.archive.data_folder import opened, put_maps
from cdm.errors import ArchiveError

SOURCE, DATA = Path("outputs/run"), Path("data")
FOLDER = DATA / "HUMANISE/pred_contact"
ORIGIN = {"archive": "a", "plan": "p"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (DATA / "HUMANISE").mkdir(parents=True)


def exported(names, content="new") -> dict:
    """Our own export of some files, as `export_pred_contact` leaves it."""
    folder = SOURCE / "HUMANISE/pred_contact"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in names:
        data = f"{content} {name}".encode()
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)
        files[name] = [len(data), hashlib.sha256(data).hexdigest()]
    return {"HUMANISE": files}


def put(files, split="train", overwrite=False, sets=("HUMANISE",), to=DATA) -> list[str]:
    lines = []
    with opened(Path(to), sets, overwrite) as folders:
        put_maps(folders, SOURCE, split, files, ORIGIN, lines.append)
    return lines


def contents(folder=FOLDER) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_files_are_hard_links_and_the_record_stands_beside_the_folder():
    [line] = put(exported(["00000.npy", "00001.npy"]))
    assert line == f"2 files -> {FOLDER} (2 linked)"
    assert contents() == {"00000.npy": "new 00000.npy", "00001.npy": "new 00001.npy"}
    assert os.path.samefile(FOLDER / "00000.npy", SOURCE / "HUMANISE/pred_contact/00000.npy")
    assert sorted(os.listdir(DATA / "HUMANISE")) == ["pred_contact", "pred_contact.json"]
    record = json.loads((DATA / "HUMANISE/pred_contact.json").read_text())
    assert list(record["splits"]) == ["train"] and record["unfinished"] == []


def test_where_no_link_can_be_made_files_are_copied_and_the_log_says_why(monkeypatch):
    def refuse(*args, **options):
        raise OSError(18, "Invalid cross-device link")

    files = exported(["00000.npy"])
    monkeypatch.setattr(data_folder.os, "link", refuse)
    [line] = put(files)
    assert "1 copied, as it is another file system" in line
    assert contents() == {"00000.npy": "new 00000.npy"}
    assert os.stat(FOLDER / "00000.npy").st_nlink == 1


@pytest.mark.parametrize("to", ["data/", "link", "link/"])
def test_a_trailing_slash_and_a_link_to_the_data_folder_are_fine(to):
    Path("link").symlink_to("data")
    put(exported(["00000.npy"]), to=to)
    assert contents() == {"00000.npy": "new 00000.npy"}


def test_a_set_that_is_a_link_to_another_disk_is_fine():
    (DATA / "HUMANISE").rename("disk")
    (DATA / "HUMANISE").symlink_to("../disk")
    put(exported(["00000.npy"]))
    assert contents(Path("disk/pred_contact")) == {"00000.npy": "new 00000.npy"}


# --- what is not ours -----------------------------------------------------------------------------


def foreign_files(*names):
    FOLDER.mkdir()
    for name in names:
        (FOLDER / name).write_text(f"theirs {name}")


def test_foreign_files_are_each_named_and_nothing_is_written():
    foreign_files("00000.npy", "00002.npy", "notes.txt")
    (FOLDER / "00001.npy").symlink_to("/dev/null")
    before = sorted(os.listdir(FOLDER))
    with pytest.raises(ArchiveError) as error:
        put(exported([f"{i:05}.npy" for i in range(5)]))
    assert str(error.value).startswith("3 file(s) are in the way")
    for name in ("00000.npy", "00001.npy", "00002.npy", "export.overwrite"):
        assert name in str(error.value)
    assert sorted(os.listdir(FOLDER)) == before and "notes" not in str(error.value)
    assert (FOLDER / "00000.npy").read_text() == "theirs 00000.npy"
    assert not (DATA / "HUMANISE/pred_contact.json").exists()


def test_one_foreign_file_in_the_last_set_leaves_the_first_untouched():
    (DATA / "PROX/pred_contact").mkdir(parents=True)
    (DATA / "PROX/pred_contact/00000.npy").write_text("theirs")
    files = exported(["00000.npy"]) | {"PROX": exported(["00000.npy"])["HUMANISE"]}
    with pytest.raises(ArchiveError, match="1 file"):
        put(files, sets=("HUMANISE", "PROX"))
    assert not FOLDER.exists()


def test_overwrite_replaces_foreign_files_and_says_so_but_no_folder():
    foreign_files("00000.npy", "mine.npy")
    Path("outside").write_text("theirs")
    (FOLDER / "00001.npy").symlink_to(Path("outside").absolute())
    lines = put(exported(["00000.npy", "00001.npy"]), overwrite=True)
    assert "2 file(s) that were not ours are replaced" in lines[0]
    assert (
        contents()["00001.npy"] == "new 00001.npy" and contents()["mine.npy"] == "theirs mine.npy"
    )
    assert Path("outside").read_text() == "theirs"
    (FOLDER / "00002.npy").mkdir()
    with pytest.raises(ArchiveError, match="a folder, expected a file"):
        put(exported(["00002.npy"]), overwrite=True)


def test_a_link_in_place_of_the_folder_is_never_written_through():
    Path("elsewhere").mkdir()
    Path("elsewhere/00000.npy").write_text("theirs")
    FOLDER.symlink_to(Path("elsewhere").absolute())
    with pytest.raises(ArchiveError, match=r"a symbolic link to .*elsewhere"):
        put(exported(["00000.npy"]))
    put(exported(["00000.npy"]), overwrite=True)
    assert contents(Path("elsewhere")) == {"00000.npy": "theirs"}
    assert contents() == {"00000.npy": "new 00000.npy"} and not FOLDER.is_symlink()


def test_a_foreign_file_with_our_content_counts_as_ours():
    files = exported(["00000.npy"])
    FOLDER.mkdir()
    (FOLDER / "00000.npy").write_text("new 00000.npy")
    put(files)
    assert contents() == {"00000.npy": "new 00000.npy"}


@pytest.mark.parametrize("content", ["{}", "not json", '{"splits": {}}'])
def test_a_record_that_is_not_ours_is_kept_and_proves_nothing(content):
    record = DATA / "HUMANISE/pred_contact.json"
    record.write_text(content)
    with pytest.raises(ArchiveError, match="not the record of an export"):
        put(exported(["00000.npy"]))
    assert record.read_text() == content
    put(exported(["00000.npy"]), overwrite=True)
    assert contents() == {"00000.npy": "new 00000.npy"}


# --- a later export -------------------------------------------------------------------------------


def test_a_later_export_replaces_our_files_and_removes_those_nobody_asks_for():
    put(exported(["00000.npy", "00001.npy", "00002.npy"]))
    (FOLDER / "00009.npy").write_text("theirs")
    [line] = put(exported(["00000.npy", "00003.npy"], "newer"))
    assert "2 linked" in line and "2 removed" in line
    assert contents() == {
        "00000.npy": "newer 00000.npy",
        "00003.npy": "newer 00003.npy",
        "00009.npy": "theirs",
    }


def test_a_file_that_was_changed_since_is_no_longer_ours():
    put(exported(["00000.npy", "00001.npy"]))
    (FOLDER / "00001.npy").unlink()
    (FOLDER / "00001.npy").write_text("nEw 00001.npy")  # of the same size
    with pytest.raises(
        ArchiveError,
        match=r"1 file\(s\)[^:]*:\s+data/HUMANISE/pred_contact/00001",
    ):
        put(exported(["00000.npy", "00001.npy"], "newer"))
    [line] = put(exported(["00000.npy"], "newer"))
    assert "1 changed since they were exported, and kept" in line
    assert contents()["00001.npy"] == "nEw 00001.npy"


def test_the_maps_of_another_split_stay():
    put(exported(["00000.npy", "00001.npy"]), "train")
    put(exported(["00005.npy"]), "val")
    assert sorted(contents()) == ["00000.npy", "00001.npy", "00005.npy"]
    put(exported(["00001.npy", "00006.npy"], "newer"), "val")
    assert sorted(contents()) == ["00000.npy", "00001.npy", "00006.npy"]
    put(exported(["00000.npy"]), "train")  # 00001.npy is val's now
    assert contents()["00001.npy"] == "newer 00001.npy"


def test_an_export_run_twice_changes_nothing_and_one_of_a_set_without_maps_removes_ours():
    files = exported(["00000.npy"])
    put(files)
    inode = os.stat(FOLDER / "00000.npy").st_ino
    assert "1 there already" in put(files)[0]
    assert os.stat(FOLDER / "00000.npy").st_ino == inode
    put({})
    assert contents() == {}


def test_earlier_exports_of_other_sets_are_named():
    (DATA / "PROX").mkdir()
    put({"PROX": exported(["00000.npy"])["HUMANISE"]} | exported(["00000.npy"]))
    (SOURCE / "PROX").symlink_to("HUMANISE")
    put({"PROX": exported(["00000.npy"])["HUMANISE"]}, sets=("PROX",))
    assert data_folder.other_exports(DATA, {"PROX": 1}, "train") == [FOLDER]
    assert data_folder.other_exports(DATA, {"PROX": 1}, "val") == []


# --- trouble --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("dta", "dta: no such folder; export.to must be a data folder"),
        ("empty", "empty/HUMANISE: no such folder.*empty holds no folder"),
        ("file", "file: no such folder"),
    ],
)
def test_a_folder_that_is_no_data_folder_is_refused_and_not_created(to, message):
    Path("empty").mkdir()
    Path("file").touch()
    with pytest.raises(ArchiveError, match=message):
        put(exported(["00000.npy"]), to=to)
    assert not Path("dta").exists() and not list(Path("empty").iterdir())


@pytest.mark.parametrize("place", ["lock", "probe"])
def test_a_read_only_data_folder_is_told_before_anything_is_written(monkeypatch, place):
    real_open = os.open
    FOLDER.mkdir()

    def refuse(path, flags, *rest, **options):
        name = Path(os.fsdecode(path)).name
        if flags & os.O_CREAT and name.endswith({"lock": ".lock", "probe": ".tmp"}[place]):
            raise OSError(30, "Read-only file system", str(path))
        return real_open(path, flags, *rest, **options)

    files = exported(["00000.npy"])
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ArchiveError, match=r"cannot write data/HUMANISE.*read-only"):
        put(files)
    assert contents() == {}


@pytest.mark.parametrize("call", range(1, 9))
def test_a_kill_at_any_rename_leaves_whole_files_that_the_next_export_knows(call):
    names = [f"{i:05}.npy" for i in range(4)]
    put(exported(names, "old"))
    new = exported(names[1:], "new")
    child = os.fork()
    if not child:
        real, left = os.replace, [call]

        def die(*args):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            real(*args)

        data_folder.os.replace = die
        put(new)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    there = {name: text for name, text in contents().items() if not name.startswith(".")}
    assert set(there.values()) <= {f"{age} {name}" for age in ("old", "new") for name in names}
    assert status == 9 or sorted(there) == names[1:]

    other = exported(names[2:], "newest")  # the archive was made again meanwhile
    put(other)
    assert contents() == {name: f"newest {name}" for name in names[2:]}


def test_a_full_disk_is_told_and_leaves_no_part(monkeypatch):
    def refuse(*args, **options):
        raise OSError(18, "Invalid cross-device link")

    def full(source, target, **options):
        Path(target).write_text("par")
        raise OSError(28, "No space left on device", str(target))

    files = exported(["00000.npy"])
    monkeypatch.setattr(data_folder.os, "link", refuse)
    monkeypatch.setattr(data_folder.shutil, "copyfile", full)
    with pytest.raises(ArchiveError, match="free some space"):
        put(files)
    assert contents() == {}


def test_maps_are_read_back_from_the_data_folder_to_the_last_bit():
    values = np.random.default_rng(0).random((1, 5, 6), np.float32)
    folder = SOURCE / "HUMANISE/pred_contact"
    folder.mkdir(parents=True)
    np.save(folder / "00000.npy", values)
    data = (folder / "00000.npy").read_bytes()
    put({"HUMANISE": {"00000.npy": [len(data), hashlib.sha256(data).hexdigest()]}})
    assert np.load(FOLDER / "00000.npy").tobytes() == values.tobytes()
