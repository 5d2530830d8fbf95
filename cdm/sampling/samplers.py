"""Samplers as lists of updates, and the loop that walks through one.

DDPM (Ho et al. 2020, algorithm 2), DDIM (Song et al. 2021, eq. 12), and DPM-Solver++ 2M with its
stochastic variant (Lu et al. 2022). A sampler is a list of updates, one for each step:

    x <- x0_coef pred_xstart + x_coef x + noise_coef noise + prev_x0_coef previous_pred_xstart

`sample_loop` walks through this list in Python. `cdm.sampling.cuda_sampler` walks through the
same list on the GPU, one CUDA graph per step. The loop calls two functions of its caller:

    denoise(x_t, t) -> pred_xstart: t is the ORIGINAL step number, an int.
    noise(step) -> (batch, num_points, contact_dim), standard normal. The chain starts from
        noise(original_num_steps), and the update that leaves step t adds noise(t). A respaced
        chain uses the same step numbers. An update that adds no noise does not call it.

The points may be in any order, as long as `noise` and `denoise` agree on it. The coefficients are
Python floats, so nothing in the loop waits for the device. The caller switches gradients off.
"""

from typing import NamedTuple

import numpy as np


class Update(NamedTuple):
    """The update that leaves step t.

    x <- x0_coef pred_xstart + x_coef x + noise_coef noise(t) + prev_x0_coef previous_pred_xstart

    Attributes:
        t: original step number.
        x0_coef: float32 value, factor of the model's prediction of x_0 at this step.
        x_coef: float32 value, factor of x.
        noise_coef: float32 value, standard deviation of the noise; 0 if none is added.
        prev_x0_coef: float32 value, factor of the prediction at the step before; 0 in samplers of
            first order.
    """

    t: int
    x0_coef: float
    x_coef: float
    noise_coef: float
    prev_x0_coef: float = 0.0


def ddpm_updates(diffusion) -> list[Update]:
    """Ancestral sampling with the variance of q(x_{t-1} | x_t, x_0) (Ho et al. 2020)."""
    noise_coef = np.exp(0.5 * diffusion.posterior_log_variance_clipped)
    noise_coef[0] = 0
    return _updates(
        diffusion, diffusion.posterior_mean_coef1, diffusion.posterior_mean_coef2, noise_coef
    )


