"""The configuration: a validated mapping turned into frozen dataclasses.

`config/config.yaml` holds every key with its default, `config/schema.yaml` every type, unit and
permitted value. Nothing is filled in silently: a missing or unknown key is an error.
It imports `cdm.errors` and `cdm.files` only.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, cast

from cdm.config.contradictions import contradictions
from cdm.config.schema import SCHEMA, schema
from cdm.config.sections import (
    DEMO,
    DEMO_POINTS,
    Config,
    DatasetConfig,
    EvaluationConfig,
    ModelConfig,
    Provenance,
    TextModelConfig,
    key_of,
)
from cdm.config.values import coerce, expand_paths, explain
from cdm.errors import ConfigError

__all__ = [
    "DEMO",
    "DEMO_POINTS",
    "SCHEMA",
    "Config",
    "DatasetConfig",
    "EvaluationConfig",
    "ModelConfig",
    "Provenance",
    "TextModelConfig",
    "is_demo",
    "load_config",
]


def is_demo(raw: Mapping[str, Any]) -> bool:
    """Whether nothing is configured, so that the built-in demo runs."""
    dataset = raw.get("dataset")
    data_dir = dataset.get("data_dir") if isinstance(dataset, Mapping) else dataset
    nothing = (None, "null")
    chosen = raw.get("reference") not in nothing
    return not chosen and all(found in (*nothing, DEMO) for found in (raw.get("exp_dir"), data_dir))


def load_config(raw: Mapping[str, Any], provenance: Provenance | None = None) -> Config:
    """Validate a configuration and freeze it.

    Args:
        raw: nested mapping as Snakemake merged it. Values may be text ("16", "null", "[a, b]"),
            which is read as the type the schema wants.
        provenance: where its values come from, for messages and `checkpoint_info.txt`.
    Raises:
        ConfigError: unknown key (with the nearest valid one), wrong type or value, missing key,
            or settings that contradict each other. All of them are listed at once.
    """
    values = coerce(raw, schema())
    problems = explain(values, schema())
    if problems and isinstance(raw, Mapping) and isinstance(raw.get("task"), Mapping):
        problems.append(
            "this is a configuration of afford-motion: give it as --config reference=FILE"
        )
    _raise_if_any(problems, provenance)
    config = _build(Config, expand_paths(values, schema()) | {"provenance": provenance})
    if config.exp_dir is not None and config.dataset.data_dir is None:
        dataset = dataclasses.replace(config.dataset, data_dir="data")
        config = dataclasses.replace(config, dataset=dataset)
    _raise_if_any(list(contradictions(config)), provenance)
    return config


def _raise_if_any(problems: list[str], provenance: Provenance | None) -> None:
    """Raise problems, each with the place of its key if that is known."""
    if not problems:
        return
    places = provenance.places if provenance else {}
    lines = []
    for problem in problems:
        key = re.match(r"(?:unknown key ')?([\w.]+)", problem)
        place = _place_of(key[1], places) if key else None
        lines.append(f"{problem} [{place}]" if place else problem)
    raise ConfigError("configuration:\n  " + "\n  ".join(lines))


def _place_of(key: str, places: Mapping[str, str]) -> str | None:
    """Where a dotted key stands; for an entry of a list (`dataset.sets.0`), where the list does."""
    return places.get(key) or places.get(re.sub(r"\.\d+$", "", key))


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    """Fill a dataclass, recursing into fields that are dataclasses; lists become tuples."""
    fields = {}
    for field in dataclasses.fields(cls):
        key = key_of(field.name)
        if key not in values and field.default is not dataclasses.MISSING:
            continue  # a plan of an earlier version does not have it
        value = values[key]
        if dataclasses.is_dataclass(field.type):
            value = _build(cast(type, field.type), value)
        fields[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**fields)
