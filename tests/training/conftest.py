"""A small training split for all tests of the wing."""

import pytest

from cdm.demo.scenes import DemoDataset

NUM_ITEMS = 6


@pytest.fixture
def few_items(tmp_path, monkeypatch):
    """The demo's training split cut to a few items; outputs go to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    whole = DemoDataset.samples
    monkeypatch.setattr(DemoDataset, "samples", lambda self: whole(self)[:NUM_ITEMS])
