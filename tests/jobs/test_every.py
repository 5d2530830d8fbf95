"""`Every`: a thing is due at most once in so many seconds."""

from cdm.jobs import every
from cdm.jobs.every import Every


def test_a_thing_is_due_once_in_so_many_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(every.time, "perf_counter", lambda: now[0])
    clock, due_at = Every(10), []
    for second in range(1, 36):
        now[0] = 100.0 + second
        if clock.due():
            due_at.append(second)
    assert due_at == [10, 20, 30]
    assert clock.elapsed_s == 5


def test_a_restart_puts_the_next_time_off(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(every.time, "perf_counter", lambda: now[0])
    clock = Every(10)
    now[0] = 9
    clock.restart()
    now[0] = 18
    assert not clock.due()
    now[0] = 19
    assert clock.due()
