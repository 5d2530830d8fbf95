"""Time grids: which steps of the trained chain a shorter chain keeps.

`diffusion.timestep_respacing` names the grid:

| value | steps |
| --- | --- |
| nothing | all |
| 50, "10,15,20", "ddim50" | even in t, as in guided-diffusion's `respace.py` |
| "snr18" | 18 steps, even in half log SNR, lambda = log(alpha / sigma) |
| "karras18" | 18 steps, spaced as in Karras et al. 2022, eq. 5, rho = 7 |
| "steps=0,5,17,499" | these very steps |

The rule of "snr" and "karras": step T - 1 comes first, and the other n - 1 steps are spaced from
step hi = round(0.996 T), at most T - 2, down to step 0. Step T - 1 stands alone because the cosine
schedule leaves almost no signal there: hi is the noisiest step at which the model can tell
something. The linear schedule leaves as much signal at T - 1 as the cosine one at hi, so there all
n steps are spaced from T - 1 to 0.

A point of such a grid becomes the step whose half log SNR is nearest to it. Where two points would
become the same step, the noisier one takes the next free step.
"""

import re

import numpy as np

from cdm.errors import ConfigError

KARRAS_RHO = 7  # Karras et al. 2022, section 3
NOISIEST = 0.996  # hi / T
NO_SIGNAL = 0.99  # a last beta above this leaves almost no signal: 0.999 in the cosine schedule


def choose_timesteps(betas: np.ndarray, spec) -> list[int]:
    """Original step numbers that a chain keeps, distinct and ascending.

    Args:
        betas: (num_timesteps,) of the full chain.
        spec: `diffusion.timestep_respacing`; see the top of this file.
    Raises:
        ConfigError: the chain has not that many steps, or the value has another form.
    """
    text = str(spec).replace(" ", "")
    if text.startswith("steps="):
        return _listed_timesteps(len(betas), spec)
    named = re.fullmatch(r"(snr|karras)([0-9]+)", text)
    if named is None:
        return space_timesteps(len(betas), spec)
    return _timesteps_by_noise_level(np.asarray(betas, np.float64), named[1], int(named[2]))


def snr_points(lambda_max: float, lambda_min: float, count: int) -> np.ndarray:
    """`count` values of lambda = log(alpha / sigma) at equal distances, the cleanest first.

    This is the "logSNR" grid of Lu et al. 2022 ("DPM-Solver", section 3.4). One value is
    lambda_max.
    """
    return np.linspace(lambda_max, lambda_min, count)


def karras_points(lambda_max: float, lambda_min: float, count: int) -> np.ndarray:
    """`count` values of lambda, sigma / alpha being spaced as in Karras et al. 2022, eq. 5.

    The cleanest value comes first. One value is lambda_max.
    """
    root_min, root_max = np.exp(-np.array([lambda_max, lambda_min]) / KARRAS_RHO)
    return -KARRAS_RHO * np.log(np.linspace(root_min, root_max, count))


POINTS = {"snr": snr_points, "karras": karras_points}


def _timesteps_by_noise_level(betas: np.ndarray, name: str, count: int) -> list[int]:
    """Steps of the grids "snr" and "karras"; the top of this file has the two rules."""
    num_timesteps = len(betas)
    hi = num_timesteps - 1
    if betas[-1] > NO_SIGNAL:
        hi = max(0, min(round(NOISIEST * num_timesteps), num_timesteps - 2))
    first = [num_timesteps - 1][: num_timesteps - 1 - hi]  # step T - 1, unless hi is that step
    most = len(first) + hi + 1
    if not 2 <= count <= most:
        possible = f'"{name}2" to "{name}{most}" are possible' if most >= 2 else "none is possible"
        raise ConfigError(
            f'diffusion.timestep_respacing is "{name}{count}", but diffusion.steps is '
            f'{num_timesteps}: {possible}; "" keeps all steps'
        )
    alphas_cumprod = np.cumprod(1 - betas)[: hi + 1]
    half_log_snr = 0.5 * np.log(alphas_cumprod / (1 - alphas_cumprod))  # falls with the step
    points = POINTS[name](half_log_snr[0], half_log_snr[-1], count - len(first))
    return nearest_distinct(half_log_snr, points) + first


