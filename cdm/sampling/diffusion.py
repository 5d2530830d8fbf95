"""Gaussian diffusion of contact maps: schedules, and the tables of one chain.

Names and formulas are those of the literature (Ho et al. 2020; Nichol and Dhariwal 2021) and of
guided-diffusion's `gaussian_diffusion.py`. The model predicts x_0, and the variance is the fixed
small one (that of q(x_{t-1} | x_t, x_0)). Tables are float64. A value is rounded to float32 when
it is combined with a tensor, as in afford-motion. `cdm.sampling.grids` chooses the steps of a
shorter chain.
"""

import numpy as np

from cdm.errors import ConfigError
from cdm.sampling.grids import choose_timesteps

SCHEDULES = ("cosine", "linear")


def get_named_beta_schedule(name: str, steps: int) -> np.ndarray:
    """Betas of a named schedule, (steps,) float64 in (0, 1).

    "cosine" is Nichol and Dhariwal 2021, eq. 17. "linear" is Ho et al. 2020: 1e-4 to 0.02 over
    1000 steps, scaled for other lengths.

    Raises:
        ConfigError: unknown name, or a number of steps that the schedule does not allow.
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ConfigError(f"diffusion.steps is {steps!r}, expected an integer of at least 1")
    if name == "cosine":
        position = (np.arange(steps + 1) / steps + 0.008) / 1.008
        alpha_bar = np.cos(position * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    if name == "linear":
        if steps <= 20:
            raise ConfigError(
                f"diffusion.noise_schedule linear with {steps} steps has betas of 1 and more; "
                "use more than 20 steps, or: noise_schedule: cosine"
            )
        return np.linspace(1000 / steps * 1e-4, 1000 / steps * 0.02, steps)
    raise ConfigError(
        f"diffusion.noise_schedule is {name!r}, expected one of {', '.join(SCHEDULES)}"
    )


class GaussianDiffusion:
    """Tables of a diffusion chain, full or respaced; index t counts the steps of this chain.

    Attributes:
        num_timesteps: length of this chain.
        original_num_steps: length of the chain that the model was trained on.
        timestep_map: (num_timesteps,) int64, the original number of each step. The model is given
            these numbers.
        betas, alphas_cumprod, ...: (num_timesteps,) float64.
    """

    def __init__(self, betas, use_timesteps=None):
        """Make the tables of a full chain, or of those steps of it that are kept.

        Args:
            betas: (original_num_steps,) of the full chain.
            use_timesteps: original step numbers to keep; None keeps all.
        Raises:
            ValueError: betas are not one-dimensional, or one is outside (0, 1].
        """
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError("betas must be one-dimensional and in (0, 1]")
        self.original_num_steps = len(betas)
        if use_timesteps is None:
            self.timestep_map = np.arange(len(betas))
        else:
            self.timestep_map = np.array(sorted(use_timesteps), np.int64)
            kept = np.cumprod(1 - betas)[self.timestep_map]
            betas = 1 - kept / np.append(1.0, kept[:-1])
        self.num_timesteps = len(betas)

        self.betas = betas
        self.alphas_cumprod = np.cumprod(1 - betas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - self.alphas_cumprod)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod - 1)

        # q(x_{t-1} | x_t, x_0), Ho et al. 2020, eqs. 6 and 7
        shrink = (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        self.posterior_variance = betas * shrink
        # At t = 0, the last step of sampling, the variance is 0 and its log infinite. The log at
        # t = 1 stands there instead (a chain of a single step has none, so its beta does).
        clipped = np.append(self.posterior_variance[1:2], self.posterior_variance[1:])
        self.posterior_log_variance_clipped = np.log(clipped if len(clipped) else betas)
        self.posterior_mean_coef1 = (
            betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)
        )
        self.posterior_mean_coef2 = shrink * np.sqrt(1 - betas)

    def q_sample(self, x_start, t, noise):
        """Diffuse clean contact maps to step t (Ho et al. 2020, eq. 4).

        Args:
            x_start: (batch, num_points, contact_dim), normalised; a tensor or an array.
            t: int, or (batch,) int64 in [0, num_timesteps).
            noise: standard normal, shaped like x_start.
        Returns:
            x_t, shape and dtype of x_start.
        Raises:
            ValueError: noise and x_start differ in shape.
        """
        if x_start.shape != noise.shape:
            raise ValueError(f"noise is {tuple(noise.shape)}, x_start {tuple(x_start.shape)}")
        return (
            extract(self.sqrt_alphas_cumprod, t, x_start) * x_start
            + extract(self.sqrt_one_minus_alphas_cumprod, t, x_start) * noise
        )


def extract(table: np.ndarray, t, x):
    """table[t] rounded to float32, for a computation with x.

    Args:
        table: (num_timesteps,) float64.
        t: int, or (batch,) int64.
        x: (batch, ...), a tensor or an array.
    Returns:
        a Python float for an int t, so that nothing is copied to the device; otherwise
        (batch, 1, ...), as many dimensions as x has.
    """
    if isinstance(t, int | np.integer):
        return float(np.float32(table[t]))
    table = table.astype(np.float32)
    values = table[t] if isinstance(x, np.ndarray) else x.new_tensor(table)[t]
    return values.reshape(-1, *[1] * (x.ndim - 1))


def create_diffusion(
    steps: int, noise_schedule: str = "cosine", timestep_respacing=None
) -> GaussianDiffusion:
    """The chain that section `diffusion` of the configuration describes.

    Args:
        steps: length of the chain that the model was trained on.
        noise_schedule: a name of `SCHEDULES`.
        timestep_respacing: see `cdm.sampling.grids.choose_timesteps`.
    """
    betas = get_named_beta_schedule(noise_schedule, steps)
    return GaussianDiffusion(betas, choose_timesteps(betas, timestep_respacing))
