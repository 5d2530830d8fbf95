"""Folders on a server: what is read, how often is asked, and what is said when it fails."""

import multiprocessing
import pickle
import re

import pytest
from waiting import PATIENCE_S
from web_server import serve

from cdm.errors import Unreachable
from cdm.files import RemotePath, place_of, remote
from cdm.files.remote import AT_ONCE, ATTEMPTS


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/one", "a/two words #1?", "top"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    with serve(tmp_path) as started:
        yield started


@pytest.fixture
def bucket():
    """A storage in memory, which lists its folders, and the number of requests it got."""
    import fsspec

    fs = fsspec.filesystem("memory")
    for number in range(100):
        fs.pipe_file(f"/bucket/data/{number:03}", b"%d" % number)
    yield fs
    fs.rm("/bucket", recursive=True)


def test_a_place_is_a_path_on_disk_or_a_folder_on_a_server(tmp_path):
    assert place_of(str(tmp_path)) == tmp_path
    place = place_of("s3://bucket/data") / "PROX/all.txt"
    assert str(place) == "s3://bucket/data/PROX/all.txt" and place.name == "all.txt"
    assert str(place.parent / "b") == "s3://bucket/data/PROX/b"
    assert str(place_of("s3://bucket/data/x.npz").parent) == "s3://bucket/data"
    assert place_of(place) is place


def test_a_file_is_read_with_one_request_and_with_the_state_that_belongs_to_it(server):
    data, state = (place_of(server.url) / "a/one").read()
    assert data == b"a/one" * 100 and server.requests == [("GET", "a/one")]
    assert state.url == f"{server.url}/a/one" and state.size == 500 and len(state.etag) == 34
    assert (place_of(server.url) / "a/one").state() == state


def test_any_letter_in_a_name_is_asked_for_as_it_is(server):
    place = place_of(server.url) / "a/two words #1?"
    assert place.exists() and place.read()[0].startswith(b"a/two words #1?a/")


def test_a_missing_file_is_missing_and_asked_for_once(server):
    place = place_of(server.url) / "a/none"
    assert not place.exists()
    with pytest.raises(FileNotFoundError):
        place.read()
    assert len(server.requests) == 2


@pytest.mark.parametrize("wrong", [503, 500, 429, "drop", "half"])
def test_a_request_that_fails_is_repeated_and_told(server, wrong, capsys):
    server.trouble = lambda method, path, before: wrong if before < ATTEMPTS - 1 else None
    data, _ = (place_of(server.url) / "a/one").read()
    assert data == b"a/one" * 100 and server.asked("GET") >= ATTEMPTS
    told = capsys.readouterr().err.splitlines()
    repeated = 2 if wrong == "drop" else 1  # aiohttp itself tries again on a new connection
    assert len(told) == (ATTEMPTS - 1) // repeated and told[0].startswith(f"{server.url}/a/one: ")
    assert "trying again in 0.0 s (1 of 4)" in told[0]


@pytest.mark.parametrize("cut_off", [0, 1])
def test_half_a_file_is_not_taken_for_the_whole_where_no_length_is_told(server, cut_off, capsys):
    """A split that is cut off would be one of fewer items, so such a file is read twice."""
    server.tells_length = False
    server.trouble = lambda method, path, before: "half" if before == cut_off else None
    data, _ = (place_of(server.url) / "a/one").read()
    assert data == b"a/one" * 100 and server.asked("GET") == 4
    assert re.search("sent (250|500) bytes, then (250|500) or other", capsys.readouterr().err)


def test_a_file_without_a_length_is_read_twice_and_one_with_it_once(server):
    server.tells_length = False
    assert (place_of(server.url) / "a/one").read()[0] == b"a/one" * 100
    assert server.asked("GET") == 2


@pytest.mark.parametrize("wrong", [503, "drop", "half"])
def test_a_server_that_keeps_failing_is_an_error_with_what_to_type(server, wrong):
    server.trouble = lambda method, path, before: wrong
    with pytest.raises(Unreachable) as caught:
        (place_of(server.url) / "a/one").read()
    assert str(caught.value).startswith(f"{server.url}/a/one: cannot be read after 5 attempts (")
    assert "run the same command again" in str(caught.value)


def test_a_server_that_is_not_there_is_an_error(server):
    server.server_close()
    with pytest.raises(Unreachable, match="cannot be read after 5 attempts"):
        (place_of(server.url) / "a/one").exists()


def test_a_server_that_wants_a_password_is_not_asked_again(server, tmp_path, monkeypatch):
    server.password = "me:geheim"
    with pytest.raises(Unreachable, match=r"refuses to send it \(.*401.*\.netrc") as caught:
        (place_of(server.url) / "a/one").read()
    assert server.asked("GET") == 1 and "geheim" not in str(caught.value)


