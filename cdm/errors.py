"""Errors a user meets: where, what was found, what was expected, what to type next.

Rules and scripts print the message of a `CDMError` without a traceback; anything else that
escapes is a defect of this program and keeps its traceback.
"""

import re
from collections.abc import Iterable

# Characters that a terminal obeys instead of showing them, or that hide or reorder others:
# control characters but tab and newline, line separators, marks of writing direction, and
# halves of a surrogate pair, which stand for bytes of a file name that are no text.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: object, encoding: str | None = None) -> str:
    r"""Text as it may be written to a terminal or a log.

    Captions, file names and logs come from elsewhere. A terminal would obey an escape sequence in
    them, so such characters are written as `\u001b`, as JSON writes them. So is what the encoding
    cannot express (a locale may be plain ASCII).

    Args:
        text: lines of text, or JSON; escaped JSON still reads as the same value.
        encoding: of the stream it goes to; None for UTF-8.
    """
    text = _UNSAFE.sub(_escaped, str(text))
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        text = re.sub(r"[^\x00-\x7f]", _escaped, text)
    return text


def _escaped(match: re.Match) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def listed(entries: Iterable, most: int, separator: str = "\n  ") -> str:
    """The first `most` entries joined by the separator, then how many more there are.

    A message about 40,000 files stays readable: "a, b, ... and 39998 more".
    """
    entries = list(entries)
    more = [f"... and {len(entries) - most} more"] if len(entries) > most else []
    return separator.join([*map(str, entries[:most]), *more])


class CDMError(Exception):
    """Base of every error whose message is written for the person at the keyboard.

    Its text is `printable`: it may quote a caption or name a file.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(CDMError):
    """The configuration is incomplete, contradicts itself, or names something unknown."""


class DataError(CDMError):
    """A dataset folder, an index file or the statistics are not what they should be."""


class Unreachable(CDMError):
    """A server with data does not answer, or refuses to.

    It is no `DataError`: what cannot be reached now is neither missing nor damaged, so it is never
    skipped.
    """


class BadItem(DataError):
    """One item cannot be used (missing key, wrong shape, NaN, too few points).

    `dataset.on_bad_item` decides whether it ends the chunk or is skipped and recorded.
    """


class CheckpointError(CDMError):
    """A checkpoint or an encoder's weights are missing, damaged, or of another architecture."""


class NoCheckpoint(CheckpointError):
    """An experiment folder has no ckpt/model*.pt."""


class NotTrained(NoCheckpoint):
    """The run's own folder is where the checkpoint will be, and it is not there yet."""


class RunEnded(CDMError):
    """The Snakemake that started a job has ended before the job began to compute."""


class ArchiveError(CDMError):
    """A chunk or an archive is missing, damaged, or belongs to another plan."""
