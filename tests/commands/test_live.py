"""The live bar: the terminal's last line, and plain lines where there is no terminal."""

import io
import os
import pty
import re
import struct
import termios
import time
from fcntl import ioctl

import pytest
from helpers import plan_run, write_dummy_chunk
from waiting import wait_until

from cdm.commands import live
from cdm.commands.live import BottomLine, LiveProgress, Meter, is_terminal, wants_plain


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)[0]


@pytest.fixture
def terminal(monkeypatch):
    """A pseudo terminal of 24 x 80; what is written to it is read by `shown`."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("CDM_PROGRESS", "JPY_PARENT_PID", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(slave, "w", encoding="utf-8") as stream:
        yield master, stream
    os.close(master)


def shown(master):
    return os.read(master, 65536).decode()


def test_the_bar_keeps_to_the_last_line_and_gives_it_back(terminal):
    master, stream = terminal
    assert is_terminal(stream)
    line = BottomLine(stream)
    line.draw("x" * 200)
    written = shown(master)
    assert "\033[1;23r" in written  # the rest scrolls above it
    assert written.endswith("\0337\033[24;1H\033[2K" + "x" * 80 + "\0338")
    line.draw("y")
    assert "r" not in shown(master)  # the region is set once
    line.close()
    assert "\033[1;24r" in shown(master)
    line.close()


def test_a_resized_window_moves_the_bar(terminal):
    master, stream = terminal
    line = BottomLine(stream)
    line.draw("x")
    ioctl(stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown(master)
    line.draw("x")
    written = shown(master)
    assert "\033[1;39r" in written and "\033[40;1H" in written


def test_a_run_on_a_terminal_shows_one_bar_for_the_whole_job(plan, terminal, monkeypatch):
    monkeypatch.setattr(live, "DRAW_EVERY_S", 0.01)
    master, stream = terminal
    progress = LiveProgress(plan, stream)
    progress.start()
    assert re.search(r"run  █*░+  0/7 maps", shown(master))
    write_dummy_chunk(plan, plan.chunks[0])
    wait_until(lambda: "3/7 maps  42.8 %" in shown(master), "the chunk's maps in the bar")
    progress.stop()
    progress.stop()
    assert "\033[1;24r" in shown(master)


def test_without_a_terminal_there_are_plain_lines(plan, monkeypatch):
    monkeypatch.setattr(live, "DRAW_EVERY_S", 0.01)
    monkeypatch.setattr(live, "LINE_EVERY_S", 0.02)
    stream = io.StringIO()
    progress = LiveProgress(plan, stream)
    progress.start()
    time.sleep(0.5)
    progress.stop()
    lines = stream.getvalue().splitlines()
    assert lines and set(lines) == {"run  0/7 maps  0 %  - maps/s  ETA -  chunks 0/3, 0 running"}


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(terminal[1])


@pytest.mark.parametrize(
    "environment",
    [
        {"CDM_PROGRESS": "plain"},
        {"JPY_PARENT_PID": "123", "TERM": "xterm-color"},  # a kernel that Jupyter started
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},  # any kernel of IPython
        {"MPLBACKEND": "module://ipykernel.pylab.backend_inline"},  # an older one
    ],
)
def test_notebooks_and_those_who_ask_get_plain_lines(plan, terminal, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert LiveProgress(plan, terminal[1]).line is None


def test_a_logger_plugin_has_the_terminal_for_itself(plan, terminal):
    assert LiveProgress(plan, terminal[1]).line is not None
    assert LiveProgress(plan, terminal[1], has_logger=True).line is None


def test_other_settings_leave_the_bar(terminal):
    assert not wants_plain({"MPLBACKEND": "Agg", "CDM_PROGRESS": "bar", "NO_COLOR": "1"})


def test_a_stream_that_only_calls_itself_a_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")

    class Stream(io.StringIO):
        def isatty(self):
            return True

    assert not is_terminal(Stream())


def test_the_bar_has_no_colour(plan, terminal, monkeypatch):
    """So there is nothing that NO_COLOR would have to take away."""
    monkeypatch.setattr(live, "DRAW_EVERY_S", 0.01)
    master, stream = terminal
    progress = LiveProgress(plan, stream)
    progress.start()
    written = shown(master)
    progress.stop()
    assert "0/7 maps" in written and not re.search(r"\033\[[\d;]*m", written)


def test_the_rate_is_that_of_the_whole_job(plan, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    meter = Meter(plan)
    write_dummy_chunk(plan, plan.chunks[0])
    now[0] = 6.0
    meter.measure()
    assert meter.rate == 0.5
    assert "ETA 0:00:08" in meter.text()
