"""Settings that contradict each other are told with what to change."""

import pytest
from helpers import overlay, raw_config

from cdm.config import load_config
from cdm.errors import ConfigError

REAL = {"exp_dir": "outputs/my_exp"}
EXAMPLES = {"name": "ContactMapExampleDataset"}
H3D = {"name": "ContactHumanML3DDataset"}
BERT = {"version": "bert-base-uncased"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"data_repr": "contact_pelvis"}},
            "the model would be asked for maps it was not",
        ),
        ({"sampling": {"eta": 0.5}}, "ddpm, which has no eta"),
        ({"sampling": {"method": "dpmpp_2m", "eta": 1}}, "dpmpp_2m, which has no eta"),
        ({"dataset": {"min_horizon": 200}}, "no clip is at least"),
        ({"model": {"text_model": {"version": "hashing", "path": "p"}}}, "hashing, which has no"),
        ({"model": {"text_model": BERT | {"max_length": 1}}}, "counts [CLS] and [SEP] among them"),
        ({"model": {"text_model": {"max_length": 75}}}, "reads 74 tokens beside start and end"),
        ({"dataset": H3D | {"captions": "reference", "max_horizon": 201}}, "set max_horizon: 200"),
        ({"model": {"arch": "EnhancedPerceiver"}}, "stops with an error in its first layers"),
        ({"model": {"arch": "PointMambaUNet"}}, "docs/models.md says what it would take"),
        (
            {"sampling": {"k_samples": 2}, "export": {"to": "d"}},
            "one map of an item",
        ),
        ({"export": {"for": "test"}}, "stage 2 tests on the items of test.txt"),
        ({"dataset": {"captions": "all"}, "export": {"for": "train"}}, "such as 00004-0.npy"),
        ({"dataset": {"examples": "list.txt"}}, "which reads no list of examples"),
        ({"dataset": EXAMPLES, "export": {"for": "test"}}, "the folders of snakemake export_ply"),
        ({"dataset": EXAMPLES | {"transforms": ["RandomRotation"]}}, "Dataset never rotates"),
    ],
)
def test_contradictory_settings_are_errors_that_say_what_to_change(changes, message):
    with pytest.raises(ConfigError) as error:
        load_config(overlay(raw_config(**REAL), changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"text_model": BERT | {"max_length": 512}}},
        {"model": {"text_model": BERT | {"max_length": 2}}},
        {"model": {"text_model": BERT | {"max_length": None}}},
        {"model": {"text_model": {"max_length": 74}}},
        {"dataset": H3D | {"captions": "reference", "max_horizon": 196}},
        {"dataset": H3D | {"max_horizon": 500}},
        {"dataset": EXAMPLES | {"examples": "list.txt"}},
        {"dataset": {"captions": "reference", "max_items": 128}},
    ],
)
def test_settings_that_can_hold_together_are_taken(changes):
    load_config(overlay(raw_config(**REAL), changes))
