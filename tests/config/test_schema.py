"""Questions about the keys of the schema."""

from helpers import raw_config

from cdm.config.schema import accepts_null, all_keys, part
from cdm.config.values import fits


def test_every_key_of_the_defaults_has_a_part_that_its_value_fits():
    keys = list(all_keys())
    assert keys[:4] == ["exp_name", "output_dir", "exp_dir", "reference"]
    assert len(set(keys)) == len(keys)
    for key in keys:
        value = raw_config()
        for name in key.split("."):
            value = value[name]
        assert fits(value, part(key)), key


def test_what_is_no_key_has_no_part():
    assert part("dataset.sigmas") is None and part("dataset.sigma.x") is None
    assert "properties" in part("dataset")


def test_null_is_a_value_of_some_keys_only():
    assert accepts_null("model.arch") and accepts_null("model.text_model.max_length")
    assert not accepts_null("dataset.sigma") and not accepts_null("nothing")
