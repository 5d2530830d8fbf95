"""The words of afford-motion's command lines: Hydra's overrides, read without Hydra.

`key=value` sets a key, `+key=value` and `++key=value` add one, `~key` takes one out. A value is
null, a number, true or false, text with or without quotes, `[a, b]` or `{key: value}`.
"""

import re
from typing import Any, NamedTuple

from cdm.config.composed import Node
from cdm.errors import ConfigError

_KEY = re.compile(
    r"(?P<sign>\+\+|\+|~)?(?P<key>[A-Za-z_][\w./@-]*)(?P<equals>=)?(?P<value>.*)", re.S
)


class Override(NamedTuple):
    """One word: the key, its value (scalars as they were typed), and whether it is taken out."""

    key: str
    value: Any
    deletes: bool


def read_override(word: str) -> Override | None:
    """An override; None for a word of another kind, such as the name of a rule.

    Raises:
        ConfigError: a value that cannot be read, or that stands for several runs.
    """
    found = _KEY.fullmatch(word)
    if found is None or not (found["equals"] or found["sign"] == "~"):
        return None
    if found["sign"] == "~":
        return Override(found["key"], None, True)
    return Override(found["key"], read_value(found["value"], word), False)


def read_value(text: str, word: str) -> Any:
    """A value as nested lists, mappings, None, and text as it was typed.

    Args:
        word: what messages call it.
    Raises:
        ConfigError: quotes or brackets that are not closed, or several values.
    """
    value, end = _value(text, 0, "", word)
    if text[end:].strip():
        problem = "several values are several runs" if text[end] == "," else "expected its end"
        raise ConfigError(f"{word}: found {text[end:]!r} behind {text[:end]!r}; {problem}")
    return value


def _value(text: str, start: int, stops: str, word: str) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends: at the end, a comma, or one of stops."""
    start = _skip(text, start)
    if text[start : start + 1] == "[":
        return _items(text, start, "]", word)
    if text[start : start + 1] == "{":
        return _items(text, start, "}", word)
    if text[start : start + 1] in ("'", '"'):
        return _quoted(text, start, word)
    end = start
    while end < len(text) and text[end] not in f",{stops}":
        if text.startswith("${", end):  # an interpolation is read as a whole
            closed = text.find("}", end)
            end = len(text) - 1 if closed < 0 else closed
        end += 1
    plain = text[start:end].strip()
    return (None if plain == "null" else plain), end


def _items(text: str, start: int, close: str, word: str) -> tuple[list | dict, int]:
    """A list or a mapping."""
    items: list[Any] = []
    place = _skip(text, start + 1)
    while text[place : place + 1] != close:
        if close == "}":
            key, place = _value(text, place, ":}", word)
            if text[place : place + 1] != ":":
                raise ConfigError(f"{word}: expected {{key: value}}")
            value, place = _value(text, place + 1, close, word)
            items.append((str(key), value))
        else:
            value, place = _value(text, place, close, word)
            items.append(value)
        place = _skip(text, place)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != close:
            raise ConfigError(f"{word}: {text[start]} is not closed by {close}")
    return (dict(items) if close == "}" else items), place + 1


def _quoted(text: str, start: int, word: str) -> tuple[str, int]:
    quote, place, parts = text[start], start + 1, []
    while place < len(text) and text[place] != quote:
        escaped = text[place] == "\\" and text[place + 1 : place + 2] in (quote, "\\")
        place += escaped
        parts.append(text[place])
        place += 1
    if place >= len(text):
        raise ConfigError(f"{word}: the quote {quote} is not closed")
    return "".join(parts), place + 1


def _skip(text: str, start: int) -> int:
    while text[start : start + 1].isspace():
        start += 1
    return start


def as_node(value: Any) -> Node:
    """Nested values as `cdm.config.composed` gives them, of no line."""
    if isinstance(value, dict):
        return Node({key: as_node(item) for key, item in value.items()}, 0)
    if isinstance(value, list):
        return Node([as_node(item) for item in value], 0)
    return Node(value, 0)