def test_a_password_in_netrc_is_used(server, tmp_path, monkeypatch):
    server.password = "me:geheim"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password geheim\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert (place_of(server.url) / "a/one").read()[0]


def test_a_server_without_the_method_HEAD_tells_states_all_the_same(server):
    server.trouble = lambda method, path, before: 405 if method == "HEAD" else None
    assert (place_of(server.url) / "a/one").state().size == 500
    assert not (place_of(server.url) / "a/none").exists()


def test_a_state_without_ETag_and_date_agrees_with_nothing(server):
    told = (place_of(server.url) / "top").state()
    assert told.agrees_with(told._asdict() | {"sha256": "x"})
    assert not told.agrees_with(told._asdict() | {"etag": '"other"'})
    assert not told.agrees_with(told._asdict() | {"url": "https://elsewhere/top"})
    server.headers = ()
    silent = (place_of(server.url) / "top").state()
    assert not silent.tells_edits and not silent.agrees_with(silent._asdict())


def test_states_of_a_web_server_are_asked_for_once_each(server):
    place = place_of(server.url)
    names = ["a/one", "top", "a/none", "a/one"]
    found = place.folder.states(names)
    assert [name for name, state in found.items() if state] == ["a/one", "top"]
    assert place.folder.states(names) == found and (place / "top").exists()
    assert not (place / "a/none").exists() and sorted(server.requests) == [
        ("HEAD", "a/none"), ("HEAD", "a/one"), ("HEAD", "top")
    ]  # fmt: skip


def test_one_listing_tells_the_states_of_a_whole_folder(bucket, monkeypatch):
    place = place_of("memory://bucket")
    names = [f"data/{number:03}" for number in range(99)] + ["data/none", "other/none"]
    asked, info = [], type(bucket).info
    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "info", lambda *a, **kw: asked.append(a) or info(*a, **kw))
        found = place.folder.states(names)
    assert found["data/none"] is None and found["data/007"].size == 1
    assert found["other/none"] is None and len(asked) == 1  # alone, it is asked for by itself


def test_a_listing_and_a_question_tell_the_same_state(bucket):
    place = place_of("memory://bucket")
    listed = place.folder.listing("data")["042"]
    assert listed == (place / "data/042").state() and listed.tells_edits
    assert (place / "data").names() == {f"{number:03}" for number in range(100)}
    assert (place / "none").names() == set() and not (place / "data").exists()
    assert (place / "data/042").read() == (b"42", listed)


def test_a_file_that_changes_while_it_is_read_is_read_again(bucket, monkeypatch):
    place, reads = place_of("memory://bucket") / "data/042", []
    original = type(bucket).cat_file

    def slow(self, path, *args, **kwargs):
        data = original(self, path, *args, **kwargs)
        reads.append(data)
        if len(reads) == 1:
            self.pipe_file("/bucket/data/042", b"another")
        return data

    monkeypatch.setattr(type(bucket), "cat_file", slow)
    data, state = place.read()
    assert data == b"another" and state.size == 7 and reads == [b"42", b"another"]


def test_files_are_read_ahead_a_few_at_a_time_and_each_once(bucket, monkeypatch):
    place, reads = place_of("memory://bucket"), []
    original = type(bucket).cat_file
    monkeypatch.setattr(
        type(bucket), "cat_file", lambda self, p, **kw: reads.append(p) or original(self, p, **kw)
    )
    names = [f"data/{number:03}" for number in range(100)]
    place.folder.read_ahead(names)
    for asked, name in enumerate(names, start=1):
        assert (place / name).read()[0] == b"%d" % int(name[-3:])
        assert len(reads) <= asked + AT_ONCE
    assert len(reads) == 100


def test_what_goes_wrong_ahead_is_raised_where_the_file_is_asked_for(server):
    place = place_of(server.url)
    place.folder.read_ahead(["a/one", "a/none", "top"])
    assert (place / "a/one").read() and (place / "top").read()
    with pytest.raises(FileNotFoundError):
        (place / "a/none").read()


def read_length(place: RemotePath, answers) -> None:
    answers.put(len(place.read()[0]))


def test_a_place_goes_to_another_process_and_a_forked_one_opens_its_own_connection(server):
    place = place_of(server.url) / "top"
    assert len(place.read()[0]) == len(pickle.loads(pickle.dumps(place)).read()[0]) == 300
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    worker = context.Process(target=read_length, args=(place, answers))
    worker.start()
    assert answers.get(timeout=PATIENCE_S) == 300
    worker.join(PATIENCE_S)
