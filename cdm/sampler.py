"""The sampling loops: DDPM (Ho et al. 2020, algorithm 2) and DDIM (Song et al. 2021, eq. 12).

All samplers are called alike:

    denoise(x_t, t) -> pred_xstart: t is the ORIGINAL step number, an int.
    noise(step) -> (batch, num_points, contact_dim) standard normal: the start is
        noise(original_num_steps), what is added on leaving step t is noise(t). Respaced chains
        share the naming, and a step that adds none draws none.
    callback(t, x, pred_xstart), optional: after each step; x is the new sample.

Points may be in any order, as long as `noise` and `denoise` agree on it. Coefficients are Python
floats, so nothing in a loop waits for the device. Gradients are the caller's to switch off.
"""

import math

import numpy as np


def p_sample_loop(denoise, diffusion, noise, eta=0.0, callback=None):
    """Ancestral sampling with the posterior's own variance (`eta` is DDIM's and unused)."""
    return _loop(_p_step, denoise, diffusion, noise, callback)


def ddim_sample_loop(denoise, diffusion, noise, eta=0.0, callback=None):
    """Implicit sampling: deterministic for eta = 0, as noisy as DDPM for eta = 1."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}, expected a number in [0, 1]")

    def step(diffusion, x, i, pred_xstart):
        return _ddim_step(diffusion, x, i, pred_xstart, eta)

    return _loop(step, denoise, diffusion, noise, callback)


SAMPLERS = {"ddpm": p_sample_loop, "ddim": ddim_sample_loop}


def _loop(step, denoise, diffusion, noise, callback):
    x = noise(diffusion.original_num_steps)
    for i in reversed(range(diffusion.num_timesteps)):
        t = int(diffusion.timestep_map[i])
        pred_xstart = denoise(x, t)
        x, sigma = step(diffusion, x, i, pred_xstart)
        if sigma > 0:
            x = x + sigma * noise(t)
        if callback is not None:
            callback(t, x, pred_xstart)
    return x


def _p_step(diffusion, x, i, pred_xstart):
    """Mean of p(x_{t-1} | x_t) and its standard deviation, 0 at the last step."""
    mean, _, log_variance = diffusion.q_posterior_mean_variance(pred_xstart, x, i)
    return mean, math.exp(0.5 * log_variance) if i > 0 else 0.0


def _ddim_step(diffusion, x, i, pred_xstart, eta):
    """Mean and standard deviation of the DDIM update; float32 scalars, as in the reference."""
    one = np.float32(1)
    alpha_bar = np.float32(diffusion.alphas_cumprod[i])
    alpha_bar_prev = np.float32(diffusion.alphas_cumprod_prev[i])
    sigma = (
        np.float32(eta)
        * np.sqrt((one - alpha_bar_prev) / (one - alpha_bar))
        * np.sqrt(one - alpha_bar / alpha_bar_prev)
    )
    to_x_t = np.sqrt(np.maximum(one - alpha_bar_prev - sigma**2, 0))
    eps = diffusion.predict_eps_from_xstart(x, i, pred_xstart)
    mean = pred_xstart * float(np.sqrt(alpha_bar_prev)) + float(to_x_t) * eps
    return mean, float(sigma)
