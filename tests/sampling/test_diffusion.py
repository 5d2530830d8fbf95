"""Schedules, respacing and posteriors against afford-motion's tables."""

import json
import re

import numpy as np
import pytest
import torch

from cdm.errors import ConfigError
from cdm.sampling.diffusion import (
    GaussianDiffusion,
    create_diffusion,
    extract,
    get_named_beta_schedule,
)


def q_posterior_mean_variance(diffusion, x_start, x_t, t):
    """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0)."""
    mean = (
        extract(diffusion.posterior_mean_coef1, t, x_t) * x_start
        + extract(diffusion.posterior_mean_coef2, t, x_t) * x_t
    )
    variance = extract(diffusion.posterior_variance, t, x_t)
    return mean, variance, extract(diffusion.posterior_log_variance_clipped, t, x_t)


def predict_eps_from_xstart(diffusion, x_t, t, pred_xstart):
    """The noise that leads from a predicted x_0 to x_t (Song et al. 2021, eq. 9)."""
    scaled = extract(diffusion.sqrt_recip_alphas_cumprod, t, x_t) * x_t
    return (scaled - pred_xstart) / extract(diffusion.sqrt_recipm1_alphas_cumprod, t, x_t)


def test_schedules_match_afford_motion(parity, parity_index):
    golden = np.load(parity / "09_diffusion/schedules.npz")
    for key in golden.files:
        chain, table = key.split(".")
        name, steps = re.fullmatch(r"([a-z_]+)(\d+)", chain).groups()
        out = getattr(GaussianDiffusion(get_named_beta_schedule(name, int(steps))), table)
        assert out.dtype == np.float64
        np.testing.assert_allclose(
            out, golden[key], **parity_index["tolerances"]["float64_schedules"], err_msg=key
        )


def test_respacing_matches_afford_motion(parity, parity_index):
    golden = np.load(parity / "09_diffusion/respacing.npz")
    config = json.loads((parity / "09_diffusion/config.json").read_text())
    for key in golden.files:
        chain, table = key.split(".")
        steps, spec = chain.split("|")
        diffusion = create_diffusion(int(steps), config["noise_schedule"], spec)
        out = getattr(diffusion, table)
        if table == "timestep_map":
            np.testing.assert_array_equal(out, golden[key], err_msg=key)
        else:
            tolerance = parity_index["tolerances"]["float64_schedules"]
            np.testing.assert_allclose(out, golden[key], **tolerance, err_msg=key)


def test_one_step_matches_afford_motion(parity, parity_index):
    golden = np.load(parity / "09_diffusion/one_step.npz")
    config = json.loads((parity / "09_diffusion/config.json").read_text())
    diffusion = create_diffusion(
        config["diffusion_steps"], config["noise_schedule"], config["respacing_p_sample"]
    )
    tolerance = parity_index["tolerances"]["forward_fp32"]
    x0, xt, noise, t = (torch.from_numpy(golden[k]) for k in ("x0", "xt", "noise", "t"))

    def check(x0, xt, noise, t, rows):
        mean, variance, log_variance = q_posterior_mean_variance(diffusion, x0, xt, t)
        out = {
            "posterior_mean": mean,
            "posterior_variance": variance + 0 * mean,
            "posterior_log_variance": log_variance + 0 * mean,
            "q_sample": diffusion.q_sample(x0, t, noise),
            "eps_from_xstart": predict_eps_from_xstart(diffusion, xt, t, x0),
        }
        for name, value in out.items():
            assert np.asarray(value).dtype == np.float32
            np.testing.assert_allclose(
                np.asarray(value), golden[name][rows], **tolerance, err_msg=name
            )

    check(x0, xt, noise, t, slice(None))  # a batch of steps
    check(x0.numpy(), xt.numpy(), noise.numpy(), t.numpy(), slice(None))  # the same with arrays
    for i in range(len(t)):  # one step, as an int
        check(x0[i : i + 1], xt[i : i + 1], noise[i : i + 1], int(t[i]), slice(i, i + 1))


@pytest.mark.parametrize("spec", ["1", 1, "ddim1"])
def test_one_respaced_step_is_a_chain(spec):
    diffusion = create_diffusion(100, "cosine", spec)
    assert diffusion.timestep_map.tolist() == [0] and diffusion.num_timesteps == 1
    assert diffusion.posterior_variance.tolist() == [0]
    assert np.isfinite(diffusion.posterior_log_variance_clipped).all()
    assert diffusion.posterior_mean_coef1[0] == pytest.approx(1)


def test_unknown_schedule_lists_the_known_ones():
    with pytest.raises(ConfigError, match="'sigmoid', expected one of cosine, linear"):
        get_named_beta_schedule("sigmoid", 100)
    with pytest.raises(ConfigError, match="at least 1"):
        get_named_beta_schedule("cosine", 0)
    with pytest.raises(ConfigError, match="more than 20 steps"):
        get_named_beta_schedule("linear", 20)
    assert get_named_beta_schedule("linear", 21)[-1] < 1


def test_respaced_chain_keeps_the_signal_levels_of_the_full_one():
    full, short = create_diffusion(500), create_diffusion(500, "cosine", "7,1,3")
    assert short.original_num_steps == full.num_timesteps == 500
    np.testing.assert_allclose(
        short.alphas_cumprod, full.alphas_cumprod[short.timestep_map], rtol=1e-9
    )


def test_q_sample_and_eps_are_inverse():
    diffusion = create_diffusion(100)
    rng = np.random.default_rng(0)
    x_start, noise = rng.normal(size=(2, 3, 16, 6)).astype(np.float32)
    t = np.array([1, 50, 90])
    eps = predict_eps_from_xstart(diffusion, diffusion.q_sample(x_start, t, noise), t, x_start)
    np.testing.assert_allclose(eps, noise, atol=1e-4)
    with pytest.raises(ValueError, match="noise is"):
        diffusion.q_sample(x_start, t, noise[:1])
