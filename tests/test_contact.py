"""Denormalisation and distances against afford-motion's map generation and evaluator."""

import numpy as np
import pytest

from cdm.contact import contact_from_distance, contact_to_distance, denormalise, to_distance


@pytest.fixture(scope="module")
def golden(parity):
    return np.load(parity / "11_postprocess/denormalise.npz")


def test_denormalised_maps_match_afford_motion(golden, parity_index):
    tolerance = parity_index["tolerances"]["denormalised_distance"]
    for tag in sorted({key.split(".")[0] for key in golden.files}):
        g = {key.split(".", 1)[1]: golden[key] for key in golden.files if key.startswith(f"{tag}.")}
        raw, sigma = tag.startswith("raw"), float(g["sigma"])

        contact = denormalise(g["x"], g["mean"], g["std"], use_raw_dist=raw)
        distance = to_distance(g["x"], g["mean"], g["std"], sigma, use_raw_dist=raw)
        checks = {"contact": contact, "dist_gen_clip1e-6": distance}
        if not raw:
            checks["dist_eval_clip1e-20"] = contact_to_distance(contact, sigma, clip_min=1e-20)
        for name, out in checks.items():
            assert out.dtype == np.float32
            np.testing.assert_allclose(out, g[name], **tolerance, err_msg=f"{tag}.{name}")


def test_distance_stays_between_zero_and_its_cap():
    contact = np.array([[-1, 0, 1e-30, 1e-6, 1, 2]], np.float32)
    distance = contact_to_distance(contact, sigma=0.8)
    np.testing.assert_allclose(distance[0, :4], 5.2565 * 0.8, rtol=1e-4)
    assert (distance[0, 4:] == 0).all() and not np.signbit(distance).any()


def test_distance_inverts_the_contact_function():
    d = np.linspace(0, 2, 50, dtype=np.float32)
    contact = contact_from_distance(d, False, 0.5)
    np.testing.assert_allclose(contact_to_distance(contact, 0.5), d, atol=1e-3)


def test_nan_stays_nan():
    x = np.array([[np.nan, 0.0]], np.float32)
    assert np.isnan(to_distance(x, np.zeros(2), np.ones(2), 0.8)).tolist() == [[True, False]]


def test_raw_distances_stay_distances():
    distance = np.array([[0.25, 3.0]])
    raw = contact_from_distance(distance, use_raw_dist=True, sigma=0.8)
    assert raw.dtype == np.float32 and raw.tolist() == [[0.25, 3.0]]
