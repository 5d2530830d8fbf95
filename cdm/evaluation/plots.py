"""Figures of evaluations and trainings (needs matplotlib).

Texts in figures come from captions, folder names and configurations, so none of them is parsed as
mathematics: in matplotlib, a caption such as `$\\frac$` would end the report.
"""

import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from cdm.datasets.actions import action_of
from cdm.errors import printable
from cdm.evaluation.measure_table import TARGET
from cdm.evaluation.study_rule import DIVERSITY, ENERGY
from cdm.files import write_bytes

# Not the reader's matplotlibrc: it may ask for LaTeX, for another format, or for other sizes.
matplotlib.rcdefaults()
matplotlib.rcParams["text.parse_math"] = False
DPI = 110
ENDS = ("value", "low", "high")  # of an interval
LINE_LENGTH = 60  # characters of a title or a label, at most


def save(figure, path: Path) -> str:
    """Write a figure as PNG, whole or not at all; returns the file's name."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Matplotlib's font does not have every script; a caption in another one shows as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(content, dpi=DPI, format="png", bbox_inches="tight")
    plt.close(figure)
    write_bytes(path, content.getvalue())
    return path.name


def short_line(text: str, most: int = LINE_LENGTH) -> str:
    """A text for a title or a label: one line of at most so many characters, nothing invisible."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


# --- an evaluation -------------------------------------------------------------------------------


def plot_evaluation(summary: Mapping[str, Any], measured, folder: Path) -> list[str]:
    """Write the figures that the measures permit; returns the names of the files.

    Args:
        summary: content of metrics.json.
        measured: `cdm.evaluation.evaluate.Measured`, the values of each sample.
        folder: where the figures are written.
    """
    figures = []
    groups = summary["groups"]
    if "found_target" in groups[0]["measures"]:
        figures.append(save(draw_found_target(groups), folder / "found_target.png"))
    if "pelvis_point_error" in groups[0]["measures"]:
        rows = zip(measured.samples, measured.rows, strict=True)
        errors = [
            (action_of(sample.text) or "other", row["pelvis_point_error"])
            for sample, row in rows
            if "pelvis_point_error" in row
        ]
        figures.append(save(draw_pelvis_errors(errors), folder / "pelvis_point_error.png"))
    if any("@" in name for name in groups[0]["measures"]):
        figures.append(save(_localisation(groups), folder / "localisation.png"))
    return figures


def _ink() -> str:
    """The colour of text, in which the most important line is drawn too."""
    return matplotlib.rcParams["text.color"]


def draw_found_target(groups):
    """Share of maps at the right object, beside chance, for all samples and for each action."""
    shown = [g for g in groups if g["kind"] != "set" and "found_target" in g["measures"]]
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(shown), 3.6))
    places = np.arange(len(shown))
    found, chance = (
        [group["measures"][name] for group in shown]
        for name in ("found_target", "found_target_chance")
    )
    bars = {"yerr": _errors(found), "capsize": 3, "ecolor": _ink()}
    axes.bar(places, [m["value"] for m in found], 0.6, label="maps", **bars)
    axes.scatter(
        places, [m["value"] for m in chance], marker="_", s=900, color="C1", lw=2.5, label="chance"
    )
    labels = [f"{short_line(group['name'], 20)}\n{group['num_items']} items" for group in shown]
    axes.set_xticks(places, labels)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("pelvis point at the target object")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, markerscale=0.4)
    return figure


def draw_pelvis_errors(errors_by_action: Iterable[tuple[str, float]]):
    """Cumulative distribution of the pelvis point's error, for all samples and by action.

    Args:
        errors_by_action: action and error in metres of each sample.
    """
    errors_of: dict[str, list[float]] = {"all": []}
    for action, error in errors_by_action:
        for label in ("all", action):
            errors_of.setdefault(label, []).append(error)
    figure, axes = plt.subplots(figsize=(5.2, 3.6))
    for action, errors in errors_of.items():
        style = {"color": _ink(), "linewidth": 2} if action == "all" else {}
        shares = np.arange(1, len(errors) + 1) / len(errors)
        axes.step(np.sort(errors), shares, where="post", label=f"{action} ({len(errors)})", **style)
    axes.set_xscale("symlog", linthresh=0.1)
    _plain_numbers(axes.xaxis)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    axes.set_xlabel("distance of generated and true pelvis point, metres")
    axes.set_ylabel("share of samples")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


FAMILIES = {"TKCO": "closest points k", "IoU": "threshold, metres"}


def _localisation(groups):
    """Measures with several k or thresholds, over the whole scene and over the target object."""
    figure, row = plt.subplots(1, len(FAMILIES), figsize=(9.2, 3.6))
    for axes, family in zip(row, FAMILIES, strict=True):
        draw_family(axes, groups[0]["measures"], family)
        axes.set_title(family)
    return figure


