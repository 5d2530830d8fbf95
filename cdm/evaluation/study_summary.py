"""What a study found, as the content of summary.json (no torch)."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cdm.config import Config
from cdm.evaluation.bootstrap import bootstrap
from cdm.evaluation.study import STUDY_VERSION, Setting, SettingResult
from cdm.evaluation.study_looks import Chains, Look, Outcome, chains_of
from cdm.evaluation.study_rule import (
    DIVERSITY,
    ENERGY,
    POWER,
    RULE,
    Judgement,
    fewest_steps,
)
from cdm.evaluation.summary import describe_measure, intervals

FULL, REPEAT, COMPARED = "full", "repeat", "compared"  # roles of settings


def summarise_study(outcome: Outcome, config: Config, checkpoint: str = "") -> dict[str, Any]:
    """Every setting's measures with intervals, what tells it apart, and what is recommended.

    Args:
        outcome: of `run_looks`.
        config: sections `diffusion`, `evaluation` and `compare`.
        checkpoint: sha256 of the weights.
    Returns:
        The content of summary.json. `settings` has the pooled full chains, then each full chain
        held against the others, then every other setting.
    """
    # The full chains, and every other setting against them.
    full, *compared = outcome.draws
    last = outcome.looks[-1]
    chains = chains_of(outcome, config, last.samples)
    settings = [_compared(setting, outcome, config, chains) for setting in compared]
    recommended, reason = _recommend(settings, outcome, chains, config)

    # What was drawn and what could be seen, then the settings.
    rule, results = chains.rule, outcome.draws[full]
    pooled = _pooled(full, results, chains, config)
    keys = ("method", "respacing", "steps", "seconds_per_map")
    return {
        "version": STUDY_VERSION,
        "rule": RULE,
        "recommended": {key: (recommended or pooled)[key] for key in keys},
        "reason": reason,
        "checkpoint": checkpoint,
        "full_steps": full.steps,
        "num_samples": last.samples,
        "num_items": chains.num_items,
        "k_samples": config.compare.k_samples,
        "full_chains": len(results),
        "draws": config.compare.draws,
        "looks": [asdict(look) for look in outcome.looks],
        "detect": config.compare.detect,
        "detectable": {
            DIVERSITY: rule.detectable_diversity(),
            ENERGY: rule.detectable_energy(),
            "power": POWER,
        },
        "limits": {
            ENERGY: rule.energy_limit,
            DIVERSITY: rule.diversity_limit / _diversity(rule.pooled, chains),
            "outside": rule.count_limit,
            "farthest": rule.farthest_limit,
        },
        "evaluation": asdict(config.evaluation),
        "measures": {name: describe_measure(name) for name in chains.names},
        "settings": [pooled, *_left_out(full, results, chains, config), *settings],
    }


def _recommend(
    settings: list[dict], outcome: Outcome, chains: Chains, config: Config
) -> tuple[dict | None, str]:
    """The setting that is recommended, None for the full chain, and why in a sentence."""
    best = fewest_steps(settings)
    if best is None:
        return None, "every other sampler was told apart from the full chain"
    if not outcome.enough:
        return None, (
            f"not enough items: only a difference above "
            f"{chains.rule.detectable_diversity():.1%} in diversity would have been seen, and "
            f"{config.compare.detect:.1%} is asked for (compare.detect). "
            f"{best['method']} {best['respacing'] or 'all'} has the fewest steps of those not told "
            "apart"
        )
    return best, "it has the fewest steps of those not told apart from the full chain"


def _compared(setting: Setting, outcome: Outcome, config: Config, chains: Chains) -> dict[str, Any]:
    """What the summary says of a setting, at the last look that it was drawn for."""
    # The full chains of as many samples.
    draws = outcome.draws[setting]
    look: Look = next(each for each in outcome.looks if each.samples == len(draws[0].items))
    if look.samples != outcome.looks[-1].samples:
        chains = chains_of(outcome, config, look.samples)

    # All draws together, and each by itself.
    judged = chains.judge(draws, look.early)
    each = [chains.values([draw])[0] for draw in draws]
    values = np.mean(each, axis=0)
    by_draw = [
        {
            "diversity_ratio": _diversity(own, chains) / _diversity(chains.rule.pooled, chains),
            ENERGY: float(chains.judge([draw]).energy.mean()),
        }
        for own, draw in zip(each, draws, strict=True)
    ]
    return _entry(setting, COMPARED, draws, chains, config) | {
        "told_apart_by": list(judged.told_apart_by),
        **_held_against(values, chains.rule.pooled, judged, chains, config),
        "draws": by_draw,
    }


def _left_out(
    setting: Setting, draws: Sequence[SettingResult], chains: Chains, config: Config
) -> list[dict[str, Any]]:
    """Each full chain held against the others."""
    values = chains.values(draws)
    entries = []
    for number, draw in enumerate(draws):
        others = np.delete(values, number, axis=0).mean(axis=0)
        judged = chains.rule.judge_left_out(number)
        found = _held_against(values[number], others, judged, chains, config)
        entries.append(_entry(setting, REPEAT, [draw], chains, config) | found)
    return entries


def _pooled(
    setting: Setting, draws: Sequence[SettingResult], chains: Chains, config: Config
) -> dict[str, Any]:
    """What the summary says of the pooled full chains."""
    found = intervals(chains.rule.pooled, chains.names, config.evaluation)
    bounds = zip(chains.names, chains.rule.bounds.tolist(), strict=True)
    measures = {name: found[name]._asdict() | {"bound": bound} for name, bound in bounds}
    return _entry(setting, FULL, draws, chains, config) | {"measures": measures}


def _entry(
    setting: Setting, role: str, draws: Sequence[SettingResult], chains: Chains, config: Config
) -> dict[str, Any]:
    """What is known of a setting beside how it compares."""
    return {
        "method": setting.method,
        "respacing": setting.respacing,
        "grid": setting.grid,
        "steps": setting.steps,
        "role": role,
        "num_items": chains.num_items,
        "k_samples": config.compare.k_samples,
        "seconds_per_map": float(np.mean([draw.seconds_per_map for draw in draws])),
        "device": ", ".join(dict.fromkeys(draw.device for draw in draws)),
        "told_apart_by": [],
        "outside": [],
        "farthest": None,
        "diversity_ratio": 1.0,
        ENERGY: None,
        "draws": [],
    }


def _held_against(
    values: np.ndarray, others: np.ndarray, judged: Judgement, chains: Chains, config: Config
) -> dict[str, Any]:
    """How values (I, M) compare with those of other draws: what differs, and by how much."""
    # Every measure with its interval over items.
    options = {key: getattr(config.evaluation, key) for key in ("resamples", "confidence", "seed")}
    found = intervals(values, chains.names, config.evaluation)
    differences = bootstrap(values - others, **options)
    measures = {
        name: found[name]._asdict() | {"mean_difference": difference._asdict()}
        for name, difference in zip(chains.names, differences, strict=True)
    }

    # What is outside, and the two values that the rule looks at first.
    place = int(np.abs(judged.z).argmax())
    [energy] = bootstrap(judged.energy[:, None], **options)
    return {
        "outside": [n for n, out in zip(chains.names, judged.outside, strict=True) if out],
        "farthest": {"measure": chains.names[place], "z": float(judged.z[place])},
        "diversity_ratio": _diversity(values, chains) / _diversity(others, chains),
        ENERGY: energy._asdict(),
        "measures": measures,
    }


def _diversity(values: np.ndarray, chains: Chains) -> float:
    return float(np.nanmean(values[:, chains.rule.diversity]))
