"""The undisturbed run that these tests hold theirs against."""

import pytest


@pytest.fixture(scope="session")
def undisturbed(made_once):
    """undisturbed(name, **changes): arrays of this job, which nothing disturbed."""
    from runs import Run, arrays

    def make(name, **changes):
        folder = made_once(name, lambda folder: Run(folder, **changes).make_archive())
        return arrays(Run.in_folder(folder))

    return make


@pytest.fixture(scope="session")
def usual_run(undisturbed):
    """Arrays of the usual job."""
    return undisturbed("usual")


@pytest.fixture(scope="session")
def slow_run(undisturbed):
    """Arrays of the job SLOW."""
    from runs import SLOW

    return undisturbed("slow", **SLOW)
