"""A small training split for all tests of the wing."""

import pytest

from cdm.demo import scenes

NUM_ITEMS = 6


@pytest.fixture
def few_items(tmp_path, monkeypatch):
    """The demo's training split cut to a few items; outputs go to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    few = range(scenes.TRAIN.start, scenes.TRAIN.start + NUM_ITEMS)
    monkeypatch.setattr(scenes, "TRAIN", few)
