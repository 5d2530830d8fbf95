"""A model is trained on, and sampled, with the text encoder that it was trained with."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trainings import tiny

from cdm.demo import scenes
from cdm.errors import CheckpointError
from cdm.model.text import TextEncoder
from cdm.model.text_probe import PROBE, probe_difference, probe_of
from cdm.model.training_record import read_training_record
from cdm.run.load import features_of
from cdm.training.train import train

CLIP = {"model": {"text_model": {"version": "ViT-B/32", "path": "my_clip"}}}
VECTOR = np.random.default_rng(0).normal(size=512)


def encoder(scale: float) -> TextEncoder:
    """Of other weights for another number: scale 0 and 1 have nothing in common."""

    def encode(captions):
        rows = [np.random.default_rng([len(c), round(scale)]).normal(size=512) for c in captions]
        return torch.tensor(np.array(rows) * (1 + scale % 1), dtype=torch.float32)

    return TextEncoder(encode)


def test_rounding_and_length_make_no_other_encoder():
    told = probe_of(VECTOR)
    assert len(told) == 64 and np.isclose(told[0], VECTOR[0] / np.linalg.norm(VECTOR), atol=1e-6)
    assert probe_difference(told, probe_of(VECTOR.astype(np.float16))) == ""
    assert probe_difference(told, probe_of(3 * VECTOR)) == ""
    assert probe_difference(None, told) == probe_difference(told, None) == ""


def test_other_weights_make_another_encoder():
    told = probe_of(VECTOR)
    other = probe_of(np.random.default_rng(1).normal(size=512))
    assert "differs by 1" in probe_difference(told, other)
    assert probe_difference(told, told[:20])


def test_training_goes_on_and_samples_with_the_encoder_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cdm.training.train.find_text_weights", lambda *_: [])
    few = range(scenes.TRAIN.start, scenes.TRAIN.start + 6)
    monkeypatch.setattr(scenes, "TRAIN", few)

    def train_with(scale, **training):
        monkeypatch.setattr("cdm.training.train.load_text_encoder", lambda *_: encoder(scale))
        return train(tiny(CLIP, **training), lambda line: None)

    # The training itself.
    train_with(0, steps=1)
    record = read_training_record(Path("outputs/mine"))
    assert record.text_probe == probe_of(encoder(0)([PROBE])[0])
    with pytest.raises(CheckpointError, match="of a training with another text encoder: the vec"):
        train_with(1, steps=2)
    checkpoint = train_with(0.25, steps=2)  # the same weights up to a factor

    # What samples the model.
    plan = SimpleNamespace(config=tiny(CLIP), checkpoint=SimpleNamespace(path=str(checkpoint)))
    found = features_of(plan, encoder(0), ["sit", "walk", "sit"], "cpu")
    assert sorted(found) == ["sit", "walk"]
    assert torch.equal(found["walk"], encoder(0)(["walk"])[0])
    with pytest.raises(CheckpointError) as error:
        features_of(plan, encoder(1), ["sit"], "cpu")
    assert "ViT-B/32 than the weights in my_clip" in str(error.value)
    assert "--config trust=mine" in str(error.value)
    plan.config = replace(plan.config, trust="mine")
    assert list(features_of(plan, encoder(1), ["sit"], "cpu")) == ["sit"]
