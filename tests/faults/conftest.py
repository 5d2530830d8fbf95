"""The undisturbed run that these tests hold theirs against."""

import pytest


@pytest.fixture(scope="session")
def slow_run(tmp_path_factory):
    """The job SLOW, which nothing disturbed."""
    from runs import SLOW, Run

    run = Run(tmp_path_factory.mktemp("slow") / "run", **SLOW)
    run.finish()
    return run
