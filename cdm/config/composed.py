"""The configuration that afford-motion composed: found in a log, read with its line numbers.

afford-motion's training writes into `{exp_dir}/log/runtime.log` a line that ends in
`[Configuration]`, then the composed configuration as YAML, up to the next line that begins with a
time stamp. A training that was resumed writes it again, so the last one counts. Interpolations such
as `${task.dataset.use_color}` are not resolved there.

Nothing in such a file is executed: a YAML tag is refused by name, and a resolver such as
`${now:...}` or `${oc.env:...}` is never called.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from cdm.config.text_yaml import TextLoader
from cdm.errors import ConfigError

HEADING = b"[Configuration]"
MOST_BYTES = 1 << 20  # of one configuration, which has 4,000
DEEPEST = 32  # references that lead to references
SECTIONS = ("diffusion", "task", "model")  # by which a configuration is known
PLAIN_TAGS = ("null", "str", "int", "float", "bool", "map", "seq", "timestamp")

_STAMP = re.compile(r"\s*\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d")
_KEY = re.compile(r"\s*(- |#|$|[A-Za-z_][\w./-]*:(\s|$))")
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Node:
    """One value of the configuration, with the line of the file that it stands in.

    Attributes:
        value: text as it was typed, None, a list of nodes, or a mapping key -> node.
    """

    value: Any
    line: int


@dataclass(frozen=True)
class Block:
    """One configuration in a log.

    Attributes:
        text: its YAML.
        line: the line of the file before it.
        whole: False if the file ends in the middle of it.
    """

    text: str
    line: int
    whole: bool


class Unresolved(Exception):
    """An interpolation that has no value here; says why."""


# --- finding it ----------------------------------------------------------------------------------


def clean_text(data: bytes) -> str:
    """Text of a log: without colours and byte order mark, with one form of line ends."""
    text = _ANSI.sub("", data.decode("utf-8", "replace").removeprefix("\ufeff"))
    return text.replace("\r\n", "\n")


def find_blocks(data: bytes) -> list[Block]:
    """Every configuration in a log, in order; none if there is no `[Configuration]`."""
    # What follows each heading, up to the line of the next one.
    ends = [match.end() for match in re.finditer(re.escape(HEADING), data)]
    ends = [end for end in ends if not clean_text(data[end : _line_end(data, end)]).strip()]
    starts = [_line_end(data, end) + 1 for end in ends]
    stops = [*(data.rfind(b"\n", 0, end) + 1 for end in ends[1:]), len(data)][: len(ends)]

    blocks = []
    for start, stop in zip(starts, stops, strict=True):
        rest = clean_text(data[start : min(stop, start + MOST_BYTES + 1)])
        line = data.count(b"\n", 0, start)
        lines = rest.split("\n")
        end = next((i for i in range(len(lines)) if _ends_block(lines, i)), None)
        if end is not None:
            blocks.append(Block("\n".join(lines[:end]) + "\n", line, True))
        else:
            blocks.append(Block(rest, line, stop < len(data) or _looks_whole(rest, not blocks)))
    return blocks


def _line_end(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end


def _ends_block(lines: list[str], number: int) -> bool:
    """Whether a line of a log is no longer of the configuration before it."""
    line = lines[number]
    after_blank = number > 0 and not lines[number - 1].strip()
    return bool(_STAMP.match(line)) or (after_blank and not _KEY.match(line))


def _looks_whole(text: str, alone: bool) -> bool:
    """Whether a configuration at the very end of a file is all there.

    afford-motion ends it with an empty line. Where there is no other one in the file, one with its
    backbone in the last section will do; a last line without its end is never whole.
    """
    last_section = text.partition("\nmodel:\n")[2]
    arch = re.search(r"^ +arch: (.*)$", last_section, re.MULTILINE)
    has_backbone = arch is not None and (
        arch[1] != "Perceiver" or "decoder_num_heads:" in last_section
    )
    return text.endswith("\n\n") or (alone and text.endswith("\n") and has_backbone)


def cut_out(data: bytes) -> Block:
    """A file that holds the configuration alone, or a log: the last configuration in it."""
    if blocks := find_blocks(data):
        return blocks[-1]
    lines = clean_text(data).split("\n")
    end = next((i for i, line in enumerate(lines) if _STAMP.match(line)), len(lines))
    return Block("\n".join(lines[:end]) + "\n", 0, True)


def whole_lines(block: Block) -> Block:
    """A configuration that was cut off, without its last line, which may be a part of one."""
    return Block(block.text.rpartition("\n")[0] + "\n", block.line, block.whole)


# --- reading it ----------------------------------------------------------------------------------


def read_block(block: Block, place: str) -> Node:
    """The mapping in a configuration.

    Args:
        place: what messages call the file.
    Raises:
        ConfigError: not YAML, nested too deeply, with tags or aliases, or of something else.
    """
    if len(block.text) > MOST_BYTES:
        raise ConfigError(
            f"{place} line {block.line}: its configuration has {len(block.text)} characters, "
            f"expected at most {MOST_BYTES}"
        )
    try:
        root = yaml.compose(block.text, Loader=TextLoader)
        tree = Node({}, block.line) if root is None else _node(root, block.line, place, set())
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = block.line + mark.line + 1 if mark else block.line
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place} line {line}: not YAML ({problem})") from None
    except RecursionError:
        raise ConfigError(f"{place} line {block.line}: nested too deeply") from None
    known = isinstance(tree.value, dict) and any(
        isinstance(tree.value.get(name, tree).value, dict) and name in tree.value
        for name in SECTIONS
    )
    if not known:
        found = ", ".join(tree.value)[:200] if isinstance(tree.value, dict) else "no keys"
        raise ConfigError(
            f"{place} line {block.line + 1}: found {found or 'nothing'}, expected "
            f"afford-motion's configuration with the sections {', '.join(SECTIONS)}"
        )
    return tree


def _node(node: yaml.Node, before: int, place: str, seen: set[int]) -> Node:
    line = before + node.start_mark.line + 1
    if id(node) in seen:
        raise ConfigError(f"{place} line {line}: an alias, expected plain values")
    seen.add(id(node))
    if node.tag.removeprefix("tag:yaml.org,2002:") not in PLAIN_TAGS:
        raise ConfigError(
            f"{place} line {line}: the tag {node.tag!r}, expected plain values. Nothing of it "
            "was executed"
        )
    if isinstance(node, yaml.ScalarNode):
        return Node(None if node.tag.endswith(":null") else node.value, line)
    if isinstance(node, yaml.SequenceNode):
        return Node([_node(item, before, place, seen) for item in node.value], line)
    mapping: dict[str, Node] = {}
    for key_node, value_node in node.value:
        key = _node(key_node, before, place, seen)
        if not isinstance(key.value, str):
            raise ConfigError(f"{place} line {key.line}: a key that is no word")
        if key.value in mapping:
            first = mapping[key.value].line
            raise ConfigError(
                f"{place}: the key '{key.value}' comes twice, in lines {first} and {key.line}"
            )
        value = _node(value_node, before, place, seen)
        mapping[key.value] = Node(value.value, key.line)
    return Node(mapping, line)


# --- asking it -----------------------------------------------------------------------------------


def leaves(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """(dotted key, node) of everything that is no mapping with keys."""
    for key, item in node.value.items():
        here = f"{path}.{key}" if path else key
        if isinstance(item.value, dict) and item.value:
            yield from leaves(item, here)
        else:
            yield here, item


def find(root: Node, path: str) -> Node | None:
    """The node of a dotted key; None if there is none."""
    node = root
    for part in filter(None, path.split(".")):
        if isinstance(node.value, dict) and part in node.value:
            node = node.value[part]
        elif isinstance(node.value, list) and part.isdecimal() and int(part) < len(node.value):
            node = node.value[int(part)]
        else:
            return None
    return node


def resolved(root: Node, path: str, depth: int = 0) -> Any:
    """The value of a dotted key as plain text, None, lists and mappings, by OmegaConf's rules.

    Args:
        depth: references that led here.
    Raises:
        Unresolved: it refers to a key that is not there, to itself, or to a resolver.
        KeyError: there is no such key.
    """
    node = find(root, path)
    if node is None:
        raise KeyError(path)
    return _plain(root, node.value, path, depth)


def _plain(root: Node, value: Any, path: str, depth: int) -> Any:
    if isinstance(value, list):
        return [_plain(root, item.value, f"{path}.{i}", depth) for i, item in enumerate(value)]
    if isinstance(value, dict):
        items = value.items()
        return {key: _plain(root, item.value, f"{path}.{key}", depth) for key, item in items}
    if isinstance(value, str) and "${" in value:
        return _interpolated(root, value, path, depth)
    return value


def _interpolated(root: Node, text: str, path: str, depth: int) -> Any:
    """Text with `${...}` in it. One that is nothing else may stand for a list or a mapping."""
    if depth > DEEPEST:
        raise Unresolved(f"{text} refers to itself")
    parts: list[Any] = []
    rest = text
    while (begin := rest.find("${")) >= 0:
        if rest[:begin].endswith("\\"):  # an escaped one is text
            parts.append(f"{rest[: begin - 1]}${{")
            rest = rest[begin + 2 :]
            continue
        end = _closing(rest, begin, text)
        inside = rest[begin + 2 : end]
        if "${" in inside:
            inside = str(_interpolated(root, inside, path, depth + 1))
        found = _referred(root, inside.strip(), path, depth)
        if begin == 0 and not parts and end + 1 == len(rest):
            return found
        if isinstance(found, list | dict):
            raise Unresolved(f"{text} puts a list or section into a text")
        parts += [rest[:begin], str(found)]
        rest = rest[end + 1 :]
    return "".join([*parts, rest])


def _closing(text: str, begin: int, whole: str) -> int:
    """Where the brace that opens at `begin` + 1 is closed."""
    depth = 0
    for place in range(begin + 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise Unresolved(f"{whole} has no closing brace")


def _referred(root: Node, reference: str, path: str, depth: int) -> Any:
    """The value that the inside of `${...}` stands for."""
    if ":" in reference:
        raise Unresolved(f"${{{reference}}} is computed by a resolver, which is not executed here")
    key = re.sub(r"\[([^\]]*)\]", r".\1", reference)
    dots = len(key) - len(key.lstrip("."))
    above = path.split(".")[: -dots or None] if dots else []
    if dots and len(path.split(".")) < dots:
        raise Unresolved(f"${{{reference}}} leads out of the configuration")
    target = ".".join([*above, *filter(None, key.split("."))])
    try:
        return resolved(root, target, depth + 1)
    except KeyError:
        raise Unresolved(f"${{{reference}}} names no key") from None
