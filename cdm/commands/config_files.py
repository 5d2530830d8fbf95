"""The configuration as it was typed, for the workflow and for commands beside it."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cdm.config import SCHEMA, Config, is_demo, load_config
from cdm.config.text_yaml import read_text_yaml
from cdm.errors import ConfigError
from cdm.files import expand_path, read_bytes

DEFAULTS, DEMO_DEFAULTS = SCHEMA.with_name("config.yaml"), SCHEMA.with_name("demo.yaml")
FAST = SCHEMA.with_name("fast.yaml")


def read_config(configfiles: Iterable[str | Path], assignments: Iterable[str]) -> Config:
    """The configuration that `snakemake --configfile ... --config ...` runs with.

    Args:
        configfiles: laid over config/config.yaml, in this order.
        assignments: `key=value`, laid over those; values are YAML.
    Raises:
        ConfigError: no such file, not YAML, or not a valid configuration.
    """
    user = _read_user(configfiles, assignments)
    return load_config(overlay(_defaults(user), user))


def as_typed(
    merged: Mapping[str, Any], configfiles: Iterable[str | Path], assignments: Iterable[str] | None
) -> dict[str, Any]:
    """What Snakemake merged, with everything the user gave as the text that was typed.

    Snakemake reads values before the workflow sees them: 007 arrives as 7, and of a section that
    comes twice in one file only the last arrives. So the user's files and `--config` are read
    again.

    Args:
        merged: Snakemake's `config`.
        configfiles: of `--configfile`.
        assignments: of `--config`, as typed.
    Raises:
        ConfigError: a file or value is not YAML, or holds a key twice.
    """
    return overlay(merged, _read_user(configfiles, assignments or ()))


def _read_user(configfiles: Iterable[str | Path], assignments: Iterable[str]) -> dict[str, Any]:
    user: dict[str, Any] = {}
    for name in configfiles:
        user = overlay(user, _read_file(Path(expand_path(str(name), "--configfile"))))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--config {assignment}: expected key=value, such as exp_name=mine")
        user = overlay(user, {key: read_text_yaml(text, f"--config {assignment}")})
    return user


def fast_config(config: Config) -> Config:
    """The configuration with config/fast.yaml laid over it."""
    return load_config(overlay(config.as_dict(), _read_file(FAST)))


def config_arguments(config: Config) -> str:
    """`--config ...` that makes Snakemake run with this configuration, quoted for a shell."""
    found = config.as_dict()
    changes = _difference(load_config(_defaults(found)).as_dict(), found)
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
    defaults = _read_file(DEFAULTS)
    demo = is_demo(overlay(defaults, user))
    return overlay(defaults, _read_file(DEMO_DEFAULTS)) if demo else defaults


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


def _read_file(path: Path) -> dict[str, Any]:
    """Keys and values of a file, scalars as typed; none for an empty file."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error})") from None
    content = read_text_yaml(text, str(path)) or {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, expected keys with values")
    return content
