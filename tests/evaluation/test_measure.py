"""All measures of one item's maps: afford-motion's numbers, and what is said of which item."""

import math

import numpy as np
import pytest
from helpers import raw_config

from cdm.config import load_config
from cdm.datasets import FileReader, Sample, make_dataset
from cdm.datasets.base import gravity_rotation
from cdm.evaluation import metrics
from cdm.evaluation.measure import GroundTruth, MapMeasures, read_truth


def config(**changes):
    return load_config(raw_config(exp_dir="exp", **changes))


def humanise(parity, parity_index, phase="test"):
    """The configuration of the parity set's HUMANISE items."""
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
def test_evaluator_measures_are_those_of_afford_motion(parity, parity_index, name):
    """With a mask. Without one, nothing is measured; afford-motion measures the whole cloud."""
    golden = np.load(parity / "11_postprocess" / f"contact_evaluator_{name}.npz")
    measures = MapMeasures(config(), golden)
    for i, x in enumerate(golden["sample"]):
        mask = golden["obj_mask"][i] if golden["obj_mask_valid"][i] else None
        values = measures(x[None], GroundTruth(np.zeros((256, 3)), None, mask))
        if mask is None:
            assert not values
            continue
        assert set(values) >= EVALUATOR
        for key in EVALUATOR:
            assert values[key] == pytest.approx(golden[f"metric:{key}"][i], abs=1e-6), key


@pytest.mark.parametrize("prefix", ["", "target/"])
@pytest.mark.parametrize("phase", ["test", "all"])
def test_localisation_of_a_dataset_is_that_of_afford_motion(parity, parity_index, phase, prefix):
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
                continue  # afford-motion measures the whole cloud here
            value = found[prefix + ours]
            if name.startswith("TKCO") and (math.isnan(value) or _ties(pred, name, prefix, truth)):
                continue  # fewer points than k; or afford-motion takes one of several equal points
            assert value == pytest.approx(golden[key][i], abs=1e-6), (index, key)


def _within(pred, truth):
    there = metrics.distance_to_target(pred[truth.mask], (0.1, 0.3, 0.5))
    return [(t, there[f"dist_to_target_{t}"]) for t in ("0.1", "0.3", "0.5")]


def _ties(pred, name, prefix, truth) -> bool:
    ranked = np.sort((pred[truth.mask] if prefix else pred).min(axis=1))
    k = int(name.partition("@")[2])
    return bool(ranked[k - 1] == ranked[k])


def simple_item():
    """Five points on a line one metre apart; the target is the last one, the pelvis truly there."""
    xyz = np.array([[float(i), 0, 0] for i in range(5)])
    distance = np.abs(xyz[:, :1] - 4) + np.arange(6) * 0.1
    return GroundTruth(xyz, distance, np.arange(5) == 4)


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_maps_that_are_no_numbers_have_no_measure(value):
    """argmax takes NaN for the largest number: a lost map would be at the first point."""
    x = maps_at(4, 0)
    x[1, 2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        MapMeasures(config(), PLAIN)(x, simple_item())


def test_what_is_not_known_is_left_out():
    x, item = maps_at(4), simple_item()
    no_truth = MapMeasures(config(), PLAIN)(x, GroundTruth(item.xyz, None, item.mask))
    assert set(no_truth) == EVALUATOR | {"found_target", "found_target_chance"}
    no_mask = MapMeasures(config(), PLAIN)(x, GroundTruth(item.xyz, item.distance, None))
    assert not [name for name in no_mask if "target" in name] and "CPLE" in no_mask
    headless = config(dataset={"data_repr_joints": [20, 21]})
    statistics = {key: value[:, :2] for key, value in PLAIN.items()}
    hands = MapMeasures(headless, statistics)(
        x[..., :2], GroundTruth(item.xyz, item.distance[:, :2], item.mask)
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
    xyz, distance = rng.uniform(-2, 2, (40, 3)), rng.uniform(0, 2, (40, 6))
    x = rng.uniform(0.1, 0.9, (2, 40, 6)).astype(np.float32)  # no ties at 0 or 1
    truth = GroundTruth(xyz, distance, np.arange(40) < 9)
    values = MapMeasures(config(), PLAIN)(x, truth)
    turn, order = gravity_rotation(1.0, 2)[:3, :3], rng.permutation(40)
    turned = GroundTruth((xyz @ turn.T)[order], distance[order], truth.mask[order])
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
