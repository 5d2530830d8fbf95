"""Forty rooms that the tests of the demo look at."""

import pytest

from cdm.demo.scenes import TEST, make_scene


@pytest.fixture(scope="package")
def scenes():
    """The first items of the split test."""
    return [make_scene(item) for item in range(TEST.start, TEST.start + 40)]
