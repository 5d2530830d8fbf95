"""What the datasets share."""

from cdm.datasets import Sample
from cdm.datasets.base import evenly_spread


def test_messages_name_a_sample_by_set_index_and_caption():
    assert str(Sample("HUMANISE", "12", 3, "sit")) == "HUMANISE/12 caption 3"


def test_entries_are_spread_evenly_and_never_more_than_there_are():
    assert evenly_spread(range(10), 4) == [0, 2, 5, 7]
    assert evenly_spread("abc", 2) == ["a", "b"]
    assert evenly_spread([4, 5, 6], 9) == [4, 5, 6]
    assert evenly_spread([], 3) == evenly_spread([1], 0) == []
