"""docs/exact-short-rows.md: its equations, the code that refers to them, and the tests."""

import re

from helpers import REPO

PAGE = (REPO / "docs/exact-short-rows.md").read_text()
EQUATIONS = [int(number) for number in re.findall(r"^.* \((\d+)\)$", PAGE, re.MULTILINE)]


def referred(text):
    """Numbers of equations that a text of code refers to: eq. 3, eq. 2 to 7, eq. 8, 9."""
    found = set()
    for numbers in re.findall(r"[Ee]q\. (\d+(?:(?:, | and | to )\d+)*)", text):
        found |= {int(number) for number in re.findall(r"\d+", numbers)}
    return found


def test_equations_are_numbered_in_their_order():
    assert EQUATIONS == list(range(1, 25))


def test_every_equation_has_a_test():
    tests = "".join(path.read_text() for path in (REPO / "tests/model").rglob("test_*.py"))
    assert sorted(int(n) for n in re.findall(r"^def test_eq_(\d+)_", tests, re.M)) == EQUATIONS


def test_the_code_refers_to_every_equation_that_has_code():
    sources = [p.read_text() for p in (REPO / "cdm/model").rglob("*.py")]
    found = set().union(*(referred(text) for text in sources if "exact-short-rows" in text))
    # Eq. 6 is a step of the derivation, which no line computes.
    assert found - {6} == set(EQUATIONS) - {6}
