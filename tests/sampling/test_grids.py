"""Time grids: which steps a shorter chain keeps, against plain float64 and diffusers."""

import math

import numpy as np
import pytest
from diffusers.schedulers import DPMSolverMultistepScheduler

from cdm.errors import ConfigError
from cdm.sampling.diffusion import SCHEDULES, create_diffusion, get_named_beta_schedule
from cdm.sampling.grids import choose_timesteps, karras_points, snr_points, space_timesteps

LENGTHS = [21, 50, 100, 499, 500, 501, 625, 1000]


def half_log_snr(steps, schedule):
    """Of every step; math.log of plain floats."""
    levels, alpha_bar = [], 1.0
    for beta in get_named_beta_schedule(schedule, steps).tolist():
        alpha_bar *= 1 - beta
        levels.append(math.log(math.sqrt(alpha_bar) / math.sqrt(1 - alpha_bar)))
    return levels


def naive(kind, n, steps, schedule):
    """The rule of `cdm.sampling.grids`, point by point; the noisiest step comes first."""
    levels = half_log_snr(steps, schedule)
    if schedule == "cosine":
        hi, chosen = min(round(0.996 * steps), steps - 2), [steps - 1]
    else:
        hi, chosen = steps - 1, []
    m = n - len(chosen)
    for i in range(m):
        part = i / (m - 1)
        if kind == "snr":
            wanted = levels[hi] + part * (levels[0] - levels[hi])
        else:
            noisy, clean = math.exp(-levels[hi]), math.exp(-levels[0])  # sigma / alpha
            wanted = -math.log(
                (noisy ** (1 / 7) + part * (clean ** (1 / 7) - noisy ** (1 / 7))) ** 7
            )
        chosen.append(min(range(hi + 1), key=lambda t: abs(levels[t] - wanted)))
    return chosen


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["snr", "karras"])
def test_grids_by_noise_level_match_the_rule_in_plain_float64(kind, schedule, steps):
    betas, apart = get_named_beta_schedule(schedule, steps), 0
    for n in (4, 5, 8, 10, 14, 18, 30):
        expected = naive(kind, n, steps, schedule)
        if len(set(expected)) == n:  # no two points on one step
            assert choose_timesteps(betas, f"{kind}{n}") == expected[::-1]
            apart += 1
    assert apart >= 1 + (steps >= 499) * 2


def test_the_measured_grids():
    """Those of docs/few-steps.md."""
    steps = choose_timesteps(get_named_beta_schedule("cosine", 1000), "snr18")
    assert steps[::-1] == [
        *(999, 996, 993, 988, 978, 959, 922, 853, 730),
        *(546, 343, 189, 97, 47, 21, 8, 2, 0),
    ]
    steps = choose_timesteps(get_named_beta_schedule("cosine", 500), "snr10")
    assert steps[::-1] == [499, 498, 495, 485, 449, 331, 136, 36, 7, 0]


@pytest.mark.parametrize("steps", [*range(1, 26), 499, 500])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["snr", "karras"])
def test_steps_are_distinct_and_begin_and_end_where_they_should(kind, schedule, steps):
    if schedule == "linear" and steps <= 20:
        return  # there is no such chain
    betas = get_named_beta_schedule(schedule, steps)
    for n in range(2, steps + 1) if steps < 100 else (2, 3, 18, 100, 400, steps - 1):
        found = choose_timesteps(betas, f"{kind}{n}")
        assert len(found) == n and found == sorted(set(found))
        assert found[0] == 0 and found[-1] == steps - 1
    assert choose_timesteps(betas, "") == list(range(steps))


def test_two_points_on_one_step_move_to_the_next_free_one():
    betas = get_named_beta_schedule("cosine", 20)
    expected = naive("karras", 12, 20, "cosine")
    assert len(set(expected)) < 12
    found = choose_timesteps(betas, "karras12")[::-1]
    assert all(abs(a - b) <= 3 for a, b in zip(found, expected, strict=True))
    assert choose_timesteps(betas, "karras20") == choose_timesteps(betas, "snr20")
    assert choose_timesteps(betas, "snr20") == list(range(20))


