"""Renders the templates in templates/ (jinja2).

Texts on a page come from captions, folder names and configurations. So every value is escaped,
and characters that hide or reorder others are written out. Only `Markup` stays as it is.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cdm.errors import printable

TEMPLATES = Path(__file__).with_name("templates")


def _visible(value: Any) -> Any:
    """A value as it may stand on a page, before it is escaped."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value) if is_text else value


_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,  # a name that the template has and the program lacks is an error
    finalize=_visible,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **context: Any) -> str:
    """A page as text.

    Args:
        template: name of a file in templates/; most extend page.html, which has head and style.
        context: values of the template. Texts are escaped; `markupsafe.Markup` is not.
    Raises:
        jinja2.UndefinedError: the template needs a value that is not there.
    """
    return _environment.get_template(template).render(context)
