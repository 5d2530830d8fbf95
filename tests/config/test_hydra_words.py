"""Hydra's overrides, read without Hydra."""

import re

import pytest

from cdm.config.composed import Node
from cdm.config.hydra_words import Override, as_node, read_override, read_value
from cdm.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.8", "0.8"),
        ("", ""),
        ("null", None),
        ("'null'", "null"),
        ("True", "True"),
        ("ViT-B/32", "ViT-B/32"),
        ("a b", "a b"),
        ("[]", []),
        ("[HumanML3D, PROX]", ["HumanML3D", "PROX"]),
        ('["HUMANISE"]', ["HUMANISE"]),
        ("[1,[2,3],]", ["1", ["2", "3"]]),
        ("{a:1,b:{c:null}}", {"a": "1", "b": {"c": None}}),
        ("{a: [x, 'y, z']}", {"a": ["x", "y, z"]}),
        ("{}", {}),
        (r"'it\'s'", "it's"),
        (r'"a\\b"', r"a\b"),
        ("'0,1'", "0,1"),
        ("${task.dataset.sigma}", "${task.dataset.sigma}"),
        ("[${a.b},c]", ["${a.b}", "c"]),
    ],
)
def test_values(text, value):
    assert read_value(text, "word") == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1,2", "several values are several runs"),
        ("[1", "is not closed by ]"),
        ("{a:1", "is not closed by }"),
        ("{a}", "expected {key: value}"),
        ("'a", "is not closed"),
        ("[1]x", "expected its end"),
    ],
)
def test_what_is_no_value_is_told(text, problem):
    with pytest.raises(ConfigError, match=re.escape(problem)):
        read_value(text, "word")


def test_signs_add_and_take_out():
    assert read_override("a.b=1") == Override("a.b", "1", False)
    assert read_override("+a.b=1") == read_override("++a.b=1") == Override("a.b", "1", False)
    assert read_override("~a.b") == read_override("~a.b=1") == Override("a.b", None, True)
    assert read_override("hydra/job_logging=none").key == "hydra/job_logging"
    assert read_override("evaluate") is read_override("-n") is read_override("=1") is None


def test_values_become_nodes():
    assert as_node({"a": ["x", None]}) == Node({"a": Node([Node("x", 0), Node(None, 0)], 0)}, 0)
