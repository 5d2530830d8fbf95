"""Errors a user meets: where, what was found, what was expected, what to type next.

Rules and scripts print the message of a `CDMError` without a traceback; anything else that
escapes is a defect of this program and keeps its traceback.
"""

from collections.abc import Iterable


def listed(entries: Iterable, most: int, separator: str = "\n  ") -> str:
    """The first `most` entries joined by the separator, then how many more there are.

    A message about 40,000 files stays readable: "a, b, ... and 39998 more".
    """
    entries = list(entries)
    more = [f"... and {len(entries) - most} more"] if len(entries) > most else []
    return separator.join([*map(str, entries[:most]), *more])


class CDMError(Exception):
    """Base of every error whose message is written for the person at the keyboard."""


class ConfigError(CDMError):
    """The configuration is incomplete, contradicts itself, or names something unknown."""


class DataError(CDMError):
    """A dataset folder, an index file or the statistics are not what they should be."""


class BadItem(DataError):
    """One item cannot be used (missing key, wrong shape, NaN, too few points).

    `dataset.on_bad_item` decides whether it ends the chunk or is skipped and recorded.
    """


class CheckpointError(CDMError):
    """A checkpoint or an encoder's weights are missing, damaged, or of another architecture."""


class NotTrained(CheckpointError):
    """The run's own folder is where the checkpoint will be, and it is not there yet."""


class ArchiveError(CDMError):
    """A chunk or an archive is missing, damaged, or belongs to another plan."""
