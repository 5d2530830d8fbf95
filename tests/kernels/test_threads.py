"""Work spread over CPU threads."""

import threading

import pytest
import torch

from cdm.kernels.threads import map_threads


@pytest.fixture(params=[1, 2, 3])
def num_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_columns(num_threads):
    assert map_threads(lambda a, b: (a, b), range(20), "abcdefghijklmnopqrst") == list(
        zip(range(20), "abcdefghijklmnopqrst", strict=True)
    )


def test_each_piece_runs_on_one_thread_and_the_setting_stays(num_threads):
    inside = map_threads(lambda _: torch.get_num_threads(), range(8))
    assert inside == [1] * 8
    assert torch.get_num_threads() == num_threads


def test_a_call_from_a_worker_runs_in_that_worker():
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def outer(_):
        return {threading.get_ident()} | set(map_threads(lambda _: threading.get_ident(), range(4)))

    try:
        assert [len(threads) for threads in map_threads(outer, range(6))] == [1] * 6
    finally:
        torch.set_num_threads(before)


def test_an_error_reaches_the_caller(num_threads):
    with pytest.raises(ZeroDivisionError):
        map_threads(lambda x: 1 / x, [1, 0])
