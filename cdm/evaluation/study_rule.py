"""The rule of the study: is a sampler the full chain, as far as one can see (numpy alone).

The full chain is drawn F times, every other sampler d times, all with independent noise. If a
sampler is as good as the full chain, its draws and the full chain's are draws of one distribution,
item by item. Whatever then differs is chance, and the full chains alone tell how large chance is:
one of them, held against the others, differs by chance and by nothing else.

Which chain is taken out is chosen for each item anew. That gives thousands of comparisons in place
of F, and all measures keep their correlation, because an item's measures stay together. It is the
randomisation test for paired data (Fisher 1935), with the full chains as the units.

Shapes: F full chains, d draws, I items, M measures, S samples (captions), k maps of a sample in one
draw, P projections of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, cast

import numpy as np

from cdm.evaluation.metrics import energy_distances

LEVEL = 0.01  # how often each of the four parts tells a right sampler apart, at the last look
EARLY_DEVIATIONS = 4.0  # of chance: what is clear at an earlier look, when items are few
POWER = 0.8  # how often a difference that "would have been seen" is seen
RELABELLINGS = 4000  # times that one chain of each item is taken out
ENERGY, DIVERSITY = "energy_distance", "diversity"
COUNT, FARTHEST = "number outside", "farthest measure"  # the other two parts
RULE = (
    "The full chain is drawn several times with independent noise, and these draws are pooled. A "
    "sampler is held against the pool item by item, so that what differs between items cancels. "
    "How much chance alone differs is found from the full chains themselves: of each item, one of "
    "them, chosen at random, is held against the others; this is done 4000 times. A sampler is "
    "told apart if one of four values is larger than chance makes it in 99 of 100 studies: (1) "
    "its energy distance to the pool, (2) its difference in diversity, in either direction, (3) "
    "the number of measures outside their own bounds, which lie symmetrically around the pooled "
    "value and hold 95 of 100 values of a full chain, and (4) the distance of the measure that is "
    "farthest off. Rounds of items are added until a difference in diversity of compare.detect "
    "would be seen in 80 of 100 studies. After an earlier round, a sampler is drawn no further if "
    "its energy distance or diversity is 4 standard deviations of chance away. The whole study "
    "tells a right sampler apart in about 5 of 100 cases at most. Of the samplers that are not "
    "told apart, the one with the fewest steps is recommended; of several with as many steps, the "
    "one with the smallest energy distance. If too few items were drawn to see such a difference, "
    "none is recommended."
)


def quantile(share: float) -> float:
    """The value that a standard normal stays below with this probability."""
    return NormalDist().inv_cdf(share)


def left_out(chains: np.ndarray) -> np.ndarray:
    """Each chain's difference to the mean of the others: (F, ...) from (F, ...)."""
    count = len(chains)
    return (chains - chains.mean(axis=0)) * (count / (count - 1))


def mean_scale(chains: int, draws: int) -> float:
    """Standard deviation of (d draws - F chains), relative to that of (1 chain - F - 1 chains).

    Both are differences of means of independent draws with one variance.
    """
    return float(np.sqrt((1 / draws + 1 / chains) / (1 + 1 / (chains - 1))))


def energy_scale(chains: int, draws: int, k: int) -> float:
    """As `mean_scale`, for energy distances between d k maps and F k maps of one distribution.

    Between m and n maps, the estimate has the variance of a degenerate U-statistic: it goes with
    4 / (m n) + 2 / (m (m - 1)) + 2 / (n (n - 1)).
    """

    def variance(m: int, n: int) -> float:
        return 4 / (m * n) + 2 / (m * (m - 1)) + 2 / (n * (n - 1))

    return float(np.sqrt(variance(draws * k, chains * k) / variance(k, (chains - 1) * k)))


def pool(maps: np.ndarray) -> np.ndarray:
    """The maps of several draws as one set of each sample: (d, S, k, P) to (S, d k, P)."""
    return np.concatenate(list(maps), axis=1)


