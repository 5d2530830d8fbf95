"""The study round by round: draw, look, drop what is told apart, stop when it is answered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cdm.config import Config
from cdm.evaluation.measure_table import sort_names
from cdm.evaluation.study import (
    Setting,
    SettingResult,
    evaluations,
    full_chain,
    join_rounds,
    num_draws,
    rounds,
    study_settings,
)
from cdm.evaluation.study_rule import DIVERSITY, FullChains, Judgement
from cdm.evaluation.summary import by_item
from cdm.jobs.progress import duration

Draw = Callable[[Setting, int, range], SettingResult]


@dataclass(frozen=True)
class Look:
    """What was seen after a round.

    Attributes:
        samples: drawn so far.
        early: whether another look followed, or could have.
        detectable: the relative difference in diversity that would be seen.
        told_apart: names of the settings that were told apart at this look.
    """

    samples: int
    early: bool
    detectable: float
    told_apart: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """All that a study drew.

    Attributes:
        draws: setting -> its draws over all of its rounds. The full chain comes first. A setting
            that was dropped early has fewer samples than the full chain.
        looks: in their order.
        enough: whether the last look would have seen a difference of `compare.detect`.
    """

    draws: dict[Setting, list[SettingResult]]
    looks: list[Look]
    enough: bool


def run_looks(
    config: Config, available: int, draw: Draw, log: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Draw round after round until the question is answered.

    How many rounds there are depends on the full chains alone, and not on how a sampler compares
    with them. So stopping early makes no sampler look better or worse.

    Args:
        config: section `compare`.
        available: samples that can be drawn.
        draw: draw(setting, number, positions) draws and measures the samples at these positions.
        log: gets a line with what is drawn and how long it takes, before each round and after the
            first draw, and a line with what was seen after each round.
    """
    full, *active = study_settings(config)
    parts, looks = rounds(config, available), []
    drawn: dict[Setting, list[list[SettingResult]]] = {
        setting: [[] for _ in range(num_draws(config, setting))] for setting in [full, *active]
    }
    for number, positions in enumerate(parts, start=1):
        # Draw this round of the full chain and of every setting that is left.
        left = parts[-1].stop - positions.start
        log(
            f"round {number} of at most {len(parts)}: {len(positions)} samples of "
            f"{', '.join(setting.name for setting in [full, *active])}"
        )
        for setting in [full, *active]:
            for i, results in enumerate(drawn[setting]):
                results.append(draw(setting, i, positions))
                if setting == full and i == 0:
                    log(forecast(config, [full, *active], results[-1], len(positions), left))

        # Look: are there enough items, and what is told apart?
        joined = {setting: list(map(join_rounds, each)) for setting, each in drawn.items()}
        chains = Chains(joined[full], config)
        detectable = chains.rule.detectable_diversity()
        enough = detectable <= config.compare.detect
        last = enough or number == len(parts)
        judged = {each: chains.judge(joined[each], early=not last) for each in active}
        told_apart = [each for each in active if judged[each].told_apart_by]
        names = tuple(each.name for each in told_apart)
        looks.append(Look(positions.stop, not last, detectable, names))
        log(
            f"{positions.stop} samples: a difference of {detectable:.1%} in diversity would be "
            f"seen; told apart: {', '.join(names) or 'none'}"
        )
        if last:
            break
        active = [each for each in active if each not in told_apart]
        if not active:
            break
    return Outcome(joined, looks, enough)


def forecast(
    config: Config, settings: Sequence[Setting], first: SettingResult, samples: int, left: int
) -> str:
    """How long a round takes, and the study if no sampler is dropped and no round left out.

    Args:
        config: section `compare`.
        settings: that the round draws.
        first: the round's first draw, which tells the seconds of an evaluation. It may have been
            finished by an earlier study, so the line names its device.
        samples: of this round.
        left: samples of this round and of all that may follow.
    """
    each = first.seconds_per_map / first.setting.steps
    this, most = (each * evaluations(config, settings, count) for count in (samples, left))
    return (
        f"sampling takes about {duration(this)} for this round and at most {duration(most)} from "
        f"its start to the study's end ({1e3 * each:.3g} ms an evaluation on {first.device})"
    )


class Chains:
    """The full chains of some samples, and how draws of the same samples compare with them.

    Attributes:
        names: of the measures that some sample has.
        num_items: items of the samples.
        rule: see `FullChains`.
    """

    def __init__(self, chains: Sequence[SettingResult], config: Config):
        self.names = sort_names(
            name for name, v in chains[0].values.items() if np.isfinite(v).any()
        )
        items = {item: i for i, item in enumerate(dict.fromkeys(chains[0].items))}
        self.num_items = len(items)
        self.rule = FullChains(
            self.values(chains),
            self.maps(chains),
            np.array([items[item] for item in chains[0].items]),
            diversity=self.names.index(DIVERSITY),
            draws=config.compare.draws,
            confidence=config.evaluation.confidence,
            seed=config.evaluation.seed,
        )

    def values(self, draws: Sequence[SettingResult]) -> np.ndarray:
        """(d, I, M): of each draw and item, the mean over the item's samples."""
        return np.array([item_values(draw, self.names) for draw in draws])

    @staticmethod
    def maps(draws: Sequence[SettingResult]) -> np.ndarray:
        """(d, S, k, P) projections."""
        return np.array([draw.projections for draw in draws])

    def judge(self, draws: Sequence[SettingResult], early: bool = False) -> Judgement:
        """How draws of a setting compare with the full chains, see `FullChains.judge`."""
        return self.rule.judge(self.values(draws), self.maps(draws), early)


def item_values(result: SettingResult, names: Sequence[str]) -> np.ndarray:
    """(num_items, len(names)): the mean over an item's samples."""
    nothing = np.full(len(result.items), np.nan)
    columns = np.stack([result.values.get(name, nothing) for name in names], axis=1)
    if len(set(result.items)) == len(result.items):
        return columns
    rows = [dict(zip(names, row, strict=True)) for row in columns.tolist()]
    return by_item(result.items, rows, names)


def chains_of(outcome: Outcome, config: Config, samples: int) -> Chains:
    """The full chains of the first samples."""
    return Chains([r.take(range(samples)) for r in outcome.draws[full_chain(config)]], config)
