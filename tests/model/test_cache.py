"""The user's cache: kept results are used while they are whole and fit, and else made again."""

import json
import os

import pytest

from cdm.files import seal
from cdm.model.cache import cache_folder, remembered


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "contact-maps"


class Counting:
    """A computation that tells how often it ran."""

    def __init__(self):
        self.runs = 0

    def __call__(self):
        self.runs += 1
        return {"size": 7}


def ask(compute, decided_by=("a",), holds=lambda value: value["size"] == 7):
    return remembered("thing", decided_by, compute, holds)


def test_what_the_same_things_decide_is_computed_once(cache):
    compute = Counting()
    assert ask(compute) == ask(compute) == {"size": 7}
    assert compute.runs == 1 and cache_folder() == cache
    ask(compute, ["b"])
    assert compute.runs == 2


def test_an_exception_passes_through_and_nothing_is_kept(cache):
    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        ask(fail)
    assert not cache.exists()


def edited(whole: bytes) -> bytes:
    """Valid JSON of the right form with another value under the old checksum."""
    return json.dumps(json.loads(whole) | {"value": {"size": 7, "more": 1}}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole.replace(b"7", b"8"),
        lambda whole: bytes([whole[0] ^ 1]) + whole[1:],
        lambda whole: whole[:-3],
        lambda whole: b"",
        lambda whole: b"[1]",
        lambda whole: b"[" * 100_000,
        lambda whole: b"{" + b'"value": NaN}',
        lambda whole: b"\xff\xfe",
        lambda whole: seal({}),
        lambda whole: seal({"key": "another", "value": {"size": 7}}),
        lambda whole: seal(json.loads(whole) | {"value": [7]}),
        lambda whole: seal(json.loads(whole) | {"value": {"size": 8}}),
        edited,
    ],
)
def test_a_file_that_was_damaged_or_edited_costs_the_computation_only(cache, damage):
    compute = Counting()
    ask(compute)
    [path] = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert ask(compute) == {"size": 7} and compute.runs == 2
    assert ask(compute) == {"size": 7} and compute.runs == 2  # it was written anew


def test_every_flipped_bit_is_noticed(cache):
    ask(Counting())
    [path] = cache.iterdir()
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        compute = Counting()
        assert ask(compute) == {"size": 7} and compute.runs == 1


def test_a_folder_a_pipe_or_a_dead_link_in_its_place_is_no_obstacle(cache):
    ask(Counting())
    [path] = cache.iterdir()
    for put in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("nowhere")):
        path.unlink()
        put()
        compute = Counting()
        assert ask(compute) == {"size": 7} and compute.runs == 1
        assert ask(compute) == {"size": 7} and compute.runs == 1


def test_a_cache_that_cannot_be_written_costs_time_only(cache):
    cache.parent.write_text("a file where a folder should be")
    compute = Counting()
    assert ask(compute) == ask(compute) == {"size": 7}
    assert compute.runs == 2


def test_a_user_without_a_home_folder_has_no_cache(monkeypatch):
    def refuse():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("cdm.model.cache.cache_folder", refuse)
    assert ask(Counting()) == {"size": 7}
