"""Many files are read by one thread, or by many where it waits; the results are the same."""

import threading
import time

import pytest

from cdm.files import many
from cdm.files.many import PART, map_files

FILES = [f"file {number}" for number in range(5 * PART + 3)]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("on_server", [False, True])
def test_threads_help_where_a_reader_waits_and_results_keep_their_order(
    monkeypatch, slow, on_server
):
    threads = []

    def function(file):
        threads.append(threading.current_thread())
        if slow:
            time.sleep(2e-3)
        return file.upper()

    if not slow:  # whatever else keeps the cores of this machine busy
        monkeypatch.setattr(many.time, "perf_counter", time.thread_time)
    assert list(map_files(function, FILES, on_server)) == [file.upper() for file in FILES]
    by_main = threads.count(threading.main_thread())
    assert by_main == (0 if on_server else PART if slow else len(FILES))


def test_a_reader_that_begins_to_wait_later_is_helped_too():
    threads = set()

    def function(number):
        threads.add(threading.current_thread())
        time.sleep(2e-3 * (number >= 2 * PART))

    list(map_files(function, range(8 * PART)))
    assert len(threads) > 2


@pytest.mark.parametrize("files", [[], ["one"], FILES[: PART + 1]])
@pytest.mark.parametrize("on_server", [False, True])
def test_few_files_are_read_too(files, on_server):
    assert list(map_files(str.upper, iter(files), on_server)) == [file.upper() for file in files]


@pytest.mark.parametrize("on_server", [False, True])
def test_an_error_comes_where_its_result_is_asked_for_and_ends_the_rest(on_server):
    asked = []

    def function(number):
        asked.append(number)
        time.sleep(1e-3)
        return 1 // (number - 70)

    found = []
    with pytest.raises(ZeroDivisionError):
        found += map_files(function, range(100_000), on_server)
    assert len(asked) < 50_000
