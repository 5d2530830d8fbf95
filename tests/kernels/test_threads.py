"""Work ahead of its user, in a thread."""

import threading
import time

import pytest

from cdm.kernels.threads import ahead


def test_items_come_in_order_and_are_made_ahead():
    made = []

    def items():
        for i in range(5):
            made.append(i)
            yield i

    work = ahead(items(), depth=2)
    assert next(work) == 0
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) >= 3  # one taken, two waiting
    assert list(work) == [1, 2, 3, 4]


def test_an_error_is_raised_in_its_turn():
    def items():
        yield 1
        raise KeyError("second")

    work = ahead(items())
    assert next(work) == 1
    with pytest.raises(KeyError, match="second"):
        next(work)


def test_a_caller_that_stops_stops_the_thread():
    work = ahead(iter(range(1000)))
    next(work)
    work.close()
    deadline = time.monotonic() + 10
    while any(t.name == "ahead" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name == "ahead"]
