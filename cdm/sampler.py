"""The sampling loops: DDPM (Ho et al. 2020, algorithm 2) and DDIM (Song et al. 2021, eq. 12).

A sampler is a list of updates, x <- a pred_xstart + b x + sigma noise, one for each step. The
loops walk through it; so does `cdm.cuda_sampler`, with a graph in place of Python.

All loops are called alike:

    denoise(x_t, t) -> pred_xstart: t is the ORIGINAL step number, an int.
    noise(step) -> (batch, num_points, contact_dim) standard normal: the start is
        noise(original_num_steps), what is added on leaving step t is noise(t). Respaced chains
        share the naming, and a step that adds none draws none.
    callback(t, x, pred_xstart), optional: after each step; x is the new sample.

Points may be in any order, as long as `noise` and `denoise` agree on it. Coefficients are Python
floats, so nothing in a loop waits for the device. Gradients are the caller's to switch off.
"""

from typing import NamedTuple

import numpy as np


class Update(NamedTuple):
    """x <- a pred_xstart + b x + sigma noise(t), on leaving step t.

    Attributes:
        t: original step number.
        a, b, sigma: float32 values; sigma is 0 where no noise is added.
    """

    t: int
    a: float
    b: float
    sigma: float


def ddpm_updates(diffusion, eta=0.0) -> list[Update]:
    """Ancestral sampling with the posterior's own variance (`eta` is DDIM's and unused)."""
    sigma = np.exp(0.5 * diffusion.posterior_log_variance_clipped)
    sigma[0] = 0
    return _updates(
        diffusion, diffusion.posterior_mean_coef1, diffusion.posterior_mean_coef2, sigma
    )


def ddim_updates(diffusion, eta=0.0) -> list[Update]:
    """Implicit sampling: deterministic for eta = 0, as noisy as DDPM for eta = 1.

    Eq. 12 with eps = (x / sqrt(alpha_bar) - pred_xstart) / sqrt(1 / alpha_bar - 1) put in.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}, expected a number in [0, 1]")
    alpha_bar, previous = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev
    sigma = eta * np.sqrt((1 - previous) / (1 - alpha_bar) * (1 - alpha_bar / previous))
    to_x_t = np.sqrt(np.maximum(1 - previous - sigma**2, 0))  # what goes along eps
    a = np.sqrt(previous) - to_x_t / diffusion.sqrt_recipm1_alphas_cumprod
    b = to_x_t * diffusion.sqrt_recip_alphas_cumprod / diffusion.sqrt_recipm1_alphas_cumprod
    return _updates(diffusion, a, b, sigma)


def _updates(diffusion, *columns) -> list[Update]:
    """Rows of float64 columns, last step first, rounded to float32."""
    rows = np.stack(columns, axis=1).astype(np.float32).tolist()
    steps = zip(diffusion.timestep_map.tolist(), rows, strict=True)
    return [Update(t, *row) for t, row in steps][::-1]


UPDATES = {"ddpm": ddpm_updates, "ddim": ddim_updates}


def p_sample_loop(denoise, diffusion, noise, eta=0.0, callback=None):
    """`ddpm_updates`, walked through."""
    return _loop(ddpm_updates(diffusion), denoise, diffusion, noise, callback)


def ddim_sample_loop(denoise, diffusion, noise, eta=0.0, callback=None):
    """`ddim_updates`, walked through."""
    return _loop(ddim_updates(diffusion, eta), denoise, diffusion, noise, callback)


SAMPLERS = {"ddpm": p_sample_loop, "ddim": ddim_sample_loop}


def _loop(updates, denoise, diffusion, noise, callback):
    x = noise(diffusion.original_num_steps)
    for t, a, b, sigma in updates:
        pred_xstart = denoise(x, t)
        x = a * pred_xstart + b * x
        if sigma > 0:
            x = x + sigma * noise(t)
        if callback is not None:
            callback(t, x, pred_xstart)
    return x
