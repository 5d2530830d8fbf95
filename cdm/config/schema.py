"""The schema of the configuration, read once, and questions about its keys."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from cdm import WORKFLOW
from cdm.config.values import fits

SCHEMA = WORKFLOW / "config" / "schema.yaml"
# The C loader takes a tenth of the time; only files of our own are read with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def schema() -> dict[str, Any]:
    """config/schema.yaml."""
    return yaml.load(SCHEMA.read_text("utf-8"), Loader=_LOADER)


def part(key: str) -> Mapping[str, Any] | None:
    """The schema of one dotted key; None if there is no such key."""
    found: Mapping[str, Any] = schema()
    for name in key.split("."):
        if name not in found.get("properties", {}):
            return None
        found = found["properties"][name]
    return found


def all_keys(sub: Mapping[str, Any] | None = None, prefix: str = "") -> Iterator[str]:
    """Every dotted key that is no section, in the order of the schema."""
    for name, found in (schema() if sub is None else sub)["properties"].items():
        if "properties" in found:
            yield from all_keys(found, f"{prefix}{name}.")
        else:
            yield prefix + name


def accepts_null(key: str) -> bool:
    """Whether null is a value of a dotted key."""
    found = part(key)
    return found is not None and fits(None, found)
