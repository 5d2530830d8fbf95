"""What the log of an experiment tells about the items that its model was trained on (no torch)."""

from pathlib import Path
from typing import Any

from cdm.config.composed import Node, Unresolved, find_blocks, resolved
from cdm.config.training_log import RUNTIME_LOG, last_configuration
from cdm.errors import ConfigError, DataError
from cdm.files import read_bytes

SPLITS = ("train", "val", "test", "all")


def trained_split(exp_dir: str | Path) -> str | None:
    """The split that an experiment was trained on: `task.train.phase` in its log.

    The logs of test runs do not tell it, because their configuration is that of the test.

    Returns:
        "train", "val", "test" or "all"; None if there is no log, or no configuration in it.
    Raises:
        DataError: the log holds a configuration that cannot be read, or that names no such split.
    """
    path = Path(exp_dir, RUNTIME_LOG)
    try:
        blocks = find_blocks(read_bytes(path))
        if not blocks:
            return None
        phase = _value(last_configuration(path, blocks)[0], "task.train.phase")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {_ADVICE}") from None
    except ConfigError as error:
        raise DataError(f"{path}: no configuration can be read ({error}); {_ADVICE}") from None
    if phase is None:
        raise DataError(f"{path}: its last configuration has no task.train.phase; {_ADVICE}")
    if phase not in SPLITS:
        raise DataError(f"{path}: task.train.phase is {phase!r}; {_ADVICE}")
    return phase


def _value(tree: Node, key: str) -> Any:
    try:
        return resolved(tree, key)
    except (KeyError, Unresolved):
        return None


_ADVICE = (
    "expected the split that the model was trained on, as its statistics have to be computed. Set "
    "dataset.statistics_phase to that split, or name the file of statistics in dataset.statistics"
)
