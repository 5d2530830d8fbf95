"""Configuration files keep what was typed, and no key comes twice."""

import pytest

from cdm.config.text_yaml import read_text_yaml
from cdm.errors import ConfigError


def test_scalars_stay_text_and_null_is_none():
    text = "a: 007\nb: 2024-10-01\nc: ~\nd:\ne: {x: 1.10, y: no, z: [1, null]}\nf: '12'\n"
    assert read_text_yaml(text, "f.yaml") == {
        "a": "007",
        "b": "2024-10-01",
        "c": None,
        "d": None,
        "e": {"x": "1.10", "y": "no", "z": ["1", None]},
        "f": "12",
    }
    assert read_text_yaml('{"a": 1.10}', "f.json") == {"a": "1.10"}
    assert read_text_yaml("", "f.yaml") is None


def test_anchors_may_be_merged_and_overridden():
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n"
    assert read_text_yaml(text, "f.yaml")["b"] == {"x": "3", "y": "2"}


@pytest.mark.parametrize(
    "text, lines",
    [
        ("a: 1\nb: 2\na: 3\n", "'a' comes twice, in lines 1 and 3"),
        ("a:\n  b: 1\n  c: {d: 1}\n  b: 1\n", "'b' comes twice, in lines 2 and 4"),
        ("a: {b: 1, b: 1}\n", "'b' comes twice, in lines 1 and 1"),
        ("- x\n- {y: 1,\n   'y': 2}\n", "'y' comes twice, in lines 2 and 3"),
        ("a: 1\n? a\n: 2\n", "'a' comes twice, in lines 1 and 2"),
        ('{"a": 1,\n "a": 2}', "'a' comes twice, in lines 1 and 2"),
        ("1: x\n'1': y\n", "'1' comes twice, in lines 1 and 2"),
    ],
)
def test_a_key_that_comes_twice_is_refused_with_both_lines(text, lines):
    with pytest.raises(ConfigError, match=f"f.yaml: the key {lines}"):
        read_text_yaml(text, "f.yaml")


@pytest.mark.parametrize("text", ["a: [", "a\tb: {", "? [a]\n: 1\n", "a: 1\n---\nb: 1\n", "\0"])
def test_what_is_no_yaml_is_one_error(text):
    with pytest.raises(ConfigError, match=r"f.yaml: not YAML"):
        read_text_yaml(text, "f.yaml")


@pytest.mark.parametrize("text", ["a: &x {b: *x}", "a: &x [*x]"])
def test_an_alias_that_contains_itself_is_no_yaml(text):
    with pytest.raises(ConfigError, match=r"f.yaml: not YAML .an alias that contains itself"):
        read_text_yaml(text, "f.yaml")


def test_deep_nesting_is_one_error():
    with pytest.raises(ConfigError, match=r"f.yaml: nested too deeply"):
        read_text_yaml("[" * 5000, "f.yaml")
