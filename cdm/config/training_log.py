"""What an experiment folder of afford-motion tells of its training: the configuration in its log.

A user gives the folder. Everything that decides numbers and that the user does not set is taken
from there, so that nothing has to be typed twice.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cdm.config.composed import (
    Block,
    Node,
    cut_out,
    find_blocks,
    leaves,
    read_block,
    whole_lines,
)
from cdm.config.reference_keys import Refusal, Translation, translate
from cdm.config.schema import accepts_null
from cdm.errors import ConfigError
from cdm.files import list_names, read_bytes

RUNTIME_LOG = Path("log", "runtime.log")
OF_TRAINING_ONLY = ("dataset.statistics_phase", "dataset.statistics_sets")
LEVELS = 3  # folders above an experiment in which the training may have run
LARGEST = 1 << 28  # bytes of a log; a training of a million steps writes a tenth of it


@dataclass(frozen=True)
class Training:
    """What is known of how a model was trained, in our keys.

    Attributes:
        source: the file that tells it.
        values: our dotted key -> value.
        places: our dotted key -> the place in the file.
        refused: what cannot be sampled here as it was trained.
        no_meaning: key of afford-motion -> why it has no meaning here.
        unknown: keys of afford-motion that are not known here.
        notes: what else has to be told.
        trained_on: dataset.name of the training; None where that of a test run is all that is told.
    """

    source: str
    values: dict[str, Any]
    places: dict[str, str]
    refused: tuple[Refusal, ...] = ()
    no_meaning: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    trained_on: str | None = None


def log_paths(exp_dir: str | Path) -> Iterator[Path]:
    """Where a configuration may lie: the log of the training first, then those of test runs."""
    folder = Path(exp_dir)
    yield folder / RUNTIME_LOG
    names = sorted(list_names(folder / "log"), key=_natural, reverse=True)
    yield from (folder / "log" / name for name in names if _is_other_log(name))
    tests = sorted(list_names(folder / "eval"), key=_natural, reverse=True)
    yield from (folder / "eval" / name / "test.log" for name in tests)


def _is_other_log(name: str) -> bool:
    return name.endswith(".log") and name != RUNTIME_LOG.name


def _natural(name: str) -> list[int | str]:
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def find_log(exp_dir: str | Path) -> tuple[Path, list[Block]] | None:
    """The first log with a configuration in it, and its configurations; None if there is none.

    Raises:
        ConfigError: a log that cannot be read.
    """
    for path in log_paths(exp_dir):
        data = _read(path)
        blocks = find_blocks(data) if data else []
        if blocks:
            return path, blocks
    return None


def read_log(exp_dir: str | Path) -> Training | None:
    """The training of an experiment folder, by its log; None if no log tells it.

    Raises:
        ConfigError: the log, or the configuration in it, cannot be read; says what to do.
    """
    found = find_log(exp_dir)
    if found is None:
        return None
    path, blocks = found
    tree, notes = last_configuration(path, blocks)
    translation = translate(tree, str(path), accepts_null)
    training = _training(str(path), translation, notes)
    if path.parent.name != RUNTIME_LOG.parent.name or "test" in path.name:
        for key in OF_TRAINING_ONLY:  # a test run does not tell them
            training.values.pop(key, None)
        return replace(training, trained_on=None)
    return training


def last_configuration(path: Path, blocks: list[Block]) -> tuple[Node, list[str]]:
    """The configuration that counts in a log, and what has to be told of it.

    If the last one is cut off, the one before counts, unless the two contradict each other.

    Raises:
        ConfigError: there is none that is whole, or it cannot be read.
    """
    last, whole = blocks[-1], [block for block in blocks if block.whole]
    if last.whole:
        return read_block(last, str(path)), []
    if not whole:
        raise ConfigError(
            f"{path} line {last.line}: the configuration is cut off, expected all of it down to "
            "the section model"
        )
    before = read_block(whole[-1], str(path))
    for key, then, now in _contradictions(before, last, path):
        raise ConfigError(
            f"{path} line {last.line}: the last configuration is cut off, and its {key} is {now}, "
            f"but {then} in the one of line {whole[-1].line}"
        )
    note = (
        f"{path} line {last.line}: the last configuration is cut off; the one of line "
        f"{whole[-1].line} is used"
    )
    return before, [note]


def _contradictions(before: Node, last: Block, path: Path) -> Iterator[tuple[str, Any, Any]]:
    """(key, value, other value) of what a part of a configuration says otherwise."""
    try:
        part = read_block(whole_lines(last), str(path))
    except ConfigError:
        return  # less than one section
    end = [key for key, _ in leaves(part)][-1:]  # a list may go on
    then = translate(before, str(path), accepts_null).values
    now = translate(part, str(path), accepts_null).values
    for key, value in now.items():
        if then.get(key, value) != value and not any(name.endswith(key) for name in end):
            yield key, then[key], value


def read_reference(path: str) -> Training:
    """A composed configuration of afford-motion in a file, or the block cut out of a log.

    Raises:
        ConfigError: it cannot be read, or is of something else.
    """
    data = _read(Path(path))
    if data is None:
        raise ConfigError(f"{path}: no such file; reference names a configuration of afford-motion")
    tree = read_block(cut_out(data), path)
    return _training(path, translate(tree, path, accepts_null), [])


def _training(source: str, found: Translation, notes: list[str]) -> Training:
    return Training(
        source=source,
        values=found.values,
        places={key: f"{source} line {found.lines[key]}" for key in found.values},
        refused=tuple(dict.fromkeys(found.refused)),
        no_meaning=found.no_meaning,
        unknown=tuple(found.unknown),
        notes=tuple(notes),
        trained_on=found.values.get("dataset.name"),
    )


def _read(path: Path) -> bytes | None:
    """The bytes of a log; None if it is not there."""
    try:
        size = os.stat(path).st_size
        if size > LARGEST:
            raise ConfigError(
                f"{path}: has {size} bytes, expected at most {LARGEST}. Cut its configuration out "
                "into a file, and name that: --config reference=FILE"
            )
        return read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read ({problem})") from None


def locate(text: str, exp_dir: str | Path | None) -> tuple[str | None, list[str]]:
    """Where a path of the log lies: it is relative to the folder that the training ran in.

    Returns:
        The path, None if nothing is there; and all places that were looked at.
    """
    looked = [os.path.normpath(os.path.expanduser(text))]
    if not os.path.isabs(looked[0]) and exp_dir is not None:
        for folder in (Path(os.path.abspath(exp_dir)), Path(os.path.realpath(exp_dir))):
            above = [parent for parent in folder.parents if parent != parent.parent]
            looked += [os.path.join(parent, looked[0]) for parent in above[:LEVELS]]
    looked = list(dict.fromkeys(looked))
    return next((path for path in looked if os.path.exists(path)), None), looked
