"""Settings that contradict each other are told with what to change."""

import pytest
from helpers import overlay, raw_config

from cdm.config import load_config
from cdm.errors import ConfigError

REAL = {"exp_dir": "outputs/my_exp"}


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
    ],
)
def test_contradictory_settings_are_errors_that_say_what_to_change(changes, message):
    with pytest.raises(ConfigError) as error:
        load_config(overlay(raw_config(**REAL), changes))
    assert message in str(error.value)
