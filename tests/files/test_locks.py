"""Lock files: one holder, and whatever else stands in their place is told at once."""

import fcntl
import os
import time

import pytest

from cdm.errors import ArchiveError
from cdm.files import is_locked, replacing, try_lock, unlock, whole


def test_a_lock_has_one_holder_and_is_gone_afterwards(tmp_path):
    path = tmp_path / "a.lock"
    held = try_lock(path)
    assert held is not None and try_lock(path) is None and is_locked(path)
    unlock(path, held)
    assert not path.exists() and not is_locked(path)
    assert os.listdir(tmp_path) == []  # looking made no file


def test_a_lock_file_nobody_holds_is_taken_over(tmp_path):
    path = tmp_path / "a.lock"
    path.touch()
    assert not is_locked(path)
    held = try_lock(path)
    assert held is not None and is_locked(path)
    unlock(path, held)


def dangling_link(path):
    path.symlink_to(path.with_name("nothing"))


def link_to_a_file(path):
    path.with_name("kept").write_text("kept")
    path.symlink_to(path.with_name("kept"))


def pipe(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()


@pytest.mark.parametrize("put", [dangling_link, link_to_a_file, pipe, folder])
def test_what_is_no_lock_file_is_told_at_once_and_not_followed(tmp_path, put):
    lock = tmp_path / ".file.lock"
    put(lock)
    before, began = sorted(os.listdir(tmp_path)), time.monotonic()
    with pytest.raises(ArchiveError, match=r"\.file\.lock: .*expected a lock file.*remove it"):
        try_lock(lock)
    with pytest.raises(ArchiveError, match=r"\.file\.lock: .*expected a lock file"):
        with replacing(tmp_path / "file"):
            pass
    assert not is_locked(lock)
    assert time.monotonic() - began < whole.LOCK_WAIT_S and sorted(os.listdir(tmp_path)) == before


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "a.lock"
    child = os.fork()
    if child == 0:
        try_lock(path)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert path.exists() and not is_locked(path)
    descriptor = try_lock(path)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    unlock(path, descriptor)
