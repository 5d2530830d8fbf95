"""Bootstrap confidence intervals over items (Efron and Tibshirani 1993, percentile intervals)."""

from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A statistic with its confidence interval.

    Attributes:
        value: the statistic over all items; NaN if no item has a value.
        low, high: the ends of the interval.
        num_items: how many items have a value.
    """

    value: float
    low: float
    high: float
    num_items: int

    def __contains__(self, value: Any) -> bool:
        return self.low <= value <= self.high


def bootstrap(
    values, medians=(), shares=(), resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> list[Interval]:
    """A confidence interval for each column, from items drawn with replacement.

    All columns use the same draws of items. A draw depends only on the number of items and on
    the seed, so the same items give the same interval in every table.

    Args:
        values: (num_items, num_columns); NaN where an item has no value.
        medians: columns whose statistic is the median. All other columns use the mean.
        shares: columns whose values lie between 0 and 1. If all items have 0 (or all 1), the
            bootstrap interval is a single point, although other items may well have another
            value. The exact binomial interval is returned then (Clopper and Pearson 1934).
        resamples: number of draws.
        confidence: share of the draws whose statistic lies inside the interval.
        seed: of `numpy.random.default_rng`.
    Returns:
        One `Interval` per column, in the order of the columns.
    """
    # What every draw needs: the values, where there are any, and each median column sorted.
    values = np.asarray(values, np.float64)
    num_items, num_columns = values.shape
    there = np.isfinite(values)
    filled, counted = np.where(there, values, 0), there.astype(np.float64)
    sorted_columns = {j: _sorted(values[:, j]) for j in medians}

    def statistics(counts) -> np.ndarray:
        """The statistic of each column, if item i is drawn counts[i] times."""
        with np.errstate(invalid="ignore"):  # 0 / 0 if no drawn item has a value
            row = (counts @ filled) / (counts @ counted)
        for j, (order, ordered) in sorted_columns.items():
            row[j] = _median(ordered, counts[order])
        return row

    # The statistics of every draw.
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, num_columns))
    for draw in draws:
        drawn = rng.integers(0, num_items, num_items)
        draw[:] = statistics(np.bincount(drawn, minlength=num_items))

    # Percentiles of the draws, column by column.
    tail = 50 * (1 - confidence)
    intervals = []
    for j, value in enumerate(statistics(np.ones(num_items, np.int64))):
        known = draws[np.isfinite(draws[:, j]), j]
        low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (np.nan, np.nan)
        count = int(there[:, j].sum())
        if j in shares and value in (0, 1):
            low, high = _exact_interval(value, count, tail / 100)
        intervals.append(Interval(float(value), float(low), float(high), count))
    return intervals


def _exact_interval(value: float, count: int, tail: float) -> tuple[float, float]:
    """Clopper-Pearson interval of a share that all `count` items have (1) or none has (0).

    Its inner end is the share with which that outcome has the probability `tail`.
    """
    unseen = 1 - tail ** (1 / count)
    return (0, unseen) if value == 0 else (1 - unseen, 1)


def _sorted(column) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a column's finite values in ascending order, and these values."""
    order = np.argsort(column, kind="stable")[: np.isfinite(column).sum()]  # NaN sorts last
    return order, column[order]


def _median(ordered, counts) -> float:
    """Median of values in ascending order, of which each is repeated `counts` times."""
    places = np.cumsum(counts)
    total = places[-1] if len(places) else 0
    if not total:
        return np.nan
    middle = np.searchsorted(places, [(total - 1) // 2, total // 2], side="right")
    return float(ordered[middle].mean())
