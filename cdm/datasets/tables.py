"""Index files: splits, tables and captions, read strictly, because a wrong row moves all others."""

import csv
import io
import math
import re
from pathlib import Path
from typing import NamedTuple

from cdm.datasets.files import REBUILD, quick_path, read_regular
from cdm.errors import BadItem, DataError, listed
from cdm.files import Place, RemotePath, list_names, safe_name, utf8_text

COLUMNS = ("scene_id", "scene_trans_x", "scene_trans_y", "scene_trans_z", "utterance")
FARTHEST_M = 1e7  # the largest offset; even map projections of the earth stay below
LONGEST = 300  # characters of a row that a message shows
# What pandas calls the column of its row numbers. Each time a table is read and written again, one
# more such column comes before those that it has.
ROW_NUMBERS = re.compile(r"|Unnamed: 0(\.[0-9]+)?")
# What `reset_index` of pandas calls them. Such a column may be somebody's own, so it has to hold
# each row's number once before it is taken for that.
RESET_NUMBERS = ("index", "level_0")
# Captions that pandas reads as a missing value, so that afford-motion sees none.
PANDAS_MISSING = frozenset(
    "|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan"
    "|null".split("|")
)
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class NoIndex(DataError):
    """There is no such index file."""


class AnnoRow(NamedTuple):
    """One row of an anno.csv."""

    scene_id: str
    scene_trans: tuple[float, float, float]  # metres
    utterance: str  # "" where pandas, by which afford-motion reads tables, finds none

    def captions(self) -> list[tuple[int, str]]:
        """(caption_idx, text) of the captions, which `$$` separates; blank ones are no captions."""
        return [(i, text) for i, text in self.parts() if text.strip()]

    def parts(self) -> list[tuple[int, str]]:
        """What afford-motion draws a caption from: blank parts beside others count."""
        return list(enumerate(self.utterance.split("$$"))) if self.utterance else []


def read_index(data_dir: Place, relpath: str) -> str:
    """Text of an index file (split, table, captions).

    Lines end with LF, CRLF or CR, and all become LF. A byte order mark is left out, also at the
    beginning of a later line, where files were joined: it would be part of a name or a caption.

    Raises:
        DataError: not there (`NoIndex`), not a plain file, or not UTF-8; says what was looked for.
        Unreachable: it lies on a server that does not answer.
    """
    path = quick_path(data_dir, relpath)
    try:
        text = utf8_text(read_regular(path)[0])
    except BadItem as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise NoIndex(_missing(data_dir, data_dir / relpath, relpath)) from error
        # Such a file is of all items, so it is never skipped.
        raise DataError(str(error).replace(REBUILD, "restore it")) from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    return text.replace("\n\ufeff", "\n")


def _missing(data_dir: Place, path: Place, relpath: str) -> str:
    if isinstance(data_dir, RemotePath):
        holds = listed(sorted(list_names(path.parent)), 8, ", ")
        found = f"; {path.parent} holds {holds}" if holds else ""
        return (
            f"{path}: the server has no such file{found}; check dataset.data_dir (the URL of the "
            "data folder that holds the sets), dataset.name, dataset.sets and dataset.phase"
        )
    if not data_dir.is_dir():
        found = "is a file" if data_dir.exists() else "no such folder"
        return (
            f"{data_dir}: {found} (looked for {relpath} in it); set dataset.data_dir to "
            "the data folder that holds the sets"
        )
    folder = next(parent for parent in Path(str(path)).parents if parent.is_dir())
    names = sorted(list_names(folder))
    beside = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
    return (
        f"{path}: no such file; {folder} holds {beside}; check dataset.data_dir, "
        "dataset.name, dataset.sets and dataset.phase"
    )


def read_lines(data_dir: Place, relpath: str) -> list[str]:
    """Lines of an index file.

    Not by `str.splitlines`, which also ends a line at a form feed, U+0085 or U+2028: those occur
    inside captions.
    """
    return read_index(data_dir, relpath).split("\n")


def read_row_numbers(data_dir: Place, relpath: str) -> set[int]:
    """Row numbers that a split file lists.

    Raises:
        DataError: something else than ASCII digits; int() would read 1_0 as 10.
    """
    numbers = set()
    for line_number, line in enumerate(read_lines(data_dir, relpath), start=1):
        for word in re.split(r"[ \t]+", line.strip(" \t")) if line.strip() else ():
            if not re.fullmatch(r"[0-9]{1,18}", word):
                found = line.strip(" \t")
                raise DataError(
                    f"{data_dir / relpath}: line {line_number} is {found!r}, expected a row number "
                    "such as 000012"
                )
            numbers.add(int(word))
    return numbers


