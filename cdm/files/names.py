"""Names and paths that people type, or that stand in files from elsewhere."""

import os
import re

from cdm.errors import CDMError, ConfigError, DataError

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def expand_path(path: str, key: str) -> str:
    """A path with `~` and `$VARIABLES` replaced, as a shell does; one that exists is kept.

    Args:
        key: what the path is given for, named in the message.
    Raises:
        ConfigError: an unknown user, a variable that is not set, or a control character.
    """
    if _has_control(path):
        raise ConfigError(
            f"{key}: found {path!r}, expected a path without line ends and control characters"
        )
    if os.path.lexists(path):
        return path
    expanded = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$(\w+|\{\w+\})", expanded)
    if unset or (expanded == path and path.startswith("~")):
        what = f"the variable {unset[0]} is not set" if unset else "there is no such user"
        raise ConfigError(f"{key}: found {path!r}, but {what}; set it, or write the path in full")
    return expanded


def safe_name(name: str, place: str, error: type[CDMError] = DataError) -> str:
    """The name, if it can only ever be one file or folder inside the folder it is joined to.

    Names in splits, tables, records and archives come from elsewhere. An absolute one, or one
    with `..`, would be read or written outside the data folder or the run.

    Args:
        place: where the name stands, for the message.
        error: class of the error.
    Raises:
        CDMError: the name is empty, `.` or `..`, or has a slash or a control character.
    """
    if name in ("", ".", "..") or "/" in name or _has_control(name):
        raise error(
            f"{place}: found the name {name!r}, expected the name of one file: without slashes, "
            "control characters or '..'; correct it there"
        )
    return name


def _has_control(text: str) -> bool:
    """Whether a NUL, a line end or another control character is in the text."""
    return CONTROL.search(text) is not None