def mean_of_items(values: np.ndarray, item_of: np.ndarray) -> np.ndarray:
    """Values of samples (..., S) averaged over the samples of each item: (..., I)."""
    counts = np.bincount(item_of)
    of_item = np.zeros((*values.shape[:-1], len(counts)))
    np.add.at(of_item, cast(Any, (..., item_of)), values)
    return of_item / counts


def relabelled(differences: np.ndarray, seed: int, times: int) -> np.ndarray:
    """Means over items, one chain of each item being chosen at random: (times, M).

    Args:
        differences: (F, I, M), see `left_out`; NaN where an item has no value in any chain.
        seed: of `numpy.random.default_rng`.
    """
    chains, items, _ = differences.shape
    counts = np.maximum(1, np.isfinite(differences[0]).sum(axis=0))
    filled = np.nan_to_num(differences)
    labels = np.random.default_rng(seed).integers(0, chains, (times, items))
    return sum((labels == f).astype(np.float64) @ filled[f] for f in range(chains)) / counts


def resampled(energies: np.ndarray, seed: int, times: int) -> np.ndarray:
    """Means over items drawn with replacement, one chain of each at random: (times,).

    For energy distances (F, I) that is needed, because those of an item's chains depend on each
    other: with two chains they are even equal. Their expectation is 0, so their mean is taken off.
    """
    picked = np.random.default_rng(seed).integers(0, energies.size, (times, energies.shape[1]))
    return (energies - energies.mean()).ravel()[picked].mean(axis=1)


@dataclass(frozen=True)
class Judgement:
    """How a sampler compares with the pooled full chains.

    Attributes:
        shift: (M,) mean difference to the pool.
        outside: (M,) bool, the measures outside their bounds.
        z: (M,) shift in standard deviations of chance.
        energy: (I,) energy distance of each item.
        told_apart_by: the parts of the rule that tell it apart; empty if none does.
    """

    shift: np.ndarray
    outside: np.ndarray
    z: np.ndarray
    energy: np.ndarray
    told_apart_by: tuple[str, ...]


