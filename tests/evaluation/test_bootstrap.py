"""Bootstrap intervals: their naive form, what they cover, and shares that all items have."""

import math

import numpy as np
import pytest

from cdm.evaluation.bootstrap import Interval, bootstrap


def test_bootstrap_matches_its_naive_form():
    rng = np.random.default_rng(3)
    values = rng.gamma(2, size=(31, 3))
    values[::4, 1] = np.nan
    found = bootstrap(values, medians=[2], resamples=200, confidence=0.9, seed=7)
    rng = np.random.default_rng(7)
    draws = [values[rng.integers(0, 31, 31)] for _ in range(200)]
    for j, statistic in enumerate((np.nanmean, np.nanmean, np.nanmedian)):
        each = [statistic(draw[:, j]) for draw in draws]
        expected = [statistic(values[:, j]), *np.percentile(each, [5, 95])]
        np.testing.assert_allclose(found[j][:3], expected, rtol=1e-12)
    assert [interval.num_items for interval in found] == [31, 23, 31]


def test_bootstrap_intervals_cover_the_true_mean():
    rng = np.random.default_rng(4)
    samples = rng.normal(1, 2, size=(60, 200))  # 200 experiments of 60 items
    covered = [1 in interval for interval in bootstrap(samples, resamples=400)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_a_share_that_all_items_have_is_not_known_exactly():
    values = np.array([[1.0, 0, 1, 1]] * 50)
    values[0, 3] = 0.5
    ones, zeros, metres, some = bootstrap(values, shares=[0, 1, 3], confidence=0.9)
    # The ends are the shares with which 50 items out of 50 have a probability of 5 %.
    assert ones[:2] == (1, pytest.approx(0.05 ** (1 / 50))) and ones.high == 1
    assert zeros[:3] == (0, 0, pytest.approx(1 - 0.05 ** (1 / 50)))
    assert metres[:3] == (1, 1, 1)
    assert some == bootstrap(values, confidence=0.9)[3]

    rare = np.random.default_rng(0).random((50, 1000)) < 0.99
    covered = [0.99 in interval for interval in bootstrap(rare, shares=range(1000), resamples=100)]
    assert np.mean(covered) > 0.9  # without the rule 0.4: 50 of 50 is the most frequent outcome


def test_bootstrap_knows_single_and_missing_values():
    one, none = bootstrap(np.array([[2.0, np.nan]]))
    assert one == Interval(2, 2, 2, 1)
    assert none.num_items == 0 and math.isnan(none.value)