@pytest.mark.parametrize(
    ("kind", "points", "option"),
    [("snr", snr_points, "use_lu_lambdas"), ("karras", karras_points, "use_karras_sigmas")],
)
def test_points_match_diffusers(kind, points, option):
    """Its linear chain: the points are the same. It rounds t where we take the nearest level."""
    betas, levels = get_named_beta_schedule("linear", 1000), half_log_snr(1000, "linear")
    scheduler = DPMSolverMultistepScheduler(trained_betas=betas, **{option: True})
    scheduler.alphas_cumprod = np.cumprod(1 - betas)  # it keeps float32
    scheduler.set_timesteps(18)
    found = np.exp(-points(levels[0], levels[-1], 18))[::-1]
    np.testing.assert_allclose(found, scheduler.sigmas[:-1], rtol=1e-6)
    chosen = choose_timesteps(betas, f"{kind}18")[::-1]
    assert np.abs(scheduler.timesteps.numpy() - chosen).max() <= 1


def test_a_list_of_steps_is_taken_in_any_order():
    betas = get_named_beta_schedule("cosine", 500)
    assert choose_timesteps(betas, "steps=0,5,17,499") == [0, 5, 17, 499]
    assert choose_timesteps(betas, "steps=499, 17, 0") == [0, 17, 499]
    assert choose_timesteps(get_named_beta_schedule("cosine", 1), "steps=0") == [0]
    # Without the word they are sections, as in guided-diffusion.
    assert choose_timesteps(betas, "2,3") == [0, 249, 250, 374, 499]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("snr51", r'diffusion.steps is 50: "snr2" to "snr50" are possible; "" keeps all'),
        ("karras1", '"karras2" to "karras50" are possible'),
        ("snr", "expected nothing .all 50 steps., .*snr18"),
        ("snr-3", "expected nothing"),
        ("snr18,5", "expected nothing"),
        ("SNR18", "expected nothing"),
        ("steps=", 'not all of them are step numbers; .* such as "steps=0,24,49"'),
        ("steps=0,1.5,49", "not all of them are step numbers"),
        ("steps=0,-1,49", "not all of them are step numbers"),
        ("steps=0,7,7,49", "a step comes twice"),
        ("steps=0,50", "diffusion.steps is 50, so there is no step 50"),
        ("steps=0,48", "49 is missing"),
        ("steps=1,49", "0 is missing"),
    ],
)
def test_impossible_grids_say_what_is_possible(spec, message):
    with pytest.raises(ConfigError, match=message):
        choose_timesteps(get_named_beta_schedule("cosine", 50), spec)


def test_a_chain_of_one_step_has_no_grid():
    with pytest.raises(ConfigError, match='none is possible; "" keeps all steps'):
        choose_timesteps(get_named_beta_schedule("cosine", 1), "snr2")
    with pytest.raises(ConfigError, match='"snr2" to "snr998" are possible'):
        choose_timesteps(get_named_beta_schedule("cosine", 1000), "snr999")


def test_space_timesteps_reads_what_yaml_gives():
    assert space_timesteps(50, None) == space_timesteps(50, "") == list(range(50))
    assert space_timesteps(50, 5) == space_timesteps(50, "5") == [0, 12, 24, 37, 49]
    assert space_timesteps(50, [2, 3]) == space_timesteps(50, "2, 3") == [0, 24, 25, 37, 49]
    assert space_timesteps(50, "ddim5") == [0, 10, 20, 30, 40]
    assert space_timesteps(50, 50) == list(range(50))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fast", "expected nothing"),
        ("ddim", "expected nothing"),
        ("10,,10", "expected nothing"),
        ("5.5", "expected nothing"),
        (True, "expected nothing"),
        (0, "expected nothing"),
        ("-3", "expected nothing"),
        ("ddim5,5", "expected nothing"),
        *(
            (text, "expected nothing") for text in ("1_0", "٣", "+2", "9" * 5000)
        ),  # int() reads them
        (51, "ask for 50 at most"),
        ("20,26", "ask for 25 at most"),
        ("ddim30", "nearest counts are 17 and 25"),
    ],
)
def test_impossible_respacing_says_what_is_possible(spec, message):
    with pytest.raises(ConfigError, match=message):
        space_timesteps(50, spec)


def test_a_chain_on_a_grid_keeps_the_signal_levels_of_the_full_one():
    full, short = create_diffusion(500), create_diffusion(500, "cosine", "snr18")
    assert short.num_timesteps == 18 and short.original_num_steps == 500
    np.testing.assert_allclose(
        short.alphas_cumprod, full.alphas_cumprod[short.timestep_map], rtol=1e-9
    )
