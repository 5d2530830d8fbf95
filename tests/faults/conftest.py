"""Modules of tests/ and of this folder can be imported by these tests."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


@pytest.fixture(scope="session")
def slow_run(tmp_path_factory):
    """The job SLOW, which nothing disturbed."""
    from runs import SLOW, Run

    run = Run(tmp_path_factory.mktemp("slow") / "run", **SLOW)
    run.finish()
    return run
