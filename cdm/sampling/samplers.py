"""The sampling loops: DDPM (Ho et al. 2020, algorithm 2), DDIM (Song et al. 2021, eq. 12), and
DPM-Solver++ 2M with its stochastic variant (Lu et al. 2022).

A sampler is a list of updates, x <- a pred_xstart + c previous_pred + b x + sigma noise, one for
each step. The loop walks through it; so does `cdm.sampling.cuda_sampler`, with a graph in place
of Python.

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
    """x <- a pred_xstart + b x + sigma noise(t) + c previous_pred, on leaving step t.

    Attributes:
        t: original step number.
        a, b, sigma: float32 values; sigma is 0 where no noise is added.
        c: float32 value, of the prediction one step before; 0 in samplers of first order.
    """

    t: int
    a: float
    b: float
    sigma: float
    c: float = 0.0


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


def dpmpp_2m_updates(diffusion, eta=0.0) -> list[Update]:
    """DPM-Solver++ 2M, deterministic (Lu et al. 2022, "DPM-Solver++", algorithm 2).

    `eta` is DDIM's and unused.
    """
    alpha, sigma, h = _half_log_snr_steps(diffusion)
    return _multistep(diffusion, h, -alpha * np.expm1(-h), sigma[:-1] / sigma[1:], np.zeros_like(h))


def dpmpp_2m_sde_updates(diffusion, eta=0.0) -> list[Update]:
    """SDE-DPM-Solver++ 2M, as noisy as DDPM (Lu et al. 2022, "DPM-Solver++").

    `eta` is DDIM's and unused.
    """
    alpha, sigma, h = _half_log_snr_steps(diffusion)
    fresh = -np.expm1(-2 * h)
    decay = sigma[:-1] / sigma[1:] * np.exp(-h)
    return _multistep(diffusion, h, alpha * fresh, decay, sigma[:-1] * np.sqrt(fresh))


def _half_log_snr_steps(diffusion):
    """Where each step leads, and how far: alpha (n,), sigma (n + 1,) from clean on, h (n,).

    h is the step in lambda = log(alpha / sigma); that of the last step, to x_0, is infinite.
    """
    alpha_bar = np.append(1.0, diffusion.alphas_cumprod)
    with np.errstate(divide="ignore"):
        half_log_snr = 0.5 * np.log(alpha_bar / (1 - alpha_bar))
    return np.sqrt(alpha_bar[:-1]), np.sqrt(1 - alpha_bar), half_log_snr[:-1] - half_log_snr[1:]


def _multistep(diffusion, h, gain, b, sigma) -> list[Update]:
    """x <- gain D + b x + sigma noise, D extrapolating the last two predictions to mid-step.

    D = pred + (pred - previous) / (2 r), r = h_previous / h. The first step knows no previous
    one, and the last one, infinitely long, believes its prediction.
    """
    half = np.zeros_like(h)
    half[1:-1] = h[1:-1] / (2 * h[2:])
    return _updates(diffusion, gain * (1 + half), b, sigma, -gain * half)


def _updates(diffusion, *columns) -> list[Update]:
    """Rows of float64 columns, last step first, rounded to float32."""
    rows = np.stack(columns, axis=1).astype(np.float32).tolist()
    steps = zip(diffusion.timestep_map.tolist(), rows, strict=True)
    return [Update(t, *row) for t, row in steps][::-1]


UPDATES = {
    "ddpm": ddpm_updates,
    "ddim": ddim_updates,
    "dpmpp_2m": dpmpp_2m_updates,
    "dpmpp_2m_sde": dpmpp_2m_sde_updates,
}


def sample_loop(updates, denoise, noise, original_num_steps: int, callback=None):
    """x_0 by the updates of a sampler.

    Args:
        updates: of one of `UPDATES`.
        denoise, noise, callback: see above.
        original_num_steps: step number of the noise the chain starts from.
    Returns:
        (batch, num_points, contact_dim), in the order of points that `noise` has.
    """
    x, previous = noise(original_num_steps), None
    for t, a, b, sigma, c in updates:
        pred_xstart = denoise(x, t)
        x = a * pred_xstart + b * x
        if c != 0:
            x = x + c * previous
        if sigma > 0:
            x = x + sigma * noise(t)
        if callback is not None:
            callback(t, x, pred_xstart)
        previous = pred_xstart
    return x


def _loop(updates_of):
    def loop(denoise, diffusion, noise, eta=0.0, callback=None):
        updates = updates_of(diffusion, eta)
        return sample_loop(updates, denoise, noise, diffusion.original_num_steps, callback)

    return loop


SAMPLERS = {name: _loop(updates_of) for name, updates_of in UPDATES.items()}
p_sample_loop, ddim_sample_loop = SAMPLERS["ddpm"], SAMPLERS["ddim"]