def nearest_distinct(levels: np.ndarray, points: np.ndarray) -> list[int]:
    """The index of the level nearest to each point, all different.

    Args:
        levels: (num_timesteps,), falling.
        points: (n,), falling, n <= num_timesteps.
    """
    nearest = np.abs(levels[:, None] - points).argmin(axis=0)
    order = np.arange(len(points))
    # Up to the next free step; and at the noisy end, where there is none, down again.
    apart = np.maximum.accumulate(nearest - order) + order
    return np.minimum(apart, len(levels) - len(points) + order).tolist()


def _listed_timesteps(num_timesteps: int, spec: str) -> list[int]:
    """The steps that "steps=0,5,17,499" lists, in any order."""
    words = str(spec).replace(" ", "").removeprefix("steps=").split(",")
    last = num_timesteps - 1
    expected = (
        f"expected different step numbers from 0 to {last}, with 0 and {last} among them, such as "
        f'"steps=0,{"" if last < 3 else f"{last // 2},"}{last}"'
    )
    if not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
        found = "not all of them are step numbers"
    elif len(set(map(int, words))) < len(words):
        found = "a step comes twice"
    elif max(map(int, words)) > last:
        found = f"diffusion.steps is {num_timesteps}, so there is no step {max(map(int, words))}"
    elif not {0, last} <= set(map(int, words)):
        found = (
            f"a chain starts from pure noise, at step {last}, and ends with step 0; "
            f"{'0' if last in map(int, words) else last} is missing"
        )
    else:
        return sorted(map(int, words))
    raise ConfigError(f'diffusion.timestep_respacing is "{spec}": {found}; {expected}')


def space_timesteps(num_timesteps: int, section_counts) -> list[int]:
    """Original step numbers that a respaced chain keeps, ascending (guided-diffusion `respace`).

    Args:
        num_timesteps: length of the full chain.
        section_counts: None or "" keeps every step. An int or "n" keeps n evenly spaced steps.
            "a,b,c" or a list splits the chain into equal sections and keeps a steps of the
            first, b of the second and c of the third. "ddimN" keeps N steps with one integer
            stride, starting at step 0 (Song et al. 2021).
    Raises:
        ConfigError: the chain has not that many steps, or the value has another form.
    """
    if section_counts is None or section_counts == "":
        return list(range(num_timesteps))
    # Read the counts.
    spec = str(section_counts).strip().strip("[]").replace(" ", "")
    words = spec.removeprefix("ddim").split(",")
    counts = [int(word) for word in words if re.fullmatch("[0-9]{1,9}", word)]  # not 1_0, not ٣
    if len(counts) < len(words):
        counts = []
    if not counts or min(counts) < 1 or (spec.startswith("ddim") and len(counts) > 1):
        raise ConfigError(
            f"diffusion.timestep_respacing is {section_counts!r}, expected nothing (all "
            f'{num_timesteps} steps), a count such as 50, sections such as "10,15,20", "ddim50", '
            '"snr18", "karras18", or a list such as "steps=0,5,17,499"'
        )
    if spec.startswith("ddim"):
        return _ddim_timesteps(num_timesteps, counts[0])

    # Keep so many steps of each section; the first `longer` sections have one step more.
    size, longer = divmod(num_timesteps, len(counts))
    steps, start = [], 0
    for i, count in enumerate(counts):
        section = size + (i < longer)
        if count > section:
            raise ConfigError(
                f"diffusion.timestep_respacing {section_counts!r} keeps {count} steps of a section "
                f"of {section} (diffusion.steps is {num_timesteps}); ask for {section} at most"
            )
        stride = (section - 1) / (count - 1) if count > 1 else 1
        position = 0.0
        for _ in range(count):
            steps.append(start + round(position))
            # Accumulated, not i * stride: afford-motion rounds ties the same way.
            position += stride
        start += section
    return steps


def _ddim_timesteps(num_timesteps: int, count: int) -> list[int]:
    """`count` steps with one integer stride, starting at step 0."""
    for stride in range(1, num_timesteps + 1):
        steps = range(0, num_timesteps, stride)
        if len(steps) == count:
            return list(steps)
    possible = sorted({-(-num_timesteps // stride) for stride in range(1, num_timesteps + 1)})
    near = sorted(possible, key=lambda n: abs(n - count))[:2]
    raise ConfigError(
        f'diffusion.timestep_respacing "ddim{count}": no integer stride takes {count} of '
        f"{num_timesteps} steps; the nearest counts are {' and '.join(map(str, sorted(near)))}"
    )