class FullChains:
    """The pooled full chains, and what chance alone makes of d draws of the same sampler.

    Args:
        values: (F, I, M), of at least two chains; NaN where an item has no value.
        maps: (F, S, k, P), at least two maps.
        item_of: (S,) the item of each sample, numbered from 0.
        diversity: column of the measure `diversity`.
        draws: d, of the samplers that will be judged.
        confidence: share of a full chain's values that lie inside a measure's bounds.
        seed: of the relabellings.
    Attributes:
        pooled: (I, M), mean over the chains.
        bounds: (M,), largest |shift| of a measure that is not outside.
        count_limit: largest number of measures outside that does not tell a sampler apart.
        farthest_limit: largest |z| of one measure that does not.
        energy_limit, diversity_limit: the same of the two other parts, at the last look.
        energy_error, diversity_error: standard deviations of chance.
    """

    def __init__(
        self,
        values: np.ndarray,
        maps: np.ndarray,
        item_of: np.ndarray,
        diversity: int,
        draws: int,
        confidence: float = 0.95,
        seed: int = 0,
    ):
        chains, _, k, _ = maps.shape
        self.item_of, self.diversity = item_of, diversity
        self.pooled, self.maps = values.mean(axis=0), pool(maps)
        self.scale = mean_scale(chains, draws)

        # What chance makes of the measures' means.
        self.left_out = left_out(values)
        chance = relabelled(self.left_out, seed, RELABELLINGS) * self.scale
        self.deviation = self._deviation(self.left_out) * self.scale
        self.bounds = np.quantile(np.abs(chance), confidence, axis=0)
        self.diversity_error = float(self.deviation[diversity])
        self.diversity_limit = quantile(1 - LEVEL / 2) * self.diversity_error

        # How many measures chance puts outside, and how far the farthest of them.
        outside = self._outside(chance).sum(axis=1)
        self.count_limit = int(np.quantile(outside, 1 - LEVEL, method="higher"))
        farthest = np.abs(self._z(chance)).max(axis=1)
        self.farthest_limit = float(np.quantile(farthest, 1 - LEVEL))

        # What chance makes of the energy distance. Its mean is 0: the estimate is unbiased.
        scale = energy_scale(chains, draws, k)
        others = (pool(np.delete(maps, f, axis=0)) for f in range(chains))
        each = [energy_distances(own, rest) for own, rest in zip(maps, others, strict=True)]
        self.left_out_energy = mean_of_items(np.array(each), item_of)
        squares = np.square(self.left_out_energy).mean()
        self.energy_error = float(np.sqrt(squares / self.left_out_energy.shape[1]) * scale)
        chance = resampled(self.left_out_energy, seed, RELABELLINGS) * scale
        self.energy_limit = float(np.quantile(chance, 1 - LEVEL))

    def judge(self, values: np.ndarray, maps: np.ndarray, early: bool = False) -> Judgement:
        """Hold d draws of a sampler against the pool.

        Args:
            values: (d, I, M).
            maps: (d, S, k, P).
            early: whether this is not the last look. With few items, the tails of chance are not
                well known, so only what is clear tells a sampler apart then.
        """
        # How it differs.
        differences = values.mean(axis=0) - self.pooled
        counts = np.maximum(1, np.isfinite(differences).sum(axis=0))
        shift = np.nansum(differences, axis=0) / counts
        energy = mean_of_items(energy_distances(pool(maps), self.maps), self.item_of)
        outside, z = self._outside(shift), self._z(shift)

        # Which parts of the rule tell it apart.
        if early:
            energy_limit = EARLY_DEVIATIONS * self.energy_error
            diversity_limit = EARLY_DEVIATIONS * self.diversity_error
            found = {}
        else:
            energy_limit, diversity_limit = self.energy_limit, self.diversity_limit
            found = {
                COUNT: outside.sum() > self.count_limit,
                FARTHEST: np.abs(z).max() > self.farthest_limit,
            }
        found |= {
            ENERGY: energy.mean() > energy_limit,
            DIVERSITY: abs(shift[self.diversity]) > diversity_limit,
        }
        return Judgement(shift, outside, z, energy, tuple(part for part in found if found[part]))

    def judge_left_out(self, number: int) -> Judgement:
        """Hold one of the full chains against the others: what chance looks like.

        Bounds and limits are scaled to the larger differences between fewer draws.
        """
        differences = self.left_out[number]
        counts = np.maximum(1, np.isfinite(differences).sum(axis=0))
        shift = np.nansum(differences, axis=0) / counts
        scaled = shift * self.scale
        energy = self.left_out_energy[number]
        return Judgement(shift, self._outside(scaled), self._z(scaled), energy, ())

    def detectable_diversity(self) -> float:
        """The relative difference in diversity that is seen with the probability POWER."""
        value = np.nanmean(self.pooled[:, self.diversity])
        seen = (quantile(1 - LEVEL / 2) + quantile(POWER)) * self.diversity_error
        return float(seen / value) if value > 0 else float("inf")

    def detectable_energy(self) -> float:
        """The energy distance that is seen with the probability POWER."""
        return self.energy_limit + quantile(POWER) * self.energy_error

    def _deviation(self, differences: np.ndarray) -> np.ndarray:
        """Standard deviation of a mean over items: (M,) from (F, I, M) with mean 0."""
        counts = np.maximum(1, np.isfinite(differences[0]).sum(axis=0))
        return np.sqrt(np.nansum(np.square(differences).mean(axis=0), axis=0)) / counts

    def _outside(self, shift: np.ndarray) -> np.ndarray:
        # A measure that no chain changes has the bound 0, up to rounding.
        return np.abs(shift) > self.bounds * (1 + 1e-9) + 1e-12

    def _z(self, shift: np.ndarray) -> np.ndarray:
        known = self.deviation > 1e-12
        return np.where(known, shift / np.where(known, self.deviation, 1), 0)


def fewest_steps(settings: Sequence[dict]) -> dict | None:
    """Of the settings that are not told apart, the one with the fewest steps.

    Of several with as many steps, it is the one with the smallest energy distance.
    """
    fit = [setting for setting in settings if not setting["told_apart_by"]]
    return min(fit, key=lambda each: (each["steps"], each[ENERGY]["value"]), default=None)
