"""Measures of contact maps: pure functions of distances and points, all in float64.

Names and definitions are those of afford-motion's evaluator and of its localisation script.

Shapes:
    pred, gt: (num_points, contact_dim) metres, the generated and the true distance of each joint
        to each point.
    m_pred, m_gt: (num_points,) metres, the smallest of each point's joint distances.
    xyz: (num_points, 3) metres.
"""

import numpy as np

BLOCK = 256  # rows of a table of pairwise distances that are in memory at a time


def smallest(distance) -> np.ndarray:
    """m: the smallest of each point's joint distances, (num_points,) metres."""
    return np.minimum.reduce(list(distance.T))  # many times faster than min(axis=1)


def closest_point_error(m_pred, m_gt, xyz) -> float:
    """CPLE: metres between the points where m_pred and m_gt are smallest.

    Of several smallest points, the first one counts.
    """
    return float(_lengths(xyz[m_pred.argmin()] - xyz[m_gt.argmin()]))


def joint_point_errors(pred, gt, xyz) -> np.ndarray:
    """CPLE of each joint by itself: (contact_dim,) metres."""
    return _lengths(xyz[pred.argmin(axis=0)] - xyz[gt.argmin(axis=0)])


def top_k_overlap(m_pred, m_gt, k: int) -> float:
    """TKCO@k: the share of the k truly closest points that are among the k generated closest.

    Ties are common, because the generated contact of many points is exactly 1. Points that tie
    for the last places share these places equally: this is the expected overlap if ties were
    broken at random. (afford-motion takes the points that numpy's sort puts first.) If k is
    larger than num_points, the largest value is num_points / k, as in afford-motion.
    """
    return float(_top_k(m_pred, k) @ _top_k(m_gt, k)) / k


def _top_k(values, k: int) -> np.ndarray:
    """Weight of each value among the k smallest: 1, 0, or a tie's part of the last places."""
    if k >= len(values):
        return np.ones(len(values))
    last = np.partition(values, k - 1)[k - 1]
    below, tied = values < last, values == last
    return below + tied * ((k - below.sum()) / tied.sum())


def weighted_distance_error(pred, gt, m_gt, sigma: float) -> float:
    """WDE: mean |pred - gt| over joints, in metres; points are weighted by exp(-m_gt / sigma)."""
    errors = np.abs(pred - gt) @ np.full(pred.shape[1], 1 / pred.shape[1])
    weights = _weights(m_gt, sigma)
    return float(weights @ errors / weights.sum())


def contact_iou(m_pred, m_gt, threshold: float) -> float:
    """Intersection over union of the points whose m is below a threshold in metres.

    It is 1 if there is no such point in either map.
    """
    a, b = m_pred < threshold, m_gt < threshold
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def soft_localisation(m_pred, m_gt, xyz, sigma: float) -> float:
    """SoftLoc: exp(-|p - q| / sigma), averaged over all points p with the weights of WDE.

    q is the generated closest point.
    """
    away = _lengths(xyz - xyz[m_pred.argmin()])
    weights = _weights(m_gt, sigma)
    return float(weights @ np.exp(-away / sigma) / weights.sum())


def min_distance_error(m_pred, m_gt) -> float:
    """How much the smallest distances to any point differ, in metres."""
    return float(abs(m_pred.min() - m_gt.min()))


def distance_to_target(pred, thresholds) -> dict[str, float]:
    """dist_to_target_*: how close the body comes to the target object.

    Args:
        pred: generated distances of the target's points only, (num_target_points, contact_dim).
        thresholds: metres.
    Returns:
        `dist_to_target_{threshold}`: 1 if any joint comes closer than the threshold, else 0.
        `dist_to_target_average`: mean over points and joints, metres.
        `dist_to_target_min_average`: mean over points of the closest joint's distance, metres.
    """
    within = {f"dist_to_target_{t:g}": float(pred.min() < t) for t in thresholds}
    return within | {
        "dist_to_target_average": float(pred.mean()),
        "dist_to_target_min_average": float(smallest(pred).mean()),
    }


def distance_to_points(xyz, points) -> np.ndarray:
    """Metres from each of xyz (n, 3) to the nearest of the points (m, 3); (n,)."""
    # |x - p|^2 = |x|^2 + |p|^2 - 2 x . p, so that each block is one matrix product.
    towards, squared = -2 * points.T, np.square(points).sum(axis=1)
    nearest = np.square(xyz).sum(axis=1)
    for start in range(0, len(xyz), BLOCK):
        part = slice(start, start + BLOCK)
        table = xyz[part] @ towards
        table += squared
        nearest[part] += table.min(axis=1)
    return np.sqrt(np.maximum(nearest, 0))


def mean_pairwise(distances) -> float:
    """Mean of a symmetric (k, k) table without its diagonal; NaN for k = 1."""
    k = len(distances)
    return float((distances.sum() - np.trace(distances)) / (k * (k - 1))) if k > 1 else np.nan


def pairwise_distances(a, b) -> np.ndarray:
    """Euclidean distances between the rows of a and the rows of b: (len(a), len(b))."""
    return np.stack([_lengths(b - row) for row in a])


def energy_distance(x, y) -> float:
    """Unbiased estimate of the squared energy distance (Szekely and Rizzo 2013, U-statistics).

    The distance is 2 E|X - Y| - E|X - X'| - E|Y - Y'|. It is 0 only if both distributions are
    equal. The estimate may be below 0.

    Args:
        x, y: (k, dim) and (l, dim) independent draws, at least two each.
    """
    between = pairwise_distances(x, y).mean()
    return float(
        2 * between
        - mean_pairwise(pairwise_distances(x, x))
        - mean_pairwise(pairwise_distances(y, y))
    )


def energy_distances(x, y) -> np.ndarray:
    """`energy_distance` of many pairs of sets at once.

    Args:
        x, y: (n, k, dim) and (n, l, dim) draws.
    Returns:
        (n,) float64.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    between = _all_distances(x, y).mean(axis=(1, 2))
    return 2 * between - _mean_within(x) - _mean_within(y)


def _mean_within(x) -> np.ndarray:
    """Mean distance of two different draws of each set: (n,) from (n, k, dim)."""
    k = x.shape[1]
    distances = _all_distances(x, x)
    distances[:, np.arange(k), np.arange(k)] = 0  # rounding must not add to them
    return distances.sum(axis=(1, 2)) / (k * (k - 1))


def _all_distances(x, y) -> np.ndarray:
    """Distances of all pairs: (n, k, l). |x - y|^2 = |x|^2 + |y|^2 - 2 x . y."""
    squares = -2 * (x @ y.swapaxes(1, 2))
    squares += np.square(x).sum(axis=2)[:, :, None]
    squares += np.square(y).sum(axis=2)[:, None]
    return np.sqrt(np.maximum(squares, 0, out=squares), out=squares)


def _weights(m_gt, sigma: float) -> np.ndarray:
    """Weights exp(-m_gt / sigma), up to a common factor that keeps them from all being 0."""
    return np.exp((m_gt.min() - m_gt) / sigma)


def _lengths(vectors) -> np.ndarray:
    """Euclidean length over the last axis."""
    return np.sqrt(np.einsum("...i,...i", vectors, vectors))
