"""What the log of an experiment tells about its training (no torch).

afford-motion's `train.py` writes its composed configuration into `{exp_dir}/log/runtime.log`: a
line that ends in `[Configuration]`, then YAML up to the next line that begins with a time stamp. A
training that was resumed writes it again, so the last one counts.
"""

import re
from pathlib import Path

import yaml

from cdm.errors import DataError
from cdm.files import read_bytes

SPLITS = ("train", "val", "test", "all")
_CONFIGURATION = re.compile(
    r"^[^\n]*\[Configuration\]\s*\n(.*?)(?=^\d{4}-\d\d-\d\d \d\d:|\Z)", re.MULTILINE | re.DOTALL
)


def trained_split(exp_dir: str | Path) -> str | None:
    """The split that an experiment was trained on: `task.train.phase` in its log.

    Returns:
        "train", "val", "test" or "all"; None if there is no log, or no configuration in it.
    Raises:
        DataError: the log holds a configuration that cannot be read, or that names no such split.
    """
    path = Path(exp_dir, "log", "runtime.log")
    try:
        text = read_bytes(path).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(_problem(path, error.strerror or str(error))) from None
    blocks = _CONFIGURATION.findall(text)
    if not blocks:
        return None
    try:
        phase = yaml.safe_load(blocks[-1])["task"]["train"]["phase"]
    except (yaml.YAMLError, KeyError, TypeError, RecursionError, ValueError):
        raise DataError(_problem(path, "its last configuration has no task.train.phase")) from None
    if phase not in SPLITS:
        raise DataError(_problem(path, f"task.train.phase is {phase!r}"))
    return phase


def _problem(path: Path, found: str) -> str:
    return (
        f"{path}: {found}; expected the split that the model was trained on, as its statistics "
        "have to be computed. Set dataset.statistics_phase to that split, or name the file of "
        "statistics in dataset.statistics"
    )
