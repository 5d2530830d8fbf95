"""HTML pages: templates whose texts are escaped, one style for all, nothing from a network."""

from cdm.pages.render import render

__all__ = ["render"]
