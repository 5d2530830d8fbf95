"""Measures of contact maps: pure functions of distances and points, all in float64.

Names and definitions are those of the reference's evaluator and of its localisation script.
Shapes: `pred` and `gt` (num_points, contact_dim) metres, generated and true distance of each
joint to each point; `m_pred` and `m_gt` (num_points,) the smallest of a point's joint distances;
`xyz` (num_points, 3) metres.
"""

import numpy as np

BLOCK = 256  # rows of a table of pairwise distances held at a time


def smallest(distance) -> np.ndarray:
    """m: the smallest of each point's joint distances, (num_points,)."""
    return np.minimum.reduce(list(distance.T))  # many times faster than min(axis=1)


def closest_point_error(m_pred, m_gt, xyz) -> float:
    """CPLE: metres between the points of smallest m, generated and true; ties: the first one."""
    return float(_lengths(xyz[m_pred.argmin()] - xyz[m_gt.argmin()]))


def joint_point_errors(pred, gt, xyz) -> np.ndarray:
    """CPLE of each joint by itself, (contact_dim,) metres."""
    return _lengths(xyz[pred.argmin(axis=0)] - xyz[gt.argmin(axis=0)])


def top_k_overlap(m_pred, m_gt, k: int) -> float:
    """TKCO@k: share of the k truly closest points among the k generated closest ones.

    Points that tie for the last places each count with their share of them, which is the expected
    overlap of ties broken at random (generated contact of many points is exactly 1; the reference
    takes those that numpy's sort happens to put first). With k above num_points it reaches
    num_points / k at most, as in the reference.
    """
    return float(_top_k(m_pred, k) @ _top_k(m_gt, k)) / k


def _top_k(values, k: int) -> np.ndarray:
    """Weight of each value among the k smallest: 1, 0, or a share of the places left to ties."""
    if k >= len(values):
        return np.ones(len(values))
    last = np.partition(values, k - 1)[k - 1]
    below, tied = values < last, values == last
    return below + tied * ((k - below.sum()) / tied.sum())


def weighted_distance_error(pred, gt, m_gt, sigma: float) -> float:
    """WDE: mean |pred - gt| over joints, points weighted by exp(-m_gt / sigma); metres."""
    errors = np.abs(pred - gt) @ np.full(pred.shape[1], 1 / pred.shape[1])
    weights = _weights(m_gt, sigma)
    return float(weights @ errors / weights.sum())


def contact_iou(m_pred, m_gt, threshold: float) -> float:
    """Intersection over union of the points with m below a threshold (metres); 1 without any."""
    a, b = m_pred < threshold, m_gt < threshold
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def soft_localisation(m_pred, m_gt, xyz, sigma: float) -> float:
    """SoftLoc: exp(-|p - generated closest point| / sigma), averaged with WDE's weights."""
    away = _lengths(xyz - xyz[m_pred.argmin()])
    weights = _weights(m_gt, sigma)
    return float(weights @ np.exp(-away / sigma) / weights.sum())


def min_distance_error(m_pred, m_gt) -> float:
    """Difference of the smallest distance to any point, metres."""
    return float(abs(m_pred.min() - m_gt.min()))


def distance_to_target(pred, thresholds) -> dict[str, float]:
    """dist_to_target_*: how close the body comes to the target object.

    Args:
        pred: generated distances of the target's points only, (num_target_points, contact_dim).
        thresholds: metres.
    Returns:
        the threshold's name -> whether any joint comes closer than it (0 or 1); `average` over
        points and joints; `min_average`, over points, of the closest joint; metres.
    """
    within = {f"dist_to_target_{t:g}": float(pred.min() < t) for t in thresholds}
    return within | {
        "dist_to_target_average": float(pred.mean()),
        "dist_to_target_min_average": float(smallest(pred).mean()),
    }


def distance_to_points(xyz, points) -> np.ndarray:
    """Metres from each of xyz (n, 3) to the nearest of some points (m, 3); (n,)."""
    towards, squared = -2 * points.T, np.square(points).sum(axis=1)
    nearest = np.square(xyz).sum(axis=1)
    for start in range(0, len(xyz), BLOCK):
        part = slice(start, start + BLOCK)
        table = xyz[part] @ towards
        table += squared
        nearest[part] += table.min(axis=1)
    return np.sqrt(np.maximum(nearest, 0))


def mean_pairwise(distances) -> float:
    """Mean of a symmetric (k, k) table over pairs of two different ones; NaN for k = 1."""
    k = len(distances)
    return float((distances.sum() - np.trace(distances)) / (k * (k - 1))) if k > 1 else np.nan


def pairwise_distances(a, b) -> np.ndarray:
    """Euclidean distances of rows, (len(a), len(b))."""
    return np.stack([_lengths(b - row) for row in a])


def energy_distance(x, y) -> float:
    """Unbiased estimate of the squared energy distance (Szekely and Rizzo 2013, U-statistics).

    2 E|X - Y| - E|X - X'| - E|Y - Y'|: 0 exactly where the distributions are equal; an estimate
    may be below 0.

    Args:
        x, y: (k, dim) and (l, dim) independent draws, at least two each.
    """
    between = pairwise_distances(x, y).mean()
    return float(
        2 * between
        - mean_pairwise(pairwise_distances(x, x))
        - mean_pairwise(pairwise_distances(y, y))
    )


def _weights(m_gt, sigma: float) -> np.ndarray:
    return np.exp((m_gt.min() - m_gt) / sigma)  # a common factor, so that not all of them vanish


def _lengths(vectors) -> np.ndarray:
    return np.sqrt(np.einsum("...i,...i", vectors, vectors))
