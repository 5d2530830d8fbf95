"""What the datasets share."""

from cdm.datasets import Sample


def test_messages_name_a_sample_by_set_index_and_caption():
    assert str(Sample("HUMANISE", "12", 3, "sit")) == "HUMANISE/12 caption 3"
