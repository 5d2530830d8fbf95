"""The layers of a configuration: our defaults, what the training tells, and what the user set.

The user's word wins over the training's, and the training's over our defaults. A value counts as
set if the user wrote it, also where it is the default.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdm.config.schema import SCHEMA, all_keys, part, schema
from cdm.config.text_yaml import key_lines, read_text_yaml
from cdm.config.values import LONGEST, coerce
from cdm.errors import ConfigError
from cdm.files import expand_path, read_bytes, utf8_text

DEFAULTS, DEMO_DEFAULTS = SCHEMA.with_name("config.yaml"), SCHEMA.with_name("demo.yaml")


@dataclass(frozen=True)
class UserValues:
    """What a user set, nested as it was typed, and the place of each dotted key."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def over(self, other: "UserValues") -> "UserValues":
        """These values laid over other ones."""
        return UserValues(
            overlay(other.values, self.values),
            {key: place for key, place in other.places.items() if key not in self.places}
            | self.places,
        )


def read_user(configfiles: Iterable[str | Path], assignments: Iterable[str]) -> UserValues:
    """What `--configfile` and `--config` set, the latter over the former, in their order.

    Raises:
        ConfigError: no such file, not YAML, or a key that comes twice.
    """
    user = UserValues()
    for name in configfiles:
        path = config_file(name)
        values, lines = read_file(Path(path))
        near = os.path.relpath(path)  # Snakemake makes paths absolute
        shown = path if near.startswith(os.pardir) else near
        places = {
            key: f"{shown} line {lines[key]}" if key in lines else shown
            for key in (*set_keys(values), *_out_of_place(values, lines))
        }
        user = UserValues(values, places).over(user)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--config {assignment}: expected key=value, such as exp_name=mine")
        values = {key: read_text_yaml(text, f"--config {assignment}")}
        user = UserValues(values, dict.fromkeys(set_keys(values), "--config")).over(user)
    return user


def config_file(name: str | Path) -> str:
    """The path of a configuration file as it was typed, also of one of ours.

    The pages say config/fast.yaml. In a folder without a checkout, that is the file of this name in
    the installed package.
    """
    path = expand_path(str(name), "--configfile")
    ours = SCHEMA.with_name(Path(path).name)
    is_ours = Path(path) == Path(SCHEMA.parent.name, ours.name) and ours != SCHEMA
    return str(ours) if is_ours and ours.exists() and not os.path.lexists(path) else path


def _out_of_place(values: Mapping[str, Any], lines: Iterable[str]) -> Iterator[str]:
    """Dotted keys that will be refused: unknown ones, and sections without keys in them."""
    for key in lines:
        found = part(key)
        if found is None or ("properties" in found and not isinstance(value_at(values, key), dict)):
            yield key


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Keys and values of a file, scalars as typed, and the lines of its dotted keys."""
    try:
        text = utf8_text(read_bytes(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    content = read_text_yaml(text, str(path)) or {}
    if not isinstance(content, dict):
        found = "a list" if isinstance(content, list) else repr(str(content)[:LONGEST])
        raise ConfigError(
            f"{path}: holds {found}, expected keys with values: a word, a plain colon (no "
            "full-width one), a space and a value, such as exp_name: mine"
        )
    return content, key_lines(text)


def set_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys that nested values set, as far as the schema knows them."""
    found = coerce(values, schema())
    for key in all_keys():
        if _is_set(found, key):
            yield key


def _is_set(values: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(values, Mapping) or name not in values:
            return False
        values = values[name]
    return True


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None if there is none."""
    found: Any = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def nested(key: str, value: Any) -> dict[str, Any]:
    """A dotted key with its value as a nested mapping."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested update, as Snakemake merges configuration files."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def difference(base: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `found`, nested, whose values are not those of `base`."""
    changes = {}
    for key, value in found.items():
        before = base.get(key)
        if value == before and key in base:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            changes[key] = difference(before, value)
        else:
            changes[key] = value
    return changes


def typed_value(key: str, value: Any) -> Any:
    """A value as the type that the schema wants for a dotted key."""
    return coerce(value, part(key) or {})
