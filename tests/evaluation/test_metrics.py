"""Measures as pure functions: afford-motion's numbers, naive forms, and laws."""

import math

import numpy as np
import pytest

from cdm.evaluation import metrics

RNG = np.random.default_rng(0)
POINTS, JOINTS = 40, 6
PRED, GT = RNG.uniform(0, 2, (2, POINTS, JOINTS))
XYZ = RNG.uniform(-2, 2, (POINTS, 3))
m = metrics.smallest


def test_localisation_measures_are_those_of_afford_motion(parity):
    golden = np.load(parity / "11_postprocess" / "localization_metrics.npz")
    measure = {
        "CPLE": lambda p, g, x, _: metrics.closest_point_error(m(p), m(g), x),
        "CPLE_joints": lambda p, g, x, _: metrics.joint_point_errors(p, g, x),
        "TKCO": lambda p, g, x, k: metrics.top_k_overlap(m(p), m(g), int(k)),
        "WDE": lambda p, g, x, sigma: metrics.weighted_distance_error(p, g, m(g), sigma),
        "IoU": lambda p, g, x, threshold: metrics.contact_iou(m(p), m(g), threshold),
        "SoftLoc": lambda p, g, x, sigma: metrics.soft_localisation(m(p), m(g), x, sigma),
    }
    checked = 0
    for case in "012":
        arrays = [golden[f"{case}.{key}"].astype(np.float64) for key in ("pred", "gt", "xyz")]
        for name in golden.files:
            head, _, argument = name.removeprefix(f"{case}.").partition("@")
            if name.startswith(f"{case}.") and head in measure:
                found = measure[head](*arrays, float(argument or 0))
                np.testing.assert_allclose(found, golden[name], atol=1e-6, err_msg=name)
                checked += 1
    assert checked == 3 * 14


def test_measures_match_their_naive_forms():
    m_pred, m_gt = [min(row) for row in PRED], [min(row) for row in GT]
    closest = XYZ[m_pred.index(min(m_pred))]
    assert metrics.closest_point_error(m(PRED), m(GT), XYZ) == pytest.approx(
        math.dist(closest, XYZ[m_gt.index(min(m_gt))])
    )
    rank = (
        sorted(range(POINTS), key=m_pred.__getitem__),
        sorted(range(POINTS), key=m_gt.__getitem__),
    )
    assert metrics.top_k_overlap(m(PRED), m(GT), 7) == len(set(rank[0][:7]) & set(rank[1][:7])) / 7
    w = [math.exp(-m / 0.2) for m in m_gt]
    errors = [
        sum(abs(a - b) for a, b in zip(p, g, strict=True)) / 6
        for p, g in zip(PRED, GT, strict=True)
    ]
    assert metrics.weighted_distance_error(PRED, GT, m(GT), 0.2) == pytest.approx(
        sum(a * b for a, b in zip(w, errors, strict=True)) / sum(w)
    )
    near, true = (
        {i for i, m in enumerate(m_pred) if m < 0.3},
        {i for i, m in enumerate(m_gt) if m < 0.3},
    )
    assert metrics.contact_iou(m(PRED), m(GT), 0.3) == len(near & true) / len(near | true)
    w = [math.exp(-m / 0.1) for m in m_gt]
    score = [math.exp(-math.dist(point, closest) / 0.1) for point in XYZ]
    assert metrics.soft_localisation(m(PRED), m(GT), XYZ, 0.1) == pytest.approx(
        sum(a * b for a, b in zip(w, score, strict=True)) / sum(w)
    )


def test_true_maps_are_perfect():
    assert metrics.closest_point_error(m(GT), m(GT), XYZ) == 0
    assert not metrics.joint_point_errors(GT, GT, XYZ).any()
    assert metrics.top_k_overlap(m(GT), m(GT), 7) == metrics.contact_iou(m(GT), m(GT), 0.3) == 1
    assert (
        metrics.weighted_distance_error(GT, GT, m(GT), 0.2)
        == metrics.min_distance_error(m(GT), m(GT))
        == 0
    )


def test_ties_count_as_their_random_order_would_on_average():
    tied, other = np.array([0, 0, 0, 0, 1.0, 2]), np.array([5, 0, 1, 2, 3, 4.0])
    rng, overlaps = np.random.default_rng(0), []
    for _ in range(4000):
        first = set(np.lexsort([rng.random(6), tied])[:2].tolist())
        overlaps.append(len(first & {1, 2}) / 2)
    assert metrics.top_k_overlap(tied, other, 2) == pytest.approx(np.mean(overlaps), abs=0.02)
    order = rng.permutation(6)
    assert metrics.top_k_overlap(tied[order], other[order], 2) == metrics.top_k_overlap(
        tied, other, 2
    )


def test_distance_to_points_matches_all_pairs(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 7)
    expected = [min(math.dist(p, q) for q in XYZ[:9]) for p in XYZ]
    np.testing.assert_allclose(metrics.distance_to_points(XYZ, XYZ[:9]), expected, atol=1e-7)


def test_energy_distance_is_near_zero_for_one_distribution_and_large_for_two():
    rng = np.random.default_rng(1)
    same = [metrics.energy_distance(*rng.normal(size=(2, 4, 3))) for _ in range(2000)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
    moved = [
        metrics.energy_distance(*rng.normal([[[0]], [[1]]], size=(2, 4, 3))) for _ in range(300)
    ]
    assert np.mean(moved) > 0.3
    x, y = rng.normal(size=(2, 3, 2))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = 2 * np.mean([math.dist(a, b) for a in x for b in y])
    expected -= sum(np.mean([math.dist(z[i], z[j]) for i, j in pairs]) for z in (x, y))
    assert metrics.energy_distance(x, y) == pytest.approx(expected)
