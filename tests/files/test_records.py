"""JSON files of ours: read as what they should be, or refused."""

from dataclasses import dataclass, field

import pytest

from cdm.files import read_json, typed


@dataclass
class Inner:
    size: int


@dataclass
class Outer:
    name: str
    rate: float
    inner: Inner | None = None
    rows: list[dict] = field(default_factory=list)


def test_a_json_object_of_the_right_shape_becomes_its_dataclass():
    content = {"name": "a", "rate": 2, "inner": {"size": 3}, "rows": [{}]}
    assert typed(Outer, content) == Outer("a", 2.0, Inner(3), [{}])
    assert typed(Outer, {"name": "a", "rate": 0.5, "inner": None}) == Outer("a", 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object, found []"),
        ({"name": "a"}, "missing key 'rate'"),
        ({"name": "a", "rate": 1, "more": 2}, "unknown key 'more'"),
        ({"name": 5, "rate": 1}, "name is 5, expected str"),
        ({"name": "a", "rate": True}, "rate is True, expected float"),
        ({"name": "a", "rate": 1, "inner": {"size": 1.0}}, "inner: size is 1.0, expected int"),
        ({"name": "a", "rate": 1, "inner": []}, "inner is [], expected Inner or NoneType"),
        ({"name": "a", "rate": 1, "rows": {}}, "rows is {}, expected list"),
    ],
)
def test_another_shape_is_refused_with_key_found_and_expected(content, message):
    with pytest.raises(ValueError) as error:
        typed(Outer, content)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text", ["{", "[NaN]", "[Infinity]", "[1e999]", '"\ud800"', "[" * 100_000, ""]
)
def test_what_is_not_standard_json_is_a_value_error(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError):
        read_json(path)
