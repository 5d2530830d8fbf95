"""Bootstrap confidence intervals over items (Efron and Tibshirani 1993, percentile intervals)."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A statistic with its confidence interval.

    Attributes:
        value: of all items; NaN where no item has a value.
        low, high: ends of the interval.
        num_items: items that have a value.
    """

    value: float
    low: float
    high: float
    num_items: int

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def bootstrap(
    values, medians=(), shares=(), resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> list[Interval]:
    """An interval for each column, items drawn with replacement.

    All columns share each draw of items, and a draw depends on the number of items and the seed
    alone.

    Args:
        values: (num_items, num_columns); NaN where an item has no value.
        medians: columns whose statistic is the median; the others' is the mean.
        shares: columns of values from 0 to 1. Where all items have 0, or all have 1, every draw is
            the same, yet other items may differ: the interval then reaches to the share of items
            that so many would all miss in (1 - confidence) / 2 of the cases (Clopper and Pearson
            1934).
        resamples: draws.
        confidence: share of the draws' statistics inside an interval.
        seed: of `numpy.random.default_rng`.
    """
    values = np.asarray(values, np.float64)
    num_items, num_columns = values.shape
    there = np.isfinite(values)
    filled, counted = np.where(there, values, 0), there.astype(np.float64)
    sorted_columns = {j: _sorted(values[:, j]) for j in medians}

    def statistics(counts) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a draw may hold no item that has a value
            row = (counts @ filled) / (counts @ counted)
        for j, (order, ordered) in sorted_columns.items():
            row[j] = _median(ordered, counts[order])
        return row

    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, num_columns))
    for draw in draws:
        drawn = rng.integers(0, num_items, num_items)
        draw[:] = statistics(np.bincount(drawn, minlength=num_items))
    tail = 50 * (1 - confidence)
    intervals = []
    for j, value in enumerate(statistics(np.ones(num_items, np.int64))):
        known = draws[np.isfinite(draws[:, j]), j]
        low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (np.nan, np.nan)
        count = int(there[:, j].sum())
        if j in shares and value in (0, 1):
            unseen = 1 - (tail / 100) ** (1 / count)
            low, high = (0, unseen) if value == 0 else (1 - unseen, 1)
        intervals.append(Interval(float(value), float(low), float(high), count))
    return intervals


def _sorted(column) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a column's values in ascending order, and the values."""
    order = np.argsort(column, kind="stable")[: np.isfinite(column).sum()]  # NaN sorts last
    return order, column[order]


def _median(ordered, counts) -> float:
    """Median of ascending values, each repeated `counts` times."""
    places = np.cumsum(counts)
    total = places[-1] if len(places) else 0
    if not total:
        return np.nan
    middle = np.searchsorted(places, [(total - 1) // 2, total // 2], side="right")
    return float(ordered[middle].mean())
