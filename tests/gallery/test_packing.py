"""Items as the page reads them: nothing important is lost, and all fit."""

import base64
import zlib

import numpy as np
import pytest
from galleries import SIGMA, make_item

from cdm.contact import contact_from_distance
from cdm.gallery.packing import closeness, pack_all, pack_item, thinned, to_z_up


def unpack(packed):
    """Arrays of a packed item by name, as the page's decode.js makes them."""
    content, offset, arrays = zlib.decompress(base64.b64decode(packed["block"])), 0, {}
    for name, kind, shape in packed["layout"]:
        dtype = np.dtype("<" + kind)
        count = int(np.prod(shape))
        assert offset % dtype.itemsize == 0  # else the page cannot look at it as numbers
        arrays[name] = np.frombuffer(content, dtype, count, offset).reshape(shape)
        offset += arrays[name].nbytes
    assert offset == len(content)
    return arrays


def test_places_come_back_to_a_tenth_of_a_millimetre_and_closeness_to_one_part_in_500():
    item = make_item(k=2)
    packed = pack_item(item, SIGMA, 2)
    arrays = unpack(packed)
    xyz = np.array(packed["origin"]) + packed["step"] * arrays["xyz"].T
    np.testing.assert_allclose(xyz, item.xyz, atol=1e-4)
    expected = contact_from_distance(item.generated, False, SIGMA)
    np.testing.assert_allclose(arrays["maps"] / 255, expected.transpose(0, 2, 1), atol=1 / 500)
    np.testing.assert_array_equal(arrays["truth"], closeness(item.truth, SIGMA).T)
    np.testing.assert_array_equal(arrays["colors"], item.colors.T)
    np.testing.assert_array_equal(arrays["target"], item.target)


def test_the_closest_points_are_told_in_metres():
    item = make_item(k=2)
    packed = pack_item(item, SIGMA, 2)
    for k, distance in enumerate(item.generated):
        for joint, (x, y, z, metres) in enumerate(packed["closest"][k]):
            row = item.closest[k, joint]
            np.testing.assert_allclose((x, y, z), item.xyz[row], atol=6e-4)
            assert metres == pytest.approx(distance[row, joint], abs=6e-4)
    rows = item.truth.argmin(axis=0)
    np.testing.assert_allclose(np.array(packed["true"])[:, :3], item.xyz[rows], atol=6e-4)


def test_what_is_not_known_is_not_there():
    bare = make_item(truth=None, target=None, colors=None, motion=None)
    packed = pack_item(bare, SIGMA, 2)
    assert set(unpack(packed)) == {"xyz", "maps"} and packed["true"] is None


def test_a_motion_keeps_its_first_and_last_frame():
    item = make_item()
    packed = pack_item(item, SIGMA, 2)
    motion = np.array(packed["origin"]) + packed["step"] * unpack(packed)["motion"]
    assert motion.shape == (32, 22, 3)
    np.testing.assert_allclose(motion[[0, -1]], item.motion[[0, -1]], atol=1e-4)


def test_points_behind_the_map_lie_where_they_lay():
    rng = np.random.default_rng(0)
    behind = rng.uniform(-1, 1, (50, 6)).astype(np.float32)
    packed = pack_item(make_item(backdrop=behind), SIGMA, 2)
    arrays = unpack(packed)
    xyz = np.array(packed["origin"]) + packed["step"] * arrays["behind"].T
    np.testing.assert_allclose(xyz, behind[:, :3], atol=1e-4)
    np.testing.assert_allclose(arrays["behind_colors"].T / 127.5 - 1, behind[:, 3:], atol=0.01)


@pytest.mark.parametrize("up", [0, 1, 2])
def test_the_axis_that_points_up_becomes_z_and_right_stays_right(up):
    axes = to_z_up(np.eye(3), up)
    np.testing.assert_array_equal(axes[up], [0, 0, 1])
    assert np.linalg.det(axes) == pytest.approx(1)


def test_thinning_keeps_the_target_and_the_closest_points():
    item = make_item(num_points=2000)
    kept = thinned(item, 500)
    assert len(kept) == 500 and (np.diff(kept) > 0).all()
    must = {*np.flatnonzero(item.target), *item.closest.ravel(), *item.truth.argmin(axis=0)}
    assert must <= set(kept.tolist())
    background = np.setdiff1d(kept, list(must))
    assert background.min() < 50 and background.max() > 1700  # from all over the scene
    np.testing.assert_array_equal(thinned(item, 2000), np.arange(2000))
    assert set(thinned(item, 1).tolist()) == must  # fewer are not possible


def test_many_items_fit_into_what_is_allowed():
    items = [make_item(i, 3000, k=4) for i in range(6)]
    whole = pack_all(items, SIGMA, 2, 10**9)
    limit = sum(len(packed["block"]) for packed in whole) // 3
    thin = pack_all(items, SIGMA, 2, limit)
    assert sum(len(packed["block"]) for packed in thin) <= limit
    for packed, item in zip(thin, items, strict=True):
        assert unpack(packed)["target"].sum() == item.target.sum()
        assert packed["points"] == 3000