def draw_family(axes, measures: Mapping[str, Any], family: str) -> None:
    """One family of FAMILIES: its values over its parameter, with intervals."""
    for prefix, where in (("", "whole scene"), (TARGET, "target object")):
        names = [name for name in measures if name.startswith(f"{prefix}{family}@")]
        if names:
            found = [measures[name] for name in names]
            axes.errorbar(
                [float(name.partition("@")[2]) for name in names],
                [m["value"] for m in found],
                yerr=_errors(found),
                marker="o",
                capsize=3,
                label=where,
            )
            axes.set_xticks([float(name.partition("@")[2]) for name in names])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(FAMILIES[family])
    if axes.has_data():
        axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _errors(found) -> np.ndarray:
    """(2, n) distances from each value down and up to the ends of its interval."""
    below = [max(0.0, m["value"] - m["low"]) for m in found]
    above = [max(0.0, m["high"] - m["value"]) for m in found]
    return np.array([below, above])


def _plain_numbers(axis) -> None:
    """Show the numbers of a logarithmic axis as 0.1 and 100; its own form needs mathematics."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


# --- the study of few steps ----------------------------------------------------------------------


class Panel(NamedTuple):
    """One plot of the study's figure: a value against the evaluations of a map.

    Attributes:
        title: above the plot.
        value: of a setting of the summary -> (value, low, high), or None if it has none.
        band: the ends between which chance alone lies, or None.
    """

    title: str
    value: Callable[[dict[str, Any]], tuple[float, float, float] | None]
    band: tuple[float, float] | None = None


def study_panels(summary: Mapping[str, Any]) -> list[Panel]:
    """Diversity, energy distance and measures outside, which are what the rule looks at."""
    limits = summary["limits"]
    pooled = summary["settings"][0]["measures"][DIVERSITY]["value"]

    def diversity(setting):
        shift = setting["measures"][DIVERSITY].get("mean_difference")
        return shift and tuple(1 + shift[end] / pooled for end in ENDS)

    def energy(setting):
        return setting[ENERGY] and tuple(setting[ENERGY][end] for end in ENDS)

    def outside(setting):
        return (len(setting["outside"]),) * 3

    within = 1 - limits[DIVERSITY], 1 + limits[DIVERSITY]
    return [
        Panel("diversity, of the full chain's", diversity, within),
        Panel("energy distance to the full chain", energy, (-limits[ENERGY], limits[ENERGY])),
        Panel("measures outside their bounds", outside, (0, limits["outside"])),
    ]


def plot_study(summary: Mapping[str, Any], path: Path) -> None:
    """Write the figure of a study: a line for each sampler and family of time grids.

    Args:
        summary: content of summary.json.
        path: of the PNG.
    """
    panels = study_panels(summary)
    figure, row = plt.subplots(1, len(panels), figsize=(13, 4.6))
    for axes, panel in zip(row, panels, strict=True):
        draw_panel(axes, panel, summary)
    labels = row[0].get_legend_handles_labels()
    figure.legend(*labels, fontsize=8, loc="lower center", ncols=6, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    save(figure, path)


def draw_panel(axes, panel: Panel, summary: Mapping[str, Any]) -> None:
    """One panel of the study's figure, without its legend."""
    compared = [setting for setting in summary["settings"] if setting["role"] == "compared"]
    lines = dict.fromkeys((setting["method"], setting["grid"]) for setting in compared)
    if panel.band is not None:
        axes.axhspan(*panel.band, color=_ink(), alpha=0.12, label="chance alone")
    for method, grid in lines:
        points = [s for s in compared if (s["method"], s["grid"]) == (method, grid)]
        _plot_line(axes, panel, points, f"{method}, {grid}")
    axes.set_title(panel.title, fontsize=10)
    axes.set_xscale("log")
    axes.set_xticks(apart({setting["steps"] for setting in compared}))
    _plain_numbers(axes.xaxis)
    axes.minorticks_off()
    axes.set_xlabel("evaluations of the model for a map")
    axes.grid(alpha=0.3)


def apart(values: Iterable[int]) -> list[int]:
    """Values for the ticks of a logarithmic axis, each at least a fifth above the one before."""
    ticks: list[int] = []
    for value in sorted(values):
        if not ticks or value >= 1.2 * ticks[-1]:
            ticks.append(value)
    return ticks


def _plot_line(axes, panel: Panel, settings: list[dict[str, Any]], label: str) -> None:
    """One line of a panel: values with their intervals, fewest steps first."""
    measured = [(setting["steps"], panel.value(setting)) for setting in settings]
    found = [(steps, *value) for steps, value in measured if value is not None]
    steps, values, lows, highs = np.array(sorted(found), np.float64).T
    errors = np.maximum(0, [values - lows, highs - values])
    axes.errorbar(
        steps, values, errors, marker="o", markersize=4, capsize=2, linewidth=1, label=label
    )


# --- a training ----------------------------------------------------------------------------------


def plot_loss(curve: list[list[float]], path: Path) -> None:
    """Write the loss curve of a training.

    Args:
        curve: rows of (step, mean loss since the row before).
        path: of the PNG.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(*zip(*curve, strict=True), linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss (MSE of x_0)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")  # a loss often stays within one power of ten
    axes.grid(alpha=0.3)
    save(figure, path)
