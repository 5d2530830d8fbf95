"""Figures inside the page: SVG in the page's colours, with names of any kind as text."""

import re
from xml.etree import ElementTree

from evaluations import study_summary

from cdm.evaluation import inline_figures
from cdm.evaluation.inline_figures import STAND_INS

EVIL = "<script>alert(1)</script>"


def interval(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "num_items": 3}


def group(name, kind="action"):
    measures = {"found_target": interval(0.5), "found_target_chance": interval(0.2)}
    return {"kind": kind, "name": name, "num_items": 3, "measures": measures}


def test_a_figure_is_one_svg_in_the_colours_of_the_page():
    drawing = inline_figures.found_target([group("all", "all"), group(EVIL)])
    root = ElementTree.fromstring(drawing.replace("xlink:href", "href"))
    assert root.tag == "svg" and root.get("viewBox") and not root.get("width")
    assert {node.tag for node in root.iter()} <= {
        "svg",
        "g",
        "path",
        "text",
        "defs",
        "use",
        "clipPath",
        "rect",
        "tspan",
    }
    assert not [color for color in STAND_INS if color in drawing]
    assert "var(--series1)" in drawing and "var(--ink)" in drawing
    assert any(EVIL[:10] in (node.text or "") for node in root.iter("text"))
    assert "http" not in drawing and "<?xml" not in drawing and "<style" not in drawing


def ids(drawing):
    return set(re.findall(r'\bid="([^"]+)"', drawing))


def test_no_two_figures_share_an_id_and_references_are_found():
    measures = {f"{family}@{at}": interval(0.3) for family in ("TKCO", "IoU") for at in (1, 2)}
    drawings = [inline_figures.overlap(measures, family) for family in ("TKCO", "IoU")]
    drawings.append(inline_figures.pelvis_errors([("sit", 0.1), ("lie", 2.0)]))
    assert len(set.union(*map(ids, drawings))) == sum(len(ids(each)) for each in drawings)
    for drawing in drawings:
        referred = re.findall(r'(?:href="#|url\(#)([^")]+)', drawing)
        assert referred and set(referred) <= ids(drawing)


def test_the_same_figure_is_drawn_every_time():
    errors = [("sit", 0.1), ("lie", 2.0)]
    assert inline_figures.pelvis_errors(errors) == inline_figures.pelvis_errors(errors)


def test_a_study_has_a_figure_for_each_of_its_three_questions():
    drawings = inline_figures.study(study_summary())
    assert len(drawings) == 3 and all("chance alone" in drawing for drawing in drawings)


def test_a_study_by_an_older_rule_has_no_figure():
    assert inline_figures.study({"settings": []}) == []
