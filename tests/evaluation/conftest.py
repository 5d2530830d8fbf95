"""What the tests of the wing share."""

import pytest


@pytest.fixture
def unpainted(monkeypatch):
    """Figures are made but not painted, which takes seconds. The tests of plots paint them."""
    monkeypatch.setattr("matplotlib.figure.Figure.tight_layout", lambda self, **_: None)
    svg = b'<svg viewBox="0 0 9 9"><defs></defs></svg>'
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig",
        lambda self, file, format="", **_: file.write(
            svg if format == "svg" else b"\x89PNG\r\n\x1a\n"
        ),
    )
