"""Numbers and sentences of the report: digits that their interval warrants, and what to see.

A value is shown with the digits that its interval leaves standing. The interval's half width keeps
one digit, or two where the first of them is 1 or 2. More digits would say more than was measured.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cdm.evaluation.measure_table import measure_of

MOST_DECIMALS = 4
Measured = Mapping[str, Any]  # a measure of a group in metrics.json


class Shown(NamedTuple):
    """A value and the ends of its interval as texts.

    Attributes:
        value, low, high: numbers with equal decimals; `-` where there is none.
        unit: `%` for shares, `m` for metres, or "".
    """

    value: str
    low: str
    high: str
    unit: str

    @property
    def text(self) -> str:
        """The value with its unit."""
        return f"{self.value} {self.unit}".strip()


def decimals(low: float, high: float) -> int:
    """Decimals that an interval warrants, 0 to MOST_DECIMALS.

    An interval without a width (a single item) says nothing of digits: two decimals.
    """
    half = (high - low) / 2
    if not (math.isfinite(half) and half > 0):
        return 2
    power = math.floor(math.log10(half))
    digits = 2 if half / 10**power < 3 else 1
    return min(MOST_DECIMALS, max(0, digits - 1 - power))


def shown(name: str, measure: Measured) -> Shown:
    """A measured value as tables and sentences show it; shares in percent.

    Args:
        name: of the measure.
        measure: its value, low and high.
    """
    is_share = measure_of(name).is_share
    ends = [measure[key] for key in ("value", "low", "high")]
    if any(end is None or math.isnan(end) for end in ends):
        return Shown("-", "-", "-", "")
    scaled = [100 * end if is_share else end for end in ends]
    places = 0 if is_share and scaled[1] == scaled[2] else decimals(*scaled[1:])
    texts = [f"{end:.{places}f}" for end in scaled]
    return Shown(texts[0], texts[1], texts[2], "%" if is_share else measure["unit"])


def percent(share: float) -> str:
    """A share as whole percent."""
    return f"{100 * share:.0f} %"


def plural(count: int, noun: str) -> str:
    """`1 map`, `2 maps`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


# --- what was run --------------------------------------------------------------------------------


def what_was_run(plan, summary: Mapping[str, Any]) -> list[str]:
    """The run in sentences: what was sampled, from which model, and what is missing.

    Args:
        plan: of the run (`cdm.run.plan.Plan`).
        summary: content of metrics.json.
    """
    config, sampler = plan.config, summary["sampler"]
    k, items = sampler["k_samples"], summary["groups"][0]["num_items"]
    sets = [group["name"] for group in summary["groups"] if group["kind"] == "set"]
    of_each = "one" if k == 1 else str(k)
    of_what = f"of the {plural(items, 'item')} of {', '.join(sets)} ({config.dataset.phase})"
    if summary["num_samples"] != items:
        of_what = f"of the {plural(summary['num_samples'], 'caption')} {of_what}"
    sentences = [
        f"This page measures {plural(k * summary['num_samples'], 'map')}: {of_each} for each "
        f"{of_what}. A map tells how close {_joints(plan.architecture.contact_dim)} to each of "
        f"{config.dataset.num_points:,} points of the scene.",
        f"The maps were sampled by {plan.architecture.arch} with {sampler['method']}, in "
        f"{sampler['steps']} of its {sampler['of']} steps.",
    ]
    if summary["skipped"]:
        skipped = plural(summary["skipped"], "sample")
        sentences.append(f"{skipped} skipped: cdm status {config.run_dir} tells why.")
    return sentences


def _joints(count: int) -> str:
    return "a joint of the body comes" if count == 1 else f"{count} joints of the body come"


