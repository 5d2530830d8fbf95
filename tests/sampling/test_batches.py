"""Batches of maps, and items prefetched in a thread."""

import threading
import time

import pytest
import torch
from waiting import wait_until

from cdm.sampling.batches import Batch, ReadAhead, batches, prefetch


def test_items_come_in_order_and_are_made_prefetch():
    made = []

    def items():
        for i in range(5):
            made.append(i)
            yield i

    work = prefetch(items(), depth=2)
    assert next(work) == 0
    wait_until(lambda: len(made) >= 3, "one that is taken and two that wait")
    assert list(work) == [1, 2, 3, 4]


def test_an_error_is_raised_in_its_turn():
    def items():
        yield 1
        raise KeyError("second")

    work = prefetch(items())
    assert next(work) == 1
    with pytest.raises(KeyError, match="second"):
        next(work)


def test_a_caller_that_stops_stops_the_thread():
    work = prefetch(iter(range(1000)))
    next(work)
    work.close()
    wait_until(lambda: "prefetch" not in {t.name for t in threading.enumerate()}, "its end")


def test_threads_read_ahead_before_anything_is_asked_for_and_no_further():
    read = []

    def slow(number):
        time.sleep(0.02 * (number == 0))  # the first is ready last
        read.append(number)
        return number * 10

    items = ReadAhead(slow, range(9), threads=3, ahead=4)
    wait_until(lambda: len(read) >= 4, "four to be read")
    assert sorted(read) == [0, 1, 2, 3]
    assert list(items) == [number * 10 for number in range(9)]
    assert sorted(read) == list(range(9))


def test_what_was_read_ahead_raises_in_its_turn():
    def fails(number):
        if number == 2:
            raise KeyError("third")
        return number

    items = iter(ReadAhead(fails, range(5), threads=2, ahead=5))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError, match="third"):
        next(items)


def test_closing_stops_the_reading():
    read = []

    def slow(number):
        time.sleep(0.05)
        read.append(number)

    items = ReadAhead(slow, range(1000), threads=2, ahead=500)
    items.close()
    time.sleep(0.2)
    assert len(read) <= 2
    assert list(items) == []


def test_batches_hold_every_map_once_and_the_last_may_be_short():
    assert list(batches(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches(iter(range(4)), 4)) == [[0, 1, 2, 3]]
    assert list(batches(iter(()), 3)) == []


@pytest.mark.parametrize("with_features", [True, False])
def test_a_part_has_the_same_maps_in_every_field(with_features):
    rows = torch.arange(5.0)
    feat = rows[:, None, None].expand(5, 2, 3) if with_features else None
    batch = Batch(rows[:, None], rows[:, None] + 10, rows[:, None, None] + 20, feat)
    part = batch.part(3, 9)
    assert len(batch) == 5 and len(part) == 2
    assert part.keys.flatten().tolist() == [3, 4]
    assert part.c_text.flatten().tolist() == [13, 14]
    assert part.c_pc_xyz.flatten().tolist() == [23, 24]
    assert part.c_pc_feat is None if feat is None else torch.equal(part.c_pc_feat, feat[3:])
