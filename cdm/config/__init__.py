"""The configuration: a validated mapping turned into frozen dataclasses.

`config/config.yaml` holds every key with its default, `config/schema.yaml` every type, unit and
permitted value. Nothing is filled in silently: a missing or unknown key is an error.
It imports `cdm.errors` and `cdm.files` only.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cdm.config.contradictions import contradictions
from cdm.config.sections import (
    DEMO,
    DEMO_POINTS,
    Config,
    DatasetConfig,
    EvaluationConfig,
    ModelConfig,
    TextModelConfig,
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
    "TextModelConfig",
    "is_demo",
    "load_config",
]

SCHEMA = Path(__file__).parents[2] / "config" / "schema.yaml"


def is_demo(raw: Mapping[str, Any]) -> bool:
    """Whether nothing is configured, so that the built-in demo runs."""
    dataset = raw.get("dataset")
    data_dir = dataset.get("data_dir") if isinstance(dataset, Mapping) else dataset
    return raw.get("exp_dir") in (None, "null", DEMO) and data_dir in (None, "null", DEMO)


def load_config(raw: Mapping[str, Any]) -> Config:
    """Validate a configuration and freeze it.

    Args:
        raw: nested mapping as Snakemake merged it. Values may be text ("16", "null", "[a, b]"),
            which is read as the type the schema wants.
    Raises:
        ConfigError: unknown key (with the nearest valid one), wrong type or value, missing key,
            or settings that contradict each other. All of them are listed at once.
    """
    schema = yaml.safe_load(SCHEMA.read_text())
    values = coerce(raw, schema)
    problems = explain(values, schema)
    if problems:
        raise ConfigError("configuration:\n  " + "\n  ".join(problems))
    config = _build(Config, expand_paths(values, schema))
    if config.exp_dir is not None and config.dataset.data_dir is None:
        dataset = dataclasses.replace(config.dataset, data_dir="data")
        config = dataclasses.replace(config, dataset=dataset)
    problems = list(contradictions(config))
    if problems:
        raise ConfigError("configuration:\n  " + "\n  ".join(problems))
    return config


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    """Fill a dataclass, recursing into fields that are dataclasses; lists become tuples."""
    fields = {}
    for field in dataclasses.fields(cls):
        value = values[field.name]
        if dataclasses.is_dataclass(field.type):
            value = _build(field.type, value)
        fields[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**fields)
