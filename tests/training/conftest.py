"""A small training split for all tests of the wing."""

import pytest
import torch

from cdm.demo import scenes
from cdm.model.scene_model import PointTransformerSeg

NUM_ITEMS = 6


@pytest.fixture
def few_items(tmp_path, monkeypatch):
    """The demo's training split cut to a few items; outputs go to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    few = range(scenes.TRAIN.start, scenes.TRAIN.start + NUM_ITEMS)
    monkeypatch.setattr(scenes, "TRAIN", few)


@pytest.fixture
def write_scene_model(few_items, tmp_path, monkeypatch):
    """write_scene_model(path, seed): random weights of a scene model with few layers."""
    monkeypatch.setattr("cdm.model.scene_model.PLANES", (32, 32, 32))
    monkeypatch.setattr("cdm.model.scene_model.BLOCKS", (2, 2, 2))
    # The user's cache keeps the shapes of the usual one.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(path="scene.pth", seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.save(PointTransformerSeg(6).state_dict(), path)

    return write


@pytest.fixture
def scene_weights(write_scene_model):
    """The file scene.pth that `trainings.SEEN` names."""
    write_scene_model()
