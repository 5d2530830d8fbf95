"""The study of few steps: its settings, its rounds of items, and the files of its draws."""

import re

import numpy as np
import pytest
from evaluations import ITEMS, STUDIED, setting_result, tiny
from helpers import raw_config, run_config

from cdm.config import load_config
from cdm.errors import ArchiveError, ConfigError
from cdm.evaluation.study import (
    Setting,
    evaluations,
    join_rounds,
    noise_numbers,
    num_draws,
    read_result,
    rounds,
    spread_order,
    study_settings,
    write_result,
)

DEFAULTS = load_config(raw_config())


def test_settings_are_the_full_chain_and_every_other_sampler_once():
    config = run_config(
        **tiny(compare={"samplers": ["dpmpp_2m 6", "ddpm 6", "ddim 3", "ddim 3,1"]})
    )
    settings = study_settings(config)
    assert [(s.name, s.steps, s.grid) for s in settings] == [
        ("ddpm all", 6, "even"),
        ("dpmpp_2m all", 6, "even"),
        ("ddim 3", 3, "even"),
        ("ddim 3,1", 4, "listed"),
    ]
    assert [num_draws(config, s) for s in settings] == [2, 1, 1, 1]


def test_a_setting_configures_the_sampler_that_its_name_says():
    full, listed = Setting("ddpm", "", 6), Setting("ddim", "3,1", 4)
    assert full.configure(STUDIED).diffusion.timestep_respacing == ""
    assert Setting("ddim", "3", 3).configure(STUDIED).diffusion.timestep_respacing == 3
    configured = listed.configure(STUDIED)
    assert configured.diffusion.timestep_respacing == "3,1"
    assert configured.sampling.method == "ddim"


def test_a_setting_that_the_chain_cannot_give_is_refused_with_what_to_type():
    config = run_config(**tiny(compare={"samplers": ["ddim 7"]}))
    with pytest.raises(
        ConfigError, match=r"compare.samplers: 'ddim 7' cannot be drawn: .* or: --config"
    ):
        study_settings(config)


@pytest.mark.parametrize("old", [{"methods": ["ddim"]}, {"steps": [50]}])
def test_the_keys_of_before_are_refused_with_what_to_type(old):
    with pytest.raises(ConfigError, match=r"compare.samplers: \[dpmpp_2m_sde 50, ddim 50\]"):
        load_config(raw_config(compare=old))


def test_no_two_draws_share_noise_but_those_of_different_samplers():
    full, other, third = study_settings(STUDIED)[:3]
    of_full = [noise_numbers(STUDIED, full, i) for i in range(3)]
    of_other = [noise_numbers(STUDIED, other, i) for i in range(3)]
    numbers = [k for part in of_full + of_other for k in part]
    assert len(set(numbers)) == 6 * 4 and of_full[0] == range(4)
    assert noise_numbers(STUDIED, third, 1) == of_other[1]


@pytest.mark.parametrize("count", [1, 2, 7, 100, 4096])
def test_every_beginning_of_the_order_is_spread_evenly(count):
    order = spread_order(count)
    assert sorted(order) == list(range(count))
    for some in (count // 10, count // 2):
        if some:
            gaps = np.diff([-1, *sorted(order[:some]), count])
            assert gaps.max() <= 3 * count / some


def test_the_order_meets_every_action_that_comes_back_regularly():
    for period in (2, 3, 4, 8, 16):
        found = np.bincount(np.array(spread_order(4096)[:64]) % period, minlength=period)
        assert found.min() >= 64 / period / 4


def test_rounds_double_and_a_small_rest_is_not_left_over():
    def stops(first, most, available=1000):
        config = run_config(**tiny(compare={"first_items": first, "max_items": most}))
        parts = rounds(config, available)
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        return [part.stop for part in parts]

    assert stops(80, 320) == [80, 160, 320]
    assert stops(80, 350) == [80, 160, 350]
    assert stops(80, None) == [80, 160, 320, 640, 1000]
    assert stops(None, 320) == [320] and stops(80, 320, available=50) == [50]


def test_a_study_of_a_full_size_pointmamba_takes_half_an_hour_of_a_gpu_at_most():
    """0.77 ms an evaluation on an H100 (benchmarks/README.md): 8192 points, a chain of 500 steps.

    Measuring takes 5 to 8 ms of a CPU core for a map of 8192 points, and goes on beside the GPU:
    four threads are far below the time of the GPU.
    """
    assert DEFAULTS.diffusion.steps == 500
    most_items = rounds(DEFAULTS, available=10**6)[-1].stop
    seconds = 0.77e-3 * evaluations(DEFAULTS, study_settings(DEFAULTS), most_items)
    maps = sum(num_draws(DEFAULTS, s) for s in study_settings(DEFAULTS)) * 64 * 16
    assert maps * 8e-3 / 4 < seconds / 10
    overhead = 60  # loading, and starting the sampler of each setting in each round
    assert seconds + overhead < 30 * 60


def test_a_damaged_result_says_how_to_draw_it_again(tmp_path):
    path = tmp_path / Setting("ddpm", "", 6).file(0)
    assert path.name == "ddpm-all-0.json"
    write_result(path, setting_result())
    found = read_result(path)
    assert found.items == ITEMS and found.seconds_per_map == pytest.approx(0.06)
    other = tmp_path / Setting("ddpm", "", 6).file(1)
    other.write_bytes(path.read_bytes())
    with pytest.raises(ArchiveError, match=r"it is draw 0 of ddpm all.*to draw it again: rm"):
        read_result(other)
    path.write_bytes(re.sub(b"HUMANISE", b"HUMANISF", path.read_bytes(), count=1))
    with pytest.raises(ArchiveError, match="to draw it again: rm"):
        read_result(path)
    assert read_result(tmp_path / "none.json") is None


def test_rounds_of_a_draw_are_joined_and_some_samples_taken():
    whole = setting_result()
    parts = [setting_result(items=10), setting_result(items=15)]
    parts[1].values["extra"] = np.ones(15)
    joined = join_rounds(parts)
    assert joined.items == ITEMS[:10] + ITEMS[:15] and len(joined.projections) == 25
    np.testing.assert_array_equal(joined.values["CPLE"][10:], whole.values["CPLE"][:15])
    assert np.isnan(joined.values["extra"][:10]).all() and joined.seconds == pytest.approx(
        25 * 0.24
    )
    taken = joined.take(range(10))
    assert taken.seconds == pytest.approx(10 * 0.24)
    np.testing.assert_array_equal(taken.projections, parts[0].projections)
    assert joined.take([24, 3]).items == [ITEMS[14], ITEMS[3]]
