"""What the user set, with the place of each value, and how layers lie over each other."""

import pytest
from helpers import raw_config

from cdm.config import Provenance, load_config
from cdm.config.layers import (
    UserValues,
    difference,
    nested,
    overlay,
    read_user,
    set_keys,
    typed_value,
    value_at,
)
from cdm.errors import ConfigError


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nexp_name: 007\ndataset:\n  sigma: 0.8\n  sets: [PROX]\n")
    return path


def test_each_value_has_its_place_and_the_last_word_counts(mine, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("dataset: {phase: val}\nseed: 5\n")
    user = read_user([mine, other], ["dataset={sigma: 0.5}", "seed=6"])
    assert user.values["exp_name"] == "007"
    assert user.values["dataset"] == {"sigma": "0.5", "sets": ["PROX"], "phase": "val"}
    assert user.places == {
        "exp_name": f"{tmp_path.name}/mine.yaml line 2",
        "dataset.sets": f"{tmp_path.name}/mine.yaml line 5",
        "dataset.phase": f"{tmp_path.name}/other.yaml line 1",
        "dataset.sigma": "--config",
        "seed": "--config",
    }


def test_a_file_elsewhere_is_named_in_full(mine, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert read_user([mine], []).places["exp_name"] == f"{mine} line 2"


def test_a_value_that_is_the_default_counts_as_set(mine):
    assert "dataset.sigma" in read_user([mine], []).places
    assert read_user([], ["dataset='{sigma: 0.8}'".replace("'", "")]).places == {
        "dataset.sigma": "--config"
    }


def test_keys_are_set_also_by_text_that_stands_for_a_section():
    assert list(set_keys({"dataset": "{sigma: 1}", "seed": None, "nothing": 1})) == [
        "seed",
        "dataset.sigma",
    ]


def test_what_is_no_assignment_is_told():
    with pytest.raises(ConfigError, match="expected key=value"):
        read_user([], ["seed"])


def test_layers():
    assert overlay({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {
        "a": {"b": 3, "c": 2},
        "d": 4,
    }
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}, "d": None}) == {
        "a": {"b": 3},
        "d": None,
    }
    assert nested("a.b", 1) == {"a": {"b": 1}}
    assert value_at({"a": {"b": 1}}, "a.b") == 1 and value_at({"a": 1}, "a.b") is None
    assert typed_value("dataset.sigma", "0.5") == 0.5 and typed_value("nothing", "5") == "5"
    both = UserValues({"a": 1}, {"a": "x"}).over(UserValues({"a": 2, "b": 3}, {"a": "y", "b": "z"}))
    assert both == UserValues({"a": 1, "b": 3}, {"a": "x", "b": "z"})


def test_what_will_be_refused_has_its_place_too(mine, tmp_path):
    mine.write_text("exp_dir: x\ndataset:\n  sigam: 0.8\n  sets: [a]\nsampling:\ndatset: {b: 1}\n")
    user = read_user([mine], [])
    with pytest.raises(ConfigError) as error:
        load_config(overlay(raw_config(), user.values), Provenance(user.places))
    told = str(error.value).splitlines()
    place = f"[{tmp_path.name}/mine.yaml line"
    for begin, line in (
        ("unknown key 'dataset.sigam'", 3),
        ("dataset.sets.0: found", 4),
        ("sampling: found null", 5),
        ("unknown key 'datset'", 6),
    ):
        [found] = (text for text in told if text.strip().startswith(begin))
        assert found.endswith(f"{place} {line}]")


def test_a_file_of_text_is_told_with_what_a_line_looks_like(mine):
    mine.write_text("seed：4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds 'seed：4', expected keys .*no full-width one"):
        read_user([mine], [])
