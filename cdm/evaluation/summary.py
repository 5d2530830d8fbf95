"""Sums up values per item: means and medians with confidence intervals, and tables as text."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cdm.config import EvaluationConfig
from cdm.evaluation.bootstrap import Interval, bootstrap
from cdm.evaluation.measure_table import measure_of, unit_and_meaning


def by_item(keys: Sequence[tuple], rows: Sequence[Mapping[str, float]], names: Sequence[str]):
    """One row per item: the mean over the item's captions, without NaN.

    Captions of one item share its scene and motion. Averaging them first makes items the
    independent units that a bootstrap draws.

    Args:
        keys: of the rows, such as (set, index). Rows with equal keys belong to one item.
        rows: name -> value of each measure.
        names: of the columns.
    Returns:
        (num_items, len(names)) float64; NaN where an item has no value.
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
    """name -> Interval over items, for each column of values (num_items, len(names))."""
    found = bootstrap(
        values,
        medians=[j for j, name in enumerate(names) if measure_of(name).statistic == "median"],
        shares=[j for j, name in enumerate(names) if measure_of(name).is_share],
        resamples=config.resamples,
        confidence=config.confidence,
        seed=config.seed,
    )
    return dict(zip(names, found, strict=True))


def as_json(name: str, interval: Interval) -> dict[str, Any]:
    """An interval, and what is known of its measure."""
    return describe_measure(name) | interval._asdict()


def describe_measure(name: str) -> dict[str, str]:
    """What is known of a measure beside its values: statistic, unit, direction and meaning."""
    measure = measure_of(name)
    unit, meaning = unit_and_meaning(name)
    return {
        "statistic": measure.statistic,
        "unit": unit,
        "better": measure.better,
        "meaning": meaning,
    }


def csv_text(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with columns aligned by spaces: the first to the left, all others to the right."""
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
    """A value as tables show it: four decimals, or `-` if there is none."""
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"
