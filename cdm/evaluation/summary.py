"""Per-item values summed up: means and medians with confidence intervals, whole and by group."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cdm.config import EvaluationConfig
from cdm.evaluation.bootstrap import Interval, bootstrap
from cdm.evaluation.measure import BEST, describe, higher_is_better, is_share, statistic

ORDER = (  # as tables list them
    "found_target",
    "found_target_chance",
    "pelvis_point_error",
    "dist_to_target",
    "CPLE",
    "TKCO",
    "WDE",
    "IoU",
    "SoftLoc",
    "min_dist_error",
    "diversity",
    "pelvis_point_spread",
)
HEADLINES = (  # of short tables and figures, where they were measured
    "found_target",
    "pelvis_point_error",
    "dist_to_target_average",
    "CPLE",
    "TKCO@100",
    "WDE@0.2",
    "IoU@0.2",
    "SoftLoc@0.1",
    "diversity",
)


def headlines(measures: Iterable[str]) -> list[str]:
    """The measures that short tables and figures show."""
    return [name for name in HEADLINES if name in measures]


def sort_names(names: Iterable[str]) -> list[str]:
    """Measures in the order of the tables: whole scene, target alone, best of several maps."""
    names = list(names)

    def key(name: str):
        bare = name.removeprefix(BEST).rpartition("/")[2]
        [place] = [i for i, start in enumerate(ORDER) if bare.startswith(start)][-1:]
        return name.startswith(BEST), "/" in name.removeprefix(BEST), place, names.index(name)

    return sorted(names, key=key)


def by_item(keys: Sequence[tuple], rows: Sequence[Mapping[str, float]], names: Sequence[str]):
    """One row per item, (num_items, len(names)): the mean over an item's captions, NaN left out.

    Args:
        keys: of the rows, such as (set, index): equal ones are one item.
        rows: values of each measure.
        names: columns.
    """
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)
    items = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    if len(items) == len(keys):
        return values
    of_row = [items[key] for key in keys]
    there = np.isfinite(values)
    total, count = np.zeros((2, len(items), len(names)))
    np.add.at(total, of_row, np.where(there, values, 0))
    np.add.at(count, of_row, there)
    with np.errstate(invalid="ignore"):
        return total / count


def intervals(values: np.ndarray, names: Sequence[str], config: EvaluationConfig):
    """name -> Interval over items of each column of (num_items, len(names)) values."""
    found = bootstrap(
        values,
        medians=[j for j, name in enumerate(names) if statistic(name) == "median"],
        shares=[j for j, name in enumerate(names) if is_share(name)],
        resamples=config.resamples,
        confidence=config.confidence,
        seed=config.seed,
    )
    return dict(zip(names, found, strict=True))


def as_json(name: str, interval: Interval) -> dict[str, Any]:
    """An interval and what it is of."""
    unit, meaning = describe(name)
    return {
        "statistic": statistic(name),
        "unit": unit,
        "better": "higher" if higher_is_better(name) else "lower",
        "meaning": meaning,
        **interval._asdict(),
    }


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by spaces, the first to the left, the others to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        first, *others = (cell for cell in row)
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """A value as tables show it; `-` where there is none."""
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"
