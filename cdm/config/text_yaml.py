"""YAML whose scalars stay the text that was typed, and whose keys come once.

YAML 1.1 reads 007 as 7, 2024_10_01 as 20241001, 1.10 as 1.1 and 2024-10-01 as a date: a run named
so would write to another folder than the one that was typed. Here only null has a type; the schema
decides what the other scalars are (`cdm.config.values`).
"""

import json
from collections.abc import Hashable
from typing import Any

import yaml

from cdm.errors import ConfigError

NULL, MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class TextLoader(yaml.SafeLoader):
    """The safe loader with null and `<<` as the only scalars that are not text."""

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            _refuse_double_keys(self, node)
        return super().construct_mapping(node, deep)


TextLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in (NULL, MERGE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refuse_double_keys(loader: yaml.SafeLoader, node: yaml.MappingNode) -> None:
    lines: dict[Hashable, int] = {}
    for key_node, _ in node.value:
        key = None if key_node.tag == MERGE else loader.construct_object(key_node, deep=True)
        if key is None or not isinstance(key, Hashable):
            continue  # PyYAML refuses the latter itself
        line = key_node.start_mark.line + 1
        if key in lines:
            raise _DoubleKey(f"the key '{key}' comes twice, in lines {lines[key]} and {line}")
        lines[key] = line


class _DoubleKey(Exception):
    """A key that comes twice in one mapping."""


def read_text_yaml(text: str, place: str) -> Any:
    """Mappings, lists, None, and every other scalar as it was typed.

    Args:
        text: one YAML (or JSON) document.
        place: what messages call it.
    Raises:
        ConfigError: not YAML, or a key that comes twice in one mapping, with both lines.
    """
    try:
        content = yaml.load(text, Loader=TextLoader)
        json.dumps(content, default=str, skipkeys=True)
        return content
    except _DoubleKey as error:
        raise ConfigError(
            f"{place}: {error}, expected once: YAML would keep only the last one. Put what stands "
            "below it in one place"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # json's: an alias inside of what it stands for
        circle = "an alias that contains itself" if "Circular" in str(error) else error
        raise ConfigError(f"{place}: not YAML ({circle})") from None
    except RecursionError:
        raise ConfigError(f"{place}: nested too deeply, expected sections with keys") from None


def key_lines(text: str) -> dict[str, int]:
    """Dotted key -> the line it stands in, of text that `read_text_yaml` accepts."""
    lines: dict[str, int] = {}

    def visit(node: yaml.Node | None, path: str) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            here = f"{path}{key.value}"
            lines[here] = key.start_mark.line + 1
            visit(value, f"{here}.")

    visit(yaml.compose(text, Loader=TextLoader), "")
    return lines
