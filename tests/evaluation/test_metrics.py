"""Measures of maps: the reference's numbers, naive forms, laws; bootstrap intervals."""

import math

import numpy as np
import pytest
from helpers import raw_config

from cdm.config import load_config
from cdm.datasets import FileReader, Sample, make_dataset
from cdm.datasets.base import gravity_rotation
from cdm.evaluation import metrics
from cdm.evaluation.bootstrap import Interval, bootstrap
from cdm.evaluation.measure import MapMeasures, Truth, read_truth

RNG = np.random.default_rng(0)
POINTS, JOINTS = 40, 6
PRED, GT = RNG.uniform(0, 2, (2, POINTS, JOINTS))
XYZ = RNG.uniform(-2, 2, (POINTS, 3))
m = metrics.smallest


def config(**changes):
    return load_config(raw_config(exp_dir="exp", **changes))


# ---- the reference ----


def test_localisation_measures_are_the_reference_ones(parity):
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


def humanise(parity, parity_index, phase="test"):
    """The parity set's HUMANISE items under our configuration."""
    dataset = {
        "data_dir": str(parity / "10_dataset/tree/data"),
        "sets": ["HUMANISE"],
        "phase": phase,
        "num_points": 256,
    }
    return config(dataset=dataset)


EVALUATOR = {
    "dist_to_target_0.1",
    "dist_to_target_0.3",
    "dist_to_target_0.5",
    "dist_to_target_average",
    "dist_to_target_pelvis_average",
    "dist_to_target_min_average",
}


@pytest.mark.parametrize("name", ["humanise", "humanise_prox"])
def test_evaluator_measures_are_the_reference_ones(parity, parity_index, name):
    """Where there is a mask; without one the reference measures the whole cloud, and we nothing."""
    golden = np.load(parity / "11_postprocess" / f"contact_evaluator_{name}.npz")
    measures = MapMeasures(config(), golden)
    for i, x in enumerate(golden["sample"]):
        mask = golden["obj_mask"][i] if golden["obj_mask_valid"][i] else None
        values = measures(x[None], Truth(np.zeros((256, 3)), None, mask))
        if mask is None:
            assert not values
            continue
        assert set(values) >= EVALUATOR
        for key in EVALUATOR:
            assert values[key] == pytest.approx(golden[f"metric:{key}"][i], abs=1e-6), key


@pytest.mark.parametrize("prefix", ["", "target/"])
@pytest.mark.parametrize("phase", ["test", "all"])
def test_localisation_of_a_dataset_is_the_reference_one(parity, parity_index, phase, prefix):
    """With the right joint columns, over the target or the whole scene, in any phase."""
    golden = np.load(parity / "11_postprocess" / "localization_script_humanise_test.npz")
    run = humanise(parity, parity_index, phase)
    dataset, reader = make_dataset(run.dataset), FileReader(run.dataset.data_dir)
    names = {"SoftLoc@0.1": "SoftLocScore", "WDE@0.2": "WDE"}
    for i, index in enumerate(("00001", "00003", "00005")):
        truth = read_truth(dataset, Sample("HUMANISE", str(int(index)), 0, ""), reader)
        measures = MapMeasures(run, {"mean": np.zeros((1, 6)), "std": np.ones((1, 6))})
        pred = golden[index][0].astype(np.float64)
        found = measures._localisation(pred, truth)
        variant = "joint_subset_list" if prefix else "no_mask_list"
        if prefix:
            found |= {f"target/dist_{t}": found_at for t, found_at in _within(pred, truth)}
        for key in (name for name in golden.files if name.startswith(f"{variant}|")):
            name = key.partition("|")[2]
            ours = next((mine for mine, theirs in names.items() if theirs == name), name)
            if name.startswith("dist_") and not prefix:
                continue  # of the whole cloud: we say nothing
            value = found[prefix + ours]
            if name.startswith("TKCO") and (math.isnan(value) or _ties(pred, name, prefix, truth)):
                continue  # fewer points than k; or the reference takes one of several equals
            assert value == pytest.approx(golden[key][i], abs=1e-6), (index, key)


def _within(pred, truth):
    there = metrics.distance_to_target(pred[truth.mask], (0.1, 0.3, 0.5))
    return [(t, there[f"dist_to_target_{t}"]) for t in ("0.1", "0.3", "0.5")]


def _ties(pred, name, prefix, truth) -> bool:
    ranked = np.sort((pred[truth.mask] if prefix else pred).min(axis=1))
    k = int(name.partition("@")[2])
    return bool(ranked[k - 1] == ranked[k])


# ---- naive forms and laws ----


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


# ---- maps of one item ----


