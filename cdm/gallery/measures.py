"""What an evaluation said of each sample: its items.csv, read without the evaluation's code."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from cdm.archive.checks import verify_file
from cdm.errors import ArchiveError
from cdm.files import read_bytes, unseal
from cdm.gallery.items import Measured

FOUND, ERRORS = "found_target", ("pelvis_point_error", "CPLE")  # the first error that is there


def measured_of(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str, int], Measured]:
    """(set, index, caption_idx) -> what was measured, of the rows of an items.csv."""
    found = {}
    for row in rows:
        errors = (_number(row, name) for name in ERRORS)
        error = next((each for each in errors if each is not None), None)
        key = (row["set"], row["index"], int(row["caption_idx"]))
        found[key] = Measured(_number(row, FOUND), error)
    return found


def read_measured(path: Path) -> dict[tuple[str, str, int], Measured]:
    """(set, index, caption_idx) -> what was measured, of an evaluation's items.csv.

    Raises:
        ArchiveError: the file cannot be read, or is no such table.
    """
    try:
        text = read_bytes(path).decode("utf-8")
        return measured_of(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ArchiveError(
            f"{path}: not the items of an evaluation ({type(error).__name__}: {error}); remove the "
            "evaluation-*.json beside it, and run snakemake evaluate again"
        ) from None


def find_measured(run: Path, plan: str) -> dict[tuple[str, str, int], Measured]:
    """The measures of a run's present archive; empty if it was not evaluated since it was merged.

    Args:
        run: the run's folder.
        plan: fingerprint of its plan.
    """
    for record in sorted(Path(run, "report").glob("evaluation-*.json")):
        try:
            content = unseal(read_bytes(record))
            table = record.parent / "items.csv"
            whole = verify_file(table, content["files"][table.name]) is None
            if content["plan"] == plan and whole:
                return read_measured(table)
        except (OSError, ValueError, KeyError, TypeError, ArchiveError):
            continue  # the same command evaluates again; here, it is as if nobody had
    return {}


def _number(row: Mapping[str, str], name: str) -> float | None:
    text = row.get(name) or ""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
