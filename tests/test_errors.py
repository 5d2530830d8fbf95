"""How messages list what they are about."""

from cdm.errors import listed


def test_few_entries_are_listed_in_full():
    assert listed(["a", "b"], 2) == "a\n  b"
    assert listed([], 2) == ""


def test_many_entries_are_cut_and_the_rest_is_counted():
    assert listed(range(5), 2, ", ") == "0, 1, ... and 3 more"
    assert listed((name for name in "abc"), 2) == "a\n  b\n  ... and 1 more"
