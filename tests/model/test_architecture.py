"""Sizes that are read off a checkpoint's shapes."""

import pytest
from helpers import demo_config

from cdm.errors import CheckpointError
from cdm.model.architecture import CheckpointShapes, read_dim

SHAPES = {
    "contact_layer.weight": (6, 96),
    "contact_model.layers.0.weight": (5, 4),
    "contact_model.layers.1.weight": (3, 4),
    "contact_model.layers.1.bias": (3,),
    "contact_model.layers.10.bias": (3,),
    "layers.7.weight": (1, 1),
}


@pytest.fixture
def weights():
    return CheckpointShapes(SHAPES, 6, 96, None, demo_config().model)


def test_a_size_is_an_axis_of_a_tensor_of_the_backbone(weights):
    assert weights.dim("layers.0.weight", 1) == 4
    assert read_dim(SHAPES, "contact_layer.weight", 0) == 6
    with pytest.raises(KeyError, match=r"contact_model\.layers\.7\.weight"):
        weights.dim("layers.7.weight", 0)


def test_a_tensor_with_too_few_axes_is_named(weights):
    with pytest.raises(CheckpointError, match=r"layers\.1\.bias is \(3,\), expected 2 axes"):
        weights.dim("layers.1.bias", 1)


def test_parts_are_counted_by_their_names_and_not_by_their_keys(weights):
    assert weights.count("layers.") == 3  # 0, 1 and 10
    assert weights.count("blocks.") == 0


def test_a_part_is_there_if_a_key_begins_with_its_name(weights):
    assert weights.has("layers.1.") and not weights.has("layers.7.")
