"""Colour: failures alone, on terminals alone, and never where NO_COLOR is set."""

import io

import pytest

from cdm.commands.colour import PLAIN, RED, allows_colour, paint_failures

STATUS = """outputs/run: 7 samples in 3 chunks

chunks     1 done   0 running   1 failed   1 waiting

failed:
  00001-ab: BadItem: no such file
    log: outputs/run/logs/generate_chunk/00001-ab.log

skipped:
  HUMANISE/3 caption 0: failed: NaN"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_terminal_gets_colour_and_a_file_none():
    assert allows_colour(Terminal()) and not allows_colour(io.StringIO())


@pytest.mark.parametrize("setting", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_colour_gets_none(monkeypatch, setting):
    monkeypatch.setenv(*setting)
    assert not allows_colour(Terminal())


def test_an_empty_no_color_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    assert allows_colour(Terminal())


def test_failures_are_red_and_nothing_else():
    painted = paint_failures(STATUS)
    assert painted.replace(RED, "").replace(PLAIN, "") == STATUS
    red = [line for line in painted.split("\n") if RED in line]
    assert red[0] == f"chunks     1 done   0 running   {RED}1 failed{PLAIN}   1 waiting"
    assert [line.removeprefix(RED).removesuffix(PLAIN) for line in red[1:]] == STATUS.split("\n")[
        4:7
    ]


def test_a_run_without_failures_has_no_colour():
    fine = "chunks     3 done   0 running   0 failed   0 waiting\n\nskipped:\n  a: b"
    assert paint_failures(fine) == fine