def run_facts(
    plan, summary: Mapping[str, Any], versions: Mapping[str, Mapping[str, int]]
) -> list[tuple[str, str]]:
    """Label and value of all that decides the numbers.

    Args:
        plan, summary: as in `what_was_run`.
        versions: library -> version -> number of chunks that were made with it.
    """
    config, architecture, evaluation = plan.config, plan.architecture, summary["evaluation"]
    sampler, checkpoint = summary["sampler"], summary["checkpoint"]
    sizes = ", ".join(f"{key} {value}" for key, value in architecture.sizes.items())
    grid = str(config.diffusion.timestep_respacing or "all steps")
    libraries = (f"{name} {' and '.join(each)}" for name, each in versions.items())
    return [
        ("archive", summary["archive"]),
        ("checkpoint", checkpoint["path"]),
        ("sha256", checkpoint["sha256"]),
        ("model", f"{architecture.arch} ({sizes})"),
        ("sampler", f"{sampler['method']}, eta {sampler['eta']:g}"),
        ("steps", f"{sampler['steps']} of {sampler['of']} ({grid})"),
        ("noise schedule", config.diffusion.noise_schedule),
        ("maps a sample", str(sampler["k_samples"])),
        ("precision", sampler["precision"]),
        ("seed", str(config.seed)),
        ("statistics", plan.statistics.path),
        ("versions", ", ".join(libraries)),
        (
            "intervals",
            f"{100 * evaluation['confidence']:g} %, {evaluation['resamples']} bootstrap draws of "
            f"items, seed {evaluation['seed']}",
        ),
    ]


# --- what a figure shows -------------------------------------------------------------------------


def found_caption(groups: Sequence[Mapping[str, Any]], radius: float) -> str:
    """What to see in the figure of found_target, for all samples and by action."""
    measures = groups[0]["measures"]
    found, chance = measures["found_target"], measures["found_target_chance"]
    all_shown = shown("found_target", found)
    text = (
        f"In {all_shown.text} of the maps (interval {all_shown.low} to {all_shown.high} %), the "
        f"point closest to the pelvis lies within {radius:g} m of the target object. Of all points "
        f"of the scenes, {shown('found_target_chance', chance).text} lie there: that is chance. "
    )
    if found["low"] > chance["high"]:
        text += "So the maps find the object. "
    else:
        text += f"With {plural(found['num_items'], 'item')}, this is not told from chance. "
    actions = [
        (group["name"], group["measures"]["found_target"])
        for group in groups
        if group["kind"] == "action" and "found_target" in group["measures"]
    ]
    if len(actions) < 2:
        return text.strip()
    (worst, low), *_, (best, high) = sorted(actions, key=lambda each: each[1]["value"])
    if high["low"] > low["high"]:
        return f"{text}It is found most often for “{best}”, and least often for “{worst}”."
    return (
        f"{text}The intervals of the actions overlap, so these items do not tell for which action "
        "it is found more often."
    )


def errors_caption(errors: Sequence[float]) -> str:
    """What to see in the distribution of the pelvis point's errors."""
    half, most = np.quantile(errors, [0.5, 0.9])
    return (
        f"Of {plural(len(errors), 'sample')}, half lie within {half:.2g} m of the true point, and "
        f"nine in ten within {most:.2g} m. Each line tells the share of samples whose error is at "
        "most so large. The further left a line rises, the better. A long flat part to the right "
        "means maps at a wrong place in the room."
    )


def overlap_caption(measures: Mapping[str, Measured], family: str) -> str:
    """What to see in the overlap of points, for TKCO or IoU."""
    names = [name for name in measures if name.startswith(f"{family}@")]
    if not names:  # only on the target
        names = [name for name in measures if f"{family}@" in name]
    name = names[-1]
    at, value = name.partition("@")[2], shown(name, measures[name]).text
    if family == "TKCO":
        return (
            f"Of the {at} points closest to a joint, {value} are the same in map and truth (mean "
            "over joints). Higher is better. The target object has fewer points than the scene, so "
            "its line lies higher for maps of the same quality."
        )
    return (
        f"Of the points that are within {at} m of a joint in map or truth, {value} are so in both. "
        "Higher is better. The smaller the threshold, the fewer points are in contact, and the "
        "harder it is to agree on them."
    )