def simple_item():
    """Five points on a line one metre apart; the target is the last one, the pelvis truly there."""
    xyz = np.array([[float(i), 0, 0] for i in range(5)])
    distance = np.abs(xyz[:, :1] - 4) + np.arange(6) * 0.1
    return Truth(xyz, distance, np.arange(5) == 4)


def maps_at(*places):
    """Normalised maps (mean 0, std 1) of contact that is largest at these points."""
    apart = np.abs(np.arange(5)[None] - np.array(places)[:, None])[..., None] + np.zeros(6)
    return np.exp(-(apart**2) / (2 * 0.8**2)).astype(np.float32)


PLAIN = {"mean": np.zeros((1, 6)), "std": np.ones((1, 6))}


def test_maps_at_the_target_find_it_and_others_do_not():
    values = MapMeasures(config(), PLAIN)(maps_at(4, 0), simple_item())
    assert values["found_target"] == 0.5 and values["best/found_target"] == 1
    assert values["found_target_chance"] == pytest.approx(1 / 5)
    assert values["pelvis_point_error"] == 2 and values["best/pelvis_point_error"] == 0
    assert values["CPLE_pelvis"] == 2 and values["pelvis_point_spread"] == 4
    both = maps_at(4, 0).astype(np.float64)
    assert values["diversity"] == pytest.approx(np.sqrt(np.mean((both[0] - both[1]) ** 2)))
    assert math.isnan(values["TKCO@10"])  # there are five points


def test_the_pelvis_point_is_told_before_contact_is_clipped():
    x = np.full((1, 5, 6), 1.5, np.float32)
    x[0, 4] = 1.6  # all of them are 1 once clipped
    assert MapMeasures(config(), PLAIN)(x, simple_item())["pelvis_point_error"] == 0


def test_what_is_not_known_is_left_out():
    x, item = maps_at(4), simple_item()
    no_truth = MapMeasures(config(), PLAIN)(x, Truth(item.xyz, None, item.mask))
    assert set(no_truth) == EVALUATOR | {"found_target", "found_target_chance"}
    no_mask = MapMeasures(config(), PLAIN)(x, Truth(item.xyz, item.distance, None))
    assert not [name for name in no_mask if "target" in name] and "CPLE" in no_mask
    headless = config(dataset={"data_repr_joints": [20, 21]})
    statistics = {key: value[:, :2] for key, value in PLAIN.items()}
    hands = MapMeasures(headless, statistics)(
        x[..., :2], Truth(item.xyz, item.distance[:, :2], item.mask)
    )
    assert not [name for name in hands if "pelvis" in name or name.startswith("found")]
    assert "CPLE_joint_20" in hands


def test_raw_distances_are_measured_like_contact():
    x = maps_at(4, 0, 2)
    as_contact = MapMeasures(config(), PLAIN)(x, simple_item())
    raw = config(dataset={"use_raw_dist": True})
    metres = np.sqrt(-2 * np.log(x)) * np.float32(0.8)
    as_metres = MapMeasures(raw, PLAIN)(metres, simple_item())
    assert as_metres == pytest.approx(as_contact, abs=1e-5, nan_ok=True)


def test_measures_do_not_depend_on_rotation_or_order_of_points():
    rng = np.random.default_rng(5)
    x = rng.uniform(0.1, 0.9, (2, POINTS, JOINTS)).astype(np.float32)  # no ties at 0 or 1
    truth = Truth(XYZ, GT, np.arange(POINTS) < 9)
    values = MapMeasures(config(), PLAIN)(x, truth)
    turn, order = gravity_rotation(1.0, 2)[:3, :3], rng.permutation(POINTS)
    turned = Truth((XYZ @ turn.T)[order], GT[order], truth.mask[order])
    assert MapMeasures(config(), PLAIN)(x[:, order], turned) == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "set_name", "index", "has_truth", "has_mask"),
    [
        ("ContactMapDataset", "HUMANISE", "0", True, True),
        ("ContactMapDataset", "PROX", "1", True, False),
        ("ContactMapDataset", "HumanML3D", "0", True, False),
        ("ContactMapCustomDataset", "custom", "0", False, False),
    ],
)
@pytest.mark.parametrize("phase", ["train", "test"])
def test_datasets_say_what_there_is(parity, phase, name, set_name, index, has_truth, has_mask):
    dataset = {"name": name, "phase": phase, "num_points": 256}
    run = config(dataset=dataset | {"data_dir": str(parity / "10_dataset/tree/data")})
    dataset, reader = make_dataset(run.dataset), FileReader(run.dataset.data_dir)
    truth = read_truth(dataset, Sample(set_name, index, 0, ""), reader)
    assert (truth.distance is not None, truth.mask is not None) == (has_truth, has_mask)
    assert truth.xyz.shape == (256, 3)


# ---- bootstrap ----


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
