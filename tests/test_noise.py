"""Counter-based noise: the published generator, and numbers that depend on nothing else."""

import numpy as np
import pytest

from cdm.noise import choice, normal, philox4x32, stream_key, uniform, words_to_normal

# Random123 kat_vectors, philox4x32 10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text):
    return np.array([int(word, 16) for word in text.split()], np.uint32)


def keys(n, seed=2023, purpose="noise", k=0):
    return np.array([stream_key(seed, purpose, "H3D", i, 0, k) for i in range(n)], np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, expected):
    np.testing.assert_array_equal(philox4x32(words(counter), words(key)), words(expected))


def test_philox_broadcasts_counters_against_keys():
    counter = np.stack([words(c) for c, _, _ in KNOWN_ANSWERS])[None]
    key = np.stack([words(k) for _, k, _ in KNOWN_ANSWERS])[:, None]
    out = philox4x32(counter, key)
    assert out.shape == (3, 3, 4)
    np.testing.assert_array_equal(out[2, 2], words(KNOWN_ANSWERS[2][2]))


def test_stream_key_tells_every_field_apart():
    names = [
        (1, "noise", "H3D", "12", 0, 0), (11, "noise", "H3D", "12", 0, 0),
        (1, "caption", "H3D", "12", 0, 0), (1, "noise", "PROX", "12", 0, 0),
        (1, "noise", "H3D", "1", 20, 0), (1, "noise", "H3D", "1", 2, 0),
        (1, "noise", "H3D", "12", 0, 1), (1, "noise", "H3D1", "2", 0, 0),
        (1, "noiseH", "3D", "12", 0, 0), (1, 'noise", "H3D', "", "12", 0, 0),
        (1, "noise", "H3D", "1", 0, 20), (-1, "noise", "H3D", "12", 0, 0),
    ]  # fmt: skip
    assert len({stream_key(*name) for name in names}) == len(names)


def test_stream_key_is_fixed_forever():
    """Archives made with these keys exist: a change here is a change of every map."""
    assert stream_key(2023, "noise", "H3D", "000012", 3, 1) == (603518028, 3505754058)
    assert stream_key(1, "noise", "HUMANISE", 7) == stream_key(1, "noise", "HUMANISE", "7", 0, 0)


def test_choice_and_uniform_are_even_and_in_range():
    picks = [choice(key, 3) for key in keys(3000)]
    assert set(picks) == {0, 1, 2}
    assert max(abs(np.bincount(picks) - 1000)) < 100  # 3.9 standard deviations
    values = np.array([uniform(key) for key in keys(3000)])
    assert values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02 and abs(values.var() - 1 / 12) < 0.005
    assert all(choice(key, 1) == 0 for key in keys(5))
    with pytest.raises(ValueError, match="one of 0"):
        choice((1, 2), 0)


def test_choice_and_uniform_read_the_first_philox_words():
    key = words(KNOWN_ANSWERS[0][1])
    assert uniform(key) == (0x6627E8D5E169C58D >> 11) / 2**53
    assert choice(key, 1000) == 0x6627E8D5E169C58D * 1000 >> 64


def test_normal_is_standard_normal():
    x = normal(keys(4), 7, 16384, 6).astype(np.float64).ravel()  # 393216 numbers
    assert abs(x.mean()) < 4 / np.sqrt(x.size)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / x.size)
    assert abs((x**3).mean()) < 4 * np.sqrt(15 / x.size)
    assert abs((x**4).mean() - 3) < 4 * np.sqrt(96 / x.size)
    assert abs(np.mean(abs(x) < 1) - 0.6826895) < 4 * np.sqrt(0.2166 / x.size)
    assert abs(x).max() > 4


def test_normal_is_uncorrelated_between_steps_maps_samples_and_neighbours():
    base = normal(keys(2), 7, 8192, 6)
    others = {
        "step": normal(keys(2), 8, 8192, 6)[0],
        "k": normal(keys(2, k=1), 7, 8192, 6)[0],
        "seed": normal(keys(2, seed=2024), 7, 8192, 6)[0],
        "purpose": normal(keys(2, purpose="other"), 7, 8192, 6)[0],
        "sample": base[1],
        "point": np.roll(base[0], 1, axis=0),
        "joint": np.roll(base[0], 1, axis=1),
    }
    for name, other in others.items():
        for f in (lambda x: x, np.abs):  # absolute values show a shared radius
            r = np.corrcoef(f(base[0]).ravel(), f(other).ravel())[0, 1]
            assert abs(r) < 4.5 / np.sqrt(other.size), f"{name}: correlation {r:.4f}"


def test_normal_survives_extreme_words():
    extreme = np.array([0, 0, 2**32 - 1, 2**32 - 1, 0, 2**31, 1, 2**30], np.uint32)
    x = words_to_normal(extreme)
    assert np.isfinite(x).all() and abs(x).max() < 6.77
    np.testing.assert_allclose(np.hypot(x[0::2], x[1::2]), [6.763, 0, 6.763, 6.597], atol=1e-2)


@pytest.mark.parametrize(("num_points", "contact_dim"), [(1, 1), (63, 5), (256, 6), (7, 22)])
def test_normal_of_a_point_depends_on_its_number_only(num_points, contact_dim):
    whole = normal(keys(3), 5, 300, contact_dim)
    assert whole.dtype == np.float32 and whole.shape == (3, 300, contact_dim)
    part = normal(keys(3)[2:], 5, num_points, contact_dim)
    np.testing.assert_array_equal(part[0], whole[2, :num_points])


def test_normal_takes_the_documented_words():
    key, step, point, joint, contact_dim = keys(1)[0], 400, 77, 3, 6
    element = point * contact_dim + joint
    word = philox4x32([element // 4, step, 0, 0], key).astype(np.float64)
    pair = element % 4 // 2 * 2
    u1, u2 = (word[pair : pair + 2] + 0.5) / 2**32
    expected = np.sqrt(-2 * np.log(u1)) * (np.cos, np.sin)[element % 2](2 * np.pi * u2)
    assert abs(normal(key[None], step, 100, contact_dim)[0, point, joint] - expected) < 1e-5
