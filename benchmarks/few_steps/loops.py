"""Variants of SDE-DPM-Solver++ for few evaluations, each as a loop over `denoise` and `noise`.

Every variant differs in one thing from `2M`, which is `dpmpp_2m_sde` on the grid `snrN`:

- the grid: where it begins (hi), whether step T - 1 is left out, where it ends, its density;
- the noise: how much of it (tau), and at which noise levels;
- the solver: predictors of order 1 to 3 and a corrector (SA-Solver, Xue et al. 2023);
- what is done with the last evaluation, and Langevin steps at low noise.

lambda is the half log SNR, log(alpha / sigma). `variants.py` runs them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cdm.kernels import philox
from cdm.model.point_order import gather_points
from cdm.sampling.grids import nearest_distinct
from cdm.sampling.runners import Plain


@dataclass(frozen=True)
class Variant:
    """One way to go from noise to a map with n evaluations.

    Attributes:
        hi: noisiest step of the evenly spaced part, as a fraction of T.
        first: step T - 1 stands before that part. Without it, hi starts from pure noise.
        last: the step at which the last evaluation is done.
        power: the points are (i / (m - 1)) ** power of the way in lambda, from the clean end;
            above 1, low noise has more of them.
        tau: lambda -> noise of the SDE: 1 as the chain's, 0 the ODE.
        order: "2M" (DPM-Solver++ 2M), or 1, 2, 3 (predictor of SA-Solver).
        corrector: 0 for none, else how many former predictions it uses beside the new one.
        denoise: the map is the last prediction; else the last step goes to the noise level of step
            0 and stops there, with one more point in the grid.
        langevin: evaluations spent on a Langevin step each, at the cleanest levels but the last.
        langevin_size: of such a step: 1 makes all noise of a level anew.
    """

    hi: float = 0.996
    first: bool = True
    last: int = 0
    power: float = 1.0
    tau: Callable[[float], float] = lambda level: 1.0
    order: str | int = "2M"
    corrector: int = 0
    denoise: bool = True
    langevin: int = 0
    langevin_size: float = 0.5


def at_high_noise(border: float):
    """tau: noise above this noise level only (lambda below the border)."""
    return lambda level: float(level < border)


def at_low_noise(border: float):
    """tau: noise below this noise level only."""
    return lambda level: float(level > border)


def constant(tau: float):
    """tau: the same at every noise level."""
    return lambda level: tau


VARIANTS = {
    "2M": Variant(),
    # The grid.
    "hi 0.990": Variant(hi=0.990),
    "hi 0.993": Variant(hi=0.993),
    "hi 0.998": Variant(hi=0.998),
    "no T-1": Variant(first=False),
    "no T-1, hi 0.998": Variant(first=False, hi=0.998),
    "last 2": Variant(last=2),
    "last 5": Variant(last=5),
    "last 10": Variant(last=10),
    "power 0.85": Variant(power=0.85),
    "power 1.15": Variant(power=1.15),
    "power 1.3": Variant(power=1.3),
    # The noise.
    "tau 0.6": Variant(tau=constant(0.6)),
    "tau 0.8": Variant(tau=constant(0.8)),
    "tau 0.9": Variant(tau=constant(0.9)),
    "tau 1.1": Variant(tau=constant(1.1)),
    "tau 1.3": Variant(tau=constant(1.3)),
    "noise at high noise only": Variant(tau=at_high_noise(-1.0)),
    "noise at low noise only": Variant(tau=at_low_noise(-1.0)),
    "no noise in the last steps": Variant(tau=at_high_noise(3.0)),
    # The solver.
    "SA 1": Variant(order=1),
    "SA 2": Variant(order=2),
    "SA 3": Variant(order=3),
    "SA 2, corrector 1": Variant(order=2, corrector=1),
    "SA 3, corrector 1": Variant(order=3, corrector=1),
    "SA 3, corrector 2": Variant(order=3, corrector=2),
    "2M, corrector 1": Variant(corrector=1),
    "2M, corrector 2": Variant(corrector=2),
    "2M, corrector 1, tau 0.8": Variant(corrector=1, tau=constant(0.8)),
    # The end.
    "no final denoise": Variant(denoise=False),
    "1 Langevin": Variant(langevin=1),
    "2 Langevin": Variant(langevin=2),
    "1 Langevin, size 1": Variant(langevin=1, langevin_size=1.0),
    # Some together.
    "no T-1, corrector 1": Variant(first=False, corrector=1),
    "no T-1, power 1.15": Variant(first=False, power=1.15),
    "no T-1, no final denoise": Variant(first=False, denoise=False),
}


def grid(variant: Variant, levels: np.ndarray, evaluations: int) -> list[int]:
    """The steps of a variant, noisiest first; without `denoise`, the last one is not evaluated.

    Args:
        levels: (num_timesteps,) half log SNR of every step.
    """
    last_step, hi = len(levels) - 1, min(round(variant.hi * len(levels)), len(levels) - 2)
    count = evaluations - variant.langevin - variant.first + (not variant.denoise)
    last = variant.last if variant.denoise else 0
    part = np.linspace(0, 1, count) ** variant.power
    points = levels[last] + part * (levels[hi] - levels[last])
    steps = [last + i for i in nearest_distinct(levels[last : hi + 1], points)]
    return (steps + [last_step] * variant.first)[::-1]


def weights(nodes: list[float], start: float, end: float, tau: float) -> list[float]:
    """What the predictions at `nodes` weigh in a step from lambda = start to end (Xue et al. 2023).

    They are (1 + tau^2) times the integral over u from 0 to h of exp(-(1 + tau^2) u) l(end - u),
    where l are the Lagrange polynomials of the nodes.
    """
    places, gauss = np.polynomial.legendre.leggauss(32)
    h, rate = end - start, 1 + tau**2
    u, gauss = h / 2 * (places + 1), h / 2 * gauss
    found = []
    for j, node in enumerate(nodes):
        others = [other for i, other in enumerate(nodes) if i != j]
        polynomial = np.prod([(end - u - other) / (node - other) for other in others], axis=0)
        found.append(float((gauss * rate * np.exp(-rate * u) * polynomial).sum()))
    return found


def weights_2m(nodes: list[float], start: float, end: float, tau: float) -> list[float]:
    """Those of DPM-Solver++ 2M: the prediction at mid-step, extrapolated from two."""
    gain = -np.expm1(-(1 + tau**2) * (end - start))
    if len(nodes) == 1:
        return [gain]
    half = (end - start) / (2 * (nodes[0] - nodes[1]))
    return [gain * (1 + half), -gain * half]


class Loop:
    """Runs one variant; `denoise` and `noise` are those of `cdm.sampling.samplers`.

    Attributes:
        evaluations: how often the last call asked the model.
    """

    def __init__(self, variant: Variant, diffusion, evaluations: int):
        alpha_bar = diffusion.alphas_cumprod
        self.levels = 0.5 * np.log(alpha_bar / (1 - alpha_bar))
        self.alpha, self.sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        self.start, self.variant, self.evaluations = len(alpha_bar), variant, 0
        self.steps = grid(variant, self.levels, evaluations)

    def __call__(self, denoise, noise):
        """x_0 of one batch."""
        variant, steps, self.evaluations = self.variant, self.steps, 0
        x, history, before = noise(self.start), [], None
        end = len(steps) - 1
        refined = range(end - variant.langevin, end)
        for i, t in enumerate(steps[: end + variant.denoise]):
            prediction = self._ask(denoise, x, t)
            if variant.denoise and i == end:
                return prediction
            # The corrector does the last step again, knowing the prediction at its end.
            if variant.corrector and before is not None:
                known = [(t, prediction), *history[: variant.corrector]]
                x = self._step(before, history[0][0], t, known, weights)
            # A Langevin step makes part of the noise anew at the same level.
            if i in refined:
                kept, mean = 1 - variant.langevin_size, float(self.alpha[t]) * prediction
                spread = float(self.sigma[t] * np.sqrt(1 - kept**2))
                x = mean + kept * (x - mean) + spread * noise(self.start + 1 + t)
                prediction = self._ask(denoise, x, t)
            # The predictor.
            history = [(t, prediction), *history][:3]
            order = 2 if variant.order == "2M" else variant.order
            rule = weights_2m if variant.order == "2M" else weights
            before = x, noise(t)
            x = self._step(before, t, steps[i + 1], history[:order], rule)
        return x

    def _ask(self, denoise, x, t):
        self.evaluations += 1
        return denoise(x, t)

    def _step(self, before, t: int, s: int, known: list, rule):
        """x at step s, from (x, noise) at step t and the known (step, prediction), newest first."""
        x, noise = before
        start, end = float(self.levels[t]), float(self.levels[s])
        last = not self.variant.denoise and s == self.steps[-1]  # goes to where nobody denoises
        tau = 0.0 if last else self.variant.tau((start + end) / 2)
        h, scale = end - start, float(self.alpha[s])
        out = float(self.sigma[s] / self.sigma[t] * np.exp(-(tau**2) * h)) * x
        found = rule([float(self.levels[step]) for step, _ in known], start, end, tau)
        for weight, (_, prediction) in zip(found, known, strict=True):
            out = out + scale * weight * prediction
        spread = float(self.sigma[s] * np.sqrt(-np.expm1(-2 * tau**2 * h)))
        return out + spread * noise if spread else out


class LoopRunner(Plain):
    """Runs a `Loop` where `Plain` runs the updates of a sampler."""

    def __init__(self, model, diffusion, loop: Loop):
        super().__init__(model, diffusion, [])
        self.loop = loop

    def prepare(self, inputs):
        """Compile and allocate on a GPU what the first batch would wait for."""
        if inputs[0].is_cuda:
            self.run(inputs)

    def run(self, inputs, callback=None):
        """See `Plain.run`."""
        keys, c_text, c_pc_xyz, c_pc_feat = inputs
        denoise = self.model.condition(c_text, c_pc_xyz, c_pc_feat)
        shape = c_pc_xyz.shape[1], self.model.architecture.contact_dim

        def noise(step: int):
            values = philox.normal(keys, step, *shape, c_pc_xyz.device)
            return values if denoise.order is None else gather_points(values, denoise.order)

        x_0 = self.loop(denoise, noise)
        return x_0 if denoise.inverse is None else gather_points(x_0, denoise.inverse)
