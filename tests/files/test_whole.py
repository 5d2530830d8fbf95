"""Files and folders: the old content or the new at every moment, and links are not followed."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPO

from cdm.errors import ArchiveError
from cdm.files import (
    lock_path,
    remove,
    remove_if_unused,
    replacing,
    replacing_all,
    sync,
    target_of,
    try_lock,
    unlock,
    whole,
)


def write_folder(path, text):
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text(text)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_leaves_nothing_and_says_what_to_do(tmp_path, code):
    target = tmp_path / "file.json"
    target.write_text("old")
    with pytest.raises(ArchiveError, match="Finished chunks are kept"):
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError(code, os.strerror(code))
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    assert target.read_text() == "old"


def test_leftovers_of_a_killed_attempt_are_removed_by_the_next_and_nothing_else(tmp_path):
    (tmp_path / ".chunk.zarr.12345678.tmp").mkdir()
    others = [".chunk.zarr.notes.tmp", ".chunk.zarr.backup.12345678.tmp", ".other.12345678.tmp"]
    for name in others:
        (tmp_path / name).write_text("a user's")
    write_folder(tmp_path / "chunk.zarr", "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "chunk.zarr"])


def test_target_of_undoes_the_name_of_a_temporary(tmp_path):
    for name in ("contact_maps.zarr", ".hidden", "a.b.tmp", "00001-ab.json"):
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("x")
            assert target_of(temporary) == tmp_path / name
    for name in ("a.12345678.tmp", ".a.1234567.tmp", ".a.1234567g.tmp", ".a.12345678.tmp.gz"):
        assert target_of(tmp_path / name) is None


LOOK = """
import os, sys
missing = looks = 0
while not os.path.exists("stop"):
    looks += 1
    try:
        with open("store/a") as file:
            assert file.read() in ("0" * 999, "1" * 999)
    except FileNotFoundError:
        missing += not os.path.isdir("store")
print(missing, looks)
"""


def test_a_folder_that_is_replaced_is_there_at_every_moment(tmp_path):
    store = tmp_path / "store"
    write_folder(store, "0" * 999)
    reader = subprocess.Popen(
        [sys.executable, "-c", LOOK], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    for turn in range(200):
        write_folder(store, str(turn % 2) * 999)
    (tmp_path / "stop").touch()
    missing, looks = map(int, reader.communicate()[0].split())
    assert missing == 0 and looks > 100


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_also_where_the_file_system_has_no_exchange(
    tmp_path, monkeypatch, exchange
):
    if not exchange:
        monkeypatch.setattr(whole, "RENAME_EXCHANGE", 1 << 20)  # a flag that no system knows
    store = tmp_path / "store"
    for text in ("old", "new"):
        write_folder(store, text)
    assert (store / "a").read_text() == "new" and os.listdir(tmp_path) == ["store"]


def test_a_folder_takes_the_place_of_a_file_and_a_file_that_of_a_folder(tmp_path):
    path = tmp_path / "path"
    path.write_text("file")
    write_folder(path, "folder")
    assert (path / "a").read_text() == "folder"
    with replacing(path) as temporary:
        temporary.write_text("file")
    assert path.read_text() == "file" and os.listdir(tmp_path) == ["path"]


@pytest.mark.parametrize("dangling", [True, False])
@pytest.mark.parametrize("folder", [True, False])
def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path, folder, dangling):
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "here/path"
    path.parent.mkdir()
    if not dangling:
        elsewhere.mkdir()
        (elsewhere / "kept").write_text("kept")
    path.symlink_to(elsewhere)
    if folder:
        write_folder(path, "new")
        assert (path / "a").read_text() == "new"
    else:
        with replacing(path) as temporary:
            temporary.write_text("new")
        assert path.read_text() == "new"
    assert not path.is_symlink() and os.listdir(path.parent) == ["path"]
    assert elsewhere.exists() != dangling
    assert dangling or (elsewhere / "kept").read_text() == "kept"


def test_the_folder_that_is_written_to_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    for text in ("old", "new"):
        write_folder(tmp_path / "outputs/store", text)
        with replacing(tmp_path / "outputs/file") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "disk/store/a").read_text() == "new"
    assert (tmp_path / "disk/file").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "disk")) == ["file", "store"]


def test_removing_and_flushing_do_not_follow_links(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    folder.mkdir()
    (folder / "link").symlink_to(elsewhere / "kept")
    (folder / "links").symlink_to(elsewhere)
    with pytest.raises(OSError):
        sync(folder)  # a link where a file was written is not what was written
    remove(folder / "links")
    remove(folder)
    assert (elsewhere / "kept").read_text() == "kept" and not folder.exists()


def test_a_check_that_fails_leaves_all_as_it_was(tmp_path):
    store, record = tmp_path / "store", tmp_path / "record"
    write_folder(store, "old")
    record.write_text("old")

    def check():
        assert (temporary / "a").read_text() == "new"
        raise ArchiveError("lost")

    with pytest.raises(ArchiveError, match="lost"):
        with replacing_all(store, record, check=check) as (temporary, temporary_record):
            temporary.mkdir()
            (temporary / "a").write_text("new")
            temporary_record.write_text("new")
    assert (store / "a").read_text() == record.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["record", "store"]


def test_what_is_being_written_is_not_removed(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    held = try_lock(lock_path(path))
    assert not remove_if_unused(path, path) and path.exists()
    unlock(lock_path(path), held)
    assert remove_if_unused(path, path) and os.listdir(tmp_path) == []


STOP = """
import os, signal
from pathlib import Path
from cdm.files import replacing
with replacing(Path("store")) as temporary:
    temporary.mkdir()
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_stopped_writer_keeps_what_it_writes(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", STOP], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPO)}
    )
    os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WNOWAIT)
    (temporary,) = tmp_path.glob(".store.*.tmp")
    assert not remove_if_unused(temporary, target_of(temporary))
    assert temporary.exists()
    writer.kill()
    writer.wait()
    assert remove_if_unused(temporary, Path(tmp_path, "store")) and not temporary.exists()
