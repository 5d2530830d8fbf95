"""Pages: what comes from elsewhere is text, and what a template needs has to be there."""

import re

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from cdm.pages import render
from cdm.pages.render import TEMPLATES, _environment

EVIL = "<script>alert(1)</script> & \"'\x1b[31m\u202e"


def show(value):
    """A value as a template shows it."""
    return _environment.from_string("{{ value }}").render(value=value)


def test_texts_are_escaped_and_what_hides_is_written_out():
    shown = show(EVIL)
    assert "<" not in shown and "&lt;script&gt;" in shown and "&#34;" in shown
    assert "\\u001b[31m\\u202e" in shown


def test_markup_and_numbers_stay_as_they_are():
    assert show(Markup("<b>x</b>")) == "<b>x</b>" and show(3) == "3"


def test_a_title_of_any_kind_stays_inside_its_tags():
    page = render("page.html", title=EVIL)
    assert page.startswith("<!doctype html>") and "<script" not in page
    assert "<title>&lt;script&gt;" in page


def test_a_value_that_is_not_given_is_an_error_and_no_gap():
    with pytest.raises(UndefinedError, match="title"):
        render("page.html")


def test_pages_need_no_network():
    texts = [path.read_text("utf-8") for path in TEMPLATES.iterdir()]
    assert texts and not [text for text in texts if re.search(r"https?:|@import|src=|url\(", text)]


def test_every_colour_is_there_for_light_dark_and_print():
    style = (TEMPLATES / "page.css").read_text()
    light, dark, printed = (
        set(re.findall(r"(--\w+):", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    assert light == dark == printed
    assert set(re.findall(r"var\((--\w+)\)", style)) <= light
