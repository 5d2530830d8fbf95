"""samples.tsv: the samples of a plan as a table, one row each, in the order of the archive."""

import csv
import io
from collections.abc import Iterable
from itertools import islice
from typing import BinaryIO, Literal

from cdm.datasets import Sample

COLUMNS = ("chunk", "set", "index", "caption_idx", "scene_id", "x", "y", "z", "text")


def row_of(sample: Sample) -> list:
    """What identifies a sample and decides its numbers, in the order of COLUMNS after the chunk."""
    return [
        sample.set,
        sample.index,
        sample.caption_idx,
        sample.scene_id,
        *map(float, sample.scene_trans),
        sample.text,
    ]


def table_header() -> bytes:
    """The first line."""
    return ("\t".join(COLUMNS) + "\n").encode()


def table_rows(number: int, samples: Iterable[Sample]) -> bytes:
    """The lines of chunk `number`."""
    rows = [[number, *row_of(sample)] for sample in samples]
    text = _as_csv(rows, csv.QUOTE_MINIMAL)
    # Python's csv does not quote a carriage return, but reads it as the end of a row.
    return (_as_csv(rows, csv.QUOTE_ALL) if "\r" in text else text).encode()


def _as_csv(rows: list[list], quoting: Literal[0, 1]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n", quoting=quoting).writerows(rows)
    return text.getvalue()


def read_rows(file: BinaryIO, num_rows: int) -> list[Sample]:
    """The next rows of an open table, at most `num_rows`.

    Raises:
        ValueError: the bytes are not rows of this table.
    """
    text = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        rows = csv.reader(text, delimiter="\t")
        return [_sample(row) for row in islice(rows, num_rows)]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    finally:
        text.detach()  # the file is the caller's to close


def _sample(row: list[str]) -> Sample:
    _, set, index, caption_idx, scene_id, x, y, z, text = row
    return Sample(
        set=set,
        index=index,
        caption_idx=int(caption_idx),
        text=text,
        scene_id=scene_id,
        scene_trans=(float(x), float(y), float(z)),
    )
