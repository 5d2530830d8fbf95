"""JSON files that are read as what they should be, or refused; and records that are sealed."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import orjson

from cdm.files.content import read_bytes
from cdm.files.whole import write_bytes


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, encode_json(content))


def encode_json(content: Any) -> bytes:
    """The bytes of a JSON file."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    NaN, infinity, nesting too deep to follow and bytes that are not UTF-8 are refused, as the JSON
    standard has it.

    Raises:
        ValueError: not JSON.
        OSError: not there, or unreadable.
    """
    return orjson.loads(read_bytes(path))


T = TypeVar("T")


def typed(cls: type[T], content: Any) -> T:
    """A dataclass from a JSON object whose keys and types are those of its fields.

    A file of ours can be valid JSON and yet of another shape: from another version, edited, or not
    ours at all. Such a value is refused here and not met as a TypeError somewhere else.

    Args:
        cls: a dataclass with fields of the types bool, int, float, str, list, dict, None, unions
            of them, or of another such dataclass. An int may stand for a float.
        content: as `read_json` or `unseal` return it.
    Raises:
        ValueError: names the key, what was found and what was expected.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {_shown(content)}")
    known, hints = dataclasses.fields(cast(Any, cls)), get_type_hints(cls)
    needed = {
        field.name
        for field in known
        if field.default is field.default_factory is dataclasses.MISSING
    }
    wrong = (needed - content.keys()) | (content.keys() - hints.keys())
    if wrong:
        kind = "missing" if needed - content.keys() else "unknown"
        raise ValueError(f"{kind} key {sorted(map(str, wrong))[0]!r}")
    values = {name: _typed_value(hints[name], name, value) for name, value in content.items()}
    return cls(**values)


def _typed_value(expected: Any, name: str, value: Any) -> Any:
    options = get_args(expected) if isinstance(expected, UnionType) else (expected,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            try:
                return typed(cast(type, option), value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        kind = get_origin(option) or option
        if kind is Any or type(value) is kind:  # a bool is no int
            return value
        if kind is float and type(value) is int:
            return float(value)
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise ValueError(f"{name} is {_shown(value)}, expected {names}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SEAL = b',\n  "sha256": "'


def seal(content: dict[str, Any]) -> bytes:
    """The bytes of a JSON object whose last key, `sha256`, vouches for all before it."""
    return _sealed(encode_json(content).removesuffix(b"\n}\n"))


def is_sealed(data: bytes) -> bool:
    """Whether the bytes are those that `seal` gave; faster than reading the object."""
    return data == _sealed(data.rpartition(_SEAL)[0])


def unseal(data: bytes) -> dict[str, Any]:
    """The object that was sealed.

    Raises:
        ValueError: the bytes are not those that were written.
    """
    if not is_sealed(data):
        raise ValueError("truncated, or changed since it was written")
    return orjson.loads(data.rpartition(_SEAL)[0] + b"\n}")


def _sealed(body: bytes) -> bytes:
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def digest(content: Any) -> str:
    """Short sha256 of a JSON value."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