def ddim_updates(diffusion, eta=0.0) -> list[Update]:
    """Implicit sampling (Song et al. 2021, eq. 12).

    Eq. 12 is written with eps; here eps is replaced by
    (x / sqrt(alpha_bar) - pred_xstart) / sqrt(1 / alpha_bar - 1).

    Args:
        eta: 0 is deterministic, 1 is as noisy as DDPM.
    Raises:
        ValueError: eta is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}, expected a number in [0, 1]")
    alpha_bar, previous = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev
    noise_coef = eta * np.sqrt((1 - previous) / (1 - alpha_bar) * (1 - alpha_bar / previous))
    eps_coef = np.sqrt(np.maximum(1 - previous - noise_coef**2, 0))
    x0_coef = np.sqrt(previous) - eps_coef / diffusion.sqrt_recipm1_alphas_cumprod
    x_coef = eps_coef * diffusion.sqrt_recip_alphas_cumprod / diffusion.sqrt_recipm1_alphas_cumprod
    return _updates(diffusion, x0_coef, x_coef, noise_coef)


def dpmpp_2m_updates(diffusion) -> list[Update]:
    """DPM-Solver++ 2M, deterministic (Lu et al. 2022, "DPM-Solver++", algorithm 2)."""
    alpha, sigma, h = _half_log_snr_steps(diffusion)
    return _multistep(diffusion, h, -alpha * np.expm1(-h), sigma[:-1] / sigma[1:], np.zeros_like(h))


def dpmpp_2m_sde_updates(diffusion) -> list[Update]:
    """SDE-DPM-Solver++ 2M, as noisy as DDPM (Lu et al. 2022, "DPM-Solver++")."""
    alpha, sigma, h = _half_log_snr_steps(diffusion)
    new_variance = -np.expm1(-2 * h)  # as a fraction of sigma^2
    x_coef = sigma[:-1] / sigma[1:] * np.exp(-h)
    noise_coef = sigma[:-1] * np.sqrt(new_variance)
    return _multistep(diffusion, h, alpha * new_variance, x_coef, noise_coef)


def _half_log_snr_steps(diffusion):
    """Per step, cleanest first, what the DPM-Solvers need.

    Returns:
        alpha: (n,), after the step.
        sigma: (n + 1,), that of the clean map (0) in front: sigma[i] is after step i, and
            sigma[i + 1] is before it.
        h: (n,), the step size in lambda = log(alpha / sigma); infinite for the step to x_0.
    """
    alpha_bar = np.append(1.0, diffusion.alphas_cumprod)
    with np.errstate(divide="ignore"):
        half_log_snr = 0.5 * np.log(alpha_bar / (1 - alpha_bar))
    return np.sqrt(alpha_bar[:-1]), np.sqrt(1 - alpha_bar), half_log_snr[:-1] - half_log_snr[1:]


def _multistep(diffusion, h, d_coef, x_coef, noise_coef) -> list[Update]:
    """x <- d_coef D + x_coef x + noise_coef noise; D extrapolates two predictions to mid-step.

    D = pred + half (pred - previous) with half = 1 / (2 r) and r = h_previous / h. The first step
    has no previous prediction, so it is first order: half is 0. The last step has an infinite h;
    half is 0 there too, and the prediction is used as it is.
    """
    half = np.zeros_like(h)
    half[1:-1] = h[1:-1] / (2 * h[2:])
    return _updates(diffusion, d_coef * (1 + half), x_coef, noise_coef, -d_coef * half)


def _updates(diffusion, *columns) -> list[Update]:
    """Make updates, last step first, of float64 columns of coefficients, cleanest step first."""
    rows = np.stack(columns, axis=1).astype(np.float32).tolist()
    steps = zip(diffusion.timestep_map.tolist(), rows, strict=True)
    return [Update(t, *row) for t, row in steps][::-1]


UPDATES = {
    "ddpm": ddpm_updates,
    "ddim": ddim_updates,
    "dpmpp_2m": dpmpp_2m_updates,
    "dpmpp_2m_sde": dpmpp_2m_sde_updates,
}


def sampler_updates(method: str, diffusion, eta: float = 0.0) -> list[Update]:
    """The updates of a sampler that the configuration names.

    Args:
        method: a key of `UPDATES`.
        diffusion: `cdm.sampling.diffusion.GaussianDiffusion`.
        eta: used by "ddim" only; the other samplers have no such option.
    """
    options = {"eta": eta} if method == "ddim" else {}
    return UPDATES[method](diffusion, **options)


def sample_loop(updates, denoise, noise, original_num_steps: int, callback=None):
    """Sample x_0 with the updates of a sampler.

    Args:
        updates: `Update`s, last step first.
        denoise, noise: see the top of this file.
        original_num_steps: the step number of the noise that the chain starts from.
        callback: optional; callback(t, x, pred_xstart) is called after each update, x being the
            new sample.
    Returns:
        (batch, num_points, contact_dim), the points in the order of `noise`.
    """
    x, previous = noise(original_num_steps), None
    for t, x0_coef, x_coef, noise_coef, prev_x0_coef in updates:
        pred_xstart = denoise(x, t)
        x = x0_coef * pred_xstart + x_coef * x
        if prev_x0_coef != 0:
            x = x + prev_x0_coef * previous
        if noise_coef > 0:
            x = x + noise_coef * noise(t)
        if callback is not None:
            callback(t, x, pred_xstart)
        previous = pred_xstart
    return x
