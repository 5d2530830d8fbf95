"""Colour for what went wrong, on terminals only (no torch)."""

import os
import re
from collections.abc import Iterable
from typing import TextIO

RED, PLAIN = "\033[31m", "\033[0m"


def allows_colour(stream: TextIO) -> bool:
    """Whether colour may be written: to a terminal, unless NO_COLOR is set (no-color.org)."""
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    return stream.isatty() and not dumb and not os.environ.get("NO_COLOR")


def paint_failures(text: str, sections: Iterable[str] = ("failed", "damaged")) -> str:
    """The text of `cdm status` with failures in red.

    Args:
        text: already printable, since what follows an escape sequence is obeyed.
        sections: titles of sections, which are painted up to the next empty line.
    """
    lines, bad = [], False
    for line in text.split("\n"):
        bad = line != "" and (bad or (line.removesuffix(":") in sections and line.endswith(":")))
        if bad:
            line = f"{RED}{line}{PLAIN}"
        elif line.startswith("chunks "):
            line = re.sub(r"\b[1-9]\d* failed\b", rf"{RED}\g<0>{PLAIN}", line)
        lines.append(line)
    return "\n".join(lines)
