"""Raw values against the schema: read as the type it wants, and explained where they do not fit."""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from cdm.config.text_yaml import read_text_yaml
from cdm.errors import ConfigError
from cdm.files import checked_url, expand_path, is_url, redacted

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
REPLACED = {  # keys of before -> what to type now
    f"compare.{key}": "write sampler and time steps together, compare.samplers: "
    "[dpmpp_2m_sde 50, ddim 50]"
    for key in ("methods", "steps")
}
TOO_LARGE = 2**64  # of integers
LONGEST = 200  # characters of a found value that a message shows
# The schema's words, as a message says them.
TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "keys with values",
}
LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} entry",
    "minLength": "at least {} character",
    "maxLength": "at most {} characters",
    "uniqueItems": "no entry twice",
}


def _is_integer(checker, value: Any) -> bool:
    """JSON Schema counts 3.0 as an integer; a number of maps or points is typed as 3.

    A plan is JSON of integers of 64 bits.
    """
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < TOO_LARGE


def _is_finite_number(checker, value: Any) -> bool:
    """YAML knows .nan and .inf, which pass every minimum and maximum or make maps of NaN."""
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False


Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_finite_number}
    ),
)


def coerce(value: Any, schema: Mapping[str, Any]) -> Any:
    """Read text, nested anywhere in the value, as the type the schema wants.

    Text comes from `--config` and from files read by `read_text_yaml`. Values that already have a
    type stay as they are; in particular no number becomes text, because what was typed is lost.
    """
    if isinstance(value, Mapping):
        props = schema.get("properties", {})
        return {str(key): coerce(item, props.get(key, {})) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [coerce(item, schema.get("items", {})) for item in value]
    if not schema or not isinstance(value, str):
        return value
    for reading in _readings(value):
        if fits(reading, schema):
            return reading
    return _nested(value, schema)


def _readings(text: str) -> Iterator[Any]:
    """What a scalar may stand for, the most special first."""
    word = text.strip().lower()
    if word in ("null", "~"):
        yield None
    if word in BOOLEANS:
        yield BOOLEANS[word]
    if len(word) < LONGEST and re.fullmatch(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)", word, re.ASCII):
        yield int(word)  # not 010, which YAML reads as 8
    elif re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", word, re.ASCII):
        yield float(word)
    yield text


def _nested(text: str, schema: Mapping[str, Any]) -> Any:
    """Text that stands for a list or keys, as in `--config dataset='{sets: [PROX]}'`."""
    if text.strip()[:1] not in ("[", "{"):
        return text
    return coerce(read_text_yaml(text, "--config"), schema)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    return Validator(schema).is_valid(value)


def explain(values: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """One readable line for each fault: where, what was found, what was expected."""
    errors = Validator(schema).iter_errors(values)
    return sorted({line for error in errors for line in _explain(error, schema)})


def _explain(error: jsonschema.ValidationError, schema: Mapping[str, Any]) -> list[str]:
    path = ".".join(str(part) for part in error.absolute_path)
    here = f"{path}." if path else ""
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = [key for key in error.instance if key not in known]
        nearest = {key: _nearest(key, path, known, schema) for key in unknown}
        return [f"unknown key '{here}{key}'; {advice}" for key, advice in nearest.items()]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"missing key '{here}{key}' (see config/config.yaml)" for key in missing]
    found, meaning = _found(error.instance), error.schema.get("description", "")
    if not meaning and error.absolute_path:  # of one entry of a list, which the list describes
        meaning = _part(schema, list(error.absolute_path)[:-1]).get("description", "")
    if error.schema.get("type") == "object":
        keys = ", ".join(error.schema["properties"])
        return [f"{path or 'the configuration'}: found {found}, expected keys with values: {keys}"]
    if _is_finite_number(None, error.instance) and fits("text", error.schema):
        return [
            f"{path}: found the number {found}, expected text ({meaning}): put what was meant in "
            "quotes, because 007 and 7, or 1.10 and 1.1, are the same number"
        ]
    wanted = _wanted(error.schema)
    if re.fullmatch("[0-9]{20,}", str(error.instance)):
        wanted = "a number below 2^64"
    return [f"{path}: found {found}, expected {wanted} ({meaning})"]


def _part(schema: Mapping[str, Any], path: list) -> Mapping[str, Any]:
    """The schema of what lies at a path of keys; empty where it is not that simple."""
    for key in path:
        schema = schema.get("properties", {}).get(key, {})
    return schema


def _wanted(schema: Mapping[str, Any]) -> str:
    """What a value should be, in words: `a whole number, at least 1, or "auto"`.

    What has no words here, such as a pattern, is said by the key's description.
    """
    if "anyOf" in schema:
        return ", or ".join(map(_wanted, schema["anyOf"]))
    parts = []
    for key, value in schema.items():
        if key == "enum":
            parts.append(f"one of {', '.join(map(json.dumps, value))}")
        elif key == "const":
            parts.append(json.dumps(value))
        elif key == "type":
            types = [value] if isinstance(value, str) else value
            parts.append(" or ".join(TYPES[name] for name in types))
        elif key == "items" and "enum" in value:
            parts.append(f"each {_wanted(value)}")
        elif key in LIMITS:
            parts.append(LIMITS[key].format(value))
    return ", ".join(parts)


def _found(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _nearest(key: str, path: str, known: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The valid key a mistyped or misplaced one most likely stands for."""
    here = f"{path}." if path else ""
    if here + key in REPLACED:
        return REPLACED[here + key]
    everywhere = list(_paths(schema))
    if key in everywhere and "." in key:
        *sections, last = key.split(".")
        nested = "".join(f"{section}: {{" for section in sections[1:]) + f"{last}: ..."
        value = f"{{{nested}{'}' * len(sections)}"
        return f"write it nested, {sections[0]}: {value}, or --config {sections[0]}='{value}'"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{here}{close[0]}'?"
    same = [name for name in everywhere if name.rsplit(".", 1)[-1] == key]
    if same:
        return f"did you mean '{same[0]}'?"
    leaves = {name.rsplit(".", 1)[-1]: name for name in reversed(everywhere)}
    close = difflib.get_close_matches(key, leaves, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{leaves[close[0]]}'?"
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0) or list(known)[:1]
    return f"the nearest valid key is '{here}{nearest[0]}'; valid here: {', '.join(known)}"


def _paths(schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, sub in schema.get("properties", {}).items():
        yield prefix + key
        yield from _paths(sub, f"{prefix}{key}.")


def _expand_place(value: str, key: str) -> str:
    """A path or a URL, checked before its variables are replaced and after."""
    if is_url(value):
        value = checked_url(value, key)
    value = expand_path(value, key)
    return checked_url(value, key) if is_url(value) else value


def expand_paths(
    values: Mapping[str, Any], schema: Mapping[str, Any], section: str = ""
) -> dict[str, Any]:
    """The values with `~` and variables replaced in all keys the schema calls a path.

    Args:
        section: dotted key of the values with a dot behind it, for messages; "" for all of them.
    Raises:
        ConfigError: a variable that is not set, a character no path may have, a URL where only a
            path can be, or one with a password.
    """
    expanded = {}
    for key, value in values.items():
        sub, here = schema["properties"][key], f"{section}{key}"
        if isinstance(value, Mapping):
            value = expand_paths(value, sub, f"{here}.")
        elif sub.get("format") == "path" and value is not None:
            value = expand_path(value, here)
            if is_url(value):
                raise ConfigError(
                    f"{here}: found {redacted(value)}, expected a path on this machine: data are "
                    "read from a URL (dataset.data_dir, dataset.statistics, dataset.examples), "
                    "weights and outputs are not; copy it here and give its path"
                )
        elif sub.get("format") == "path or url" and value is not None:
            value = _expand_place(value, here)
        expanded[key] = value
    return expanded
