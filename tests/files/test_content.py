"""What files hold, and when they count as unchanged."""

import hashlib
import os
import time

import pytest

from cdm.files import FileState, checksum, clamp_future_mtimes, hash_file, list_names, read_bytes


def test_a_checksum_is_size_and_sha256(tmp_path):
    content = os.urandom(200_001)
    (tmp_path / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert checksum(tmp_path / "file") == [200_001, expected]
    assert hash_file(tmp_path / "file") == expected and read_bytes(tmp_path / "file") == content


@pytest.mark.parametrize("told", [0, 1000, 300_000, 900_000])
def test_all_bytes_are_read_whatever_size_the_system_told_before(tmp_path, monkeypatch, told):
    """A file may grow or shrink after it was looked at."""
    content = os.urandom(700_001)
    (tmp_path / "file").write_bytes(content)
    stat, fields = os.fstat, 6  # the size's place
    monkeypatch.setattr(
        os, "fstat", lambda fd: os.stat_result([*stat(fd)[:fields], told, *stat(fd)[fields + 1 :]])
    )
    assert read_bytes(tmp_path / "file") == content


def test_a_pipe_or_a_folder_in_place_of_a_file_is_an_error_and_no_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        for function in (checksum, read_bytes):
            with pytest.raises(OSError):
                function(tmp_path / name)


def test_a_file_counts_as_unchanged_only_while_nothing_of_it_changed(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("abc")
    recorded = FileState.of(path.stat())._asdict()
    assert FileState.of(path.stat()).agrees_with(recorded)
    other.write_text("xyz")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(other, path)  # the same size and mtime
    assert not FileState.of(path.stat()).agrees_with(recorded)


def test_times_that_lie_in_the_future_are_set_to_now_and_others_stay(tmp_path):
    ahead, past = tmp_path / "ahead", tmp_path / "past"
    for path, when in ((ahead, time.time() + 1000), (past, 1000)):
        path.touch()
        os.utime(path, (when, when))
    clamp_future_mtimes([ahead, past, tmp_path / "missing"])
    assert ahead.stat().st_mtime <= time.time() and past.stat().st_mtime == 1000


def test_a_folder_that_is_not_there_has_no_names(tmp_path):
    (tmp_path / "a").touch()
    assert list_names(tmp_path) == {"a"} and list_names(tmp_path / "missing") == set()
