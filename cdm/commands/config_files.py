"""The configuration as Snakemake would read it, for commands beside Snakemake."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cdm.config import SCHEMA, Config, is_demo, load_config
from cdm.errors import ConfigError

DEFAULTS, DEMO_DEFAULTS = SCHEMA.with_name("config.yaml"), SCHEMA.with_name("demo.yaml")


def read_config(configfiles: Sequence[str], assignments: Sequence[str]) -> Config:
    """The configuration that `snakemake --configfile ... --config ...` runs with.

    Args:
        configfiles: laid over config/config.yaml, in this order.
        assignments: `key=value`, laid over those; values are YAML.
    Raises:
        ConfigError: no such file, not YAML, or not a valid configuration.
    """
    user: dict[str, Any] = {}
    for name in configfiles:
        user = overlay(user, _read_yaml(Path(name)))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--config {assignment}: expected key=value, such as exp_name=mine")
        try:
            user = overlay(user, {key: yaml.safe_load(text)})
        except yaml.YAMLError as error:
            raise ConfigError(f"--config {assignment}: the value is not YAML ({error})") from None
    return load_config(overlay(_defaults(user), user))


def config_arguments(config: Config) -> str:
    """`--config ...` that makes Snakemake run with this configuration, quoted for a shell."""
    found = config.as_dict()
    changes = _difference(_defaults(found), found)
    words = [f"{key}={_flow(value)}" for key, value in changes.items()]
    return "--config " + " ".join(map(shlex.quote, words)) if words else ""


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested update, as Snakemake merges configuration files."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def _defaults(user: Mapping[str, Any]) -> dict[str, Any]:
    defaults = _read_yaml(DEFAULTS)
    demo = is_demo(overlay(defaults, user))
    return overlay(defaults, _read_yaml(DEMO_DEFAULTS)) if demo else defaults


def _difference(base: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `found`, nested, whose values are not those of `base`."""
    changes = {}
    for key, value in found.items():
        before = base.get(key)
        if value == before:
            continue
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        changes[key] = _difference(before, value) if both else value
    return changes


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**20)
    return text.removesuffix("\n").removesuffix("\n...")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({error})") from None
    if not isinstance(content or {}, dict):
        raise ConfigError(f"{path}: holds {type(content).__name__}, expected keys with values")
    return content or {}