def read_table(data_dir: Place, relpath: str) -> list[AnnoRow]:
    """Rows of an anno.csv; the position in the list is the item's index.

    Raises:
        DataError: a column is missing, or a row has not the header's number of fields, an unclosed
            quote, or an offset that is no number of metres.
    """
    # The fields of each row, with the line in which the row begins.
    path, text = data_dir / relpath, read_index(data_dir, relpath)
    reader = csv.reader(io.StringIO(text), strict=True)
    numbered: list[tuple[int, list[str]]] = []
    try:
        begin = 1
        for fields in reader:
            if fields:
                numbered.append((begin, fields))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: row {max(len(numbered) - 1, 0)}, which begins in line {begin}, is no csv "
            f"({error}); a caption with a comma or a quote stands in double quotes, in which a "
            "quote is doubled, and every quote is closed"
        ) from error
    # What the fields mean, by the header.
    header = numbered[0][1] if numbered else []
    _check_header(path, header)
    columns = [header.index(name) for name in COLUMNS]
    rows = []
    for number, (line, fields) in enumerate(numbered[1:]):
        place = f"{path}: row {number} (line {line})"
        if len(fields) != len(header):
            raise DataError(
                f"{place} has {len(fields)} fields, expected {len(header)} as in the header: "
                f"{_shown(fields)}; put a caption that holds a comma in double quotes"
            )
        if any("\n" in field for field in fields):
            inner = text.split("\n")[line : line + sum(field.count("\n") for field in fields)]
            _refuse_swallowed_rows(place, inner, columns[1:4])
        rows.append(_parse_row(place, fields, columns))
    _refuse_moved_rows(path, header, numbered[1:])
    return rows


def _check_header(path: Place, header: list[str]) -> None:
    absent = [name for name in COLUMNS if name not in header]
    if absent:
        raise DataError(
            f"{path}: columns {', '.join(absent)} are missing, found "
            f"{', '.join(header) or 'none'}; the first line must name {', '.join(COLUMNS)}"
        )
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]} comes twice, expected once in the first line")


def _refuse_moved_rows(path: Place, header: list[str], rows: list[tuple[int, list[str]]]) -> None:
    """Refuse a table that pandas wrote with row numbers, once its rows were sorted or taken out.

    An item's files have the number of its row. So a caption in another row is that of another item.
    """
    for column, name in enumerate(header):
        if not (ROW_NUMBERS.fullmatch(name) or name in RESET_NUMBERS):
            continue
        if not all(re.fullmatch("[0-9]{1,18}", row[column]) for _, row in rows):
            continue
        numbers = [int(row[column]) for _, row in rows]
        if ROW_NUMBERS.fullmatch(name) or sorted(numbers) == list(range(len(rows))):
            _refuse_other_numbers(path, name, [line for line, _ in rows], numbers)


def _refuse_other_numbers(path: Place, name: str, lines: list[int], numbers: list[int]) -> None:
    """Refuse a column of row numbers that do not count from 0 on; `lines` say where each is."""
    for expected, (line, number) in enumerate(zip(lines, numbers, strict=True)):
        if number != expected:
            raise DataError(
                f"{path}: row {expected} (line {line}) has the number {number} in the column "
                f"{name!r}, so rows were sorted or taken out since they were numbered. "
                f"An item's files have the number of its row, from 0 on, so expected {expected}. "
                "Restore the order of the rows, or take that column out if the files were numbered "
                "anew"
            )


def _shown(fields: list[str]) -> str:
    """The fields of a row, cut where a message would fill the screen."""
    text = str(fields)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _refuse_swallowed_rows(place: str, lines: list[str], columns: list[int]) -> None:
    """Refuse a row that runs on over lines that look like rows of their own.

    A quote that is opened and never closed ends at the next quote, and swallows the rows between.
    """
    for line in lines:
        words = line.split(",")
        if len(words) > max(columns) and all(NUMBER.fullmatch(words[i]) for i in columns):
            raise DataError(
                f"{place} runs on over {line[:LONGEST]!r}, which looks like a row of its own; "
                "close the quote that is open before it"
            )


def _parse_row(place: str, fields: list[str], columns: list[int]) -> AnnoRow:
    scene, x, y, z, utterance = (fields[column] for column in columns)
    words = (text.strip(" \t") for text in (x, y, z))
    offset = [float(word) if NUMBER.fullmatch(word) else math.nan for word in words]
    if not all(abs(value) <= FARTHEST_M for value in offset):
        raise DataError(
            f"{place} is {_shown(fields)}, expected finite numbers of metres, at most "
            f"{FARTHEST_M:g}, in scene_trans_x, scene_trans_y and scene_trans_z"
        )
    if scene:
        safe_name(scene, f"{place}: scene_id", DataError)
    caption = "" if utterance in PANDAS_MISSING else utterance
    return AnnoRow(scene, (offset[0], offset[1], offset[2]), caption)
