"""Figures of an evaluation (needs matplotlib)."""

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cdm.datasets.actions import action_of
from cdm.evaluation.study import ENERGY
from cdm.evaluation.summary import headlines
from cdm.files import write_bytes

DPI = 110


def save(figure, path: Path) -> str:
    """Write a figure as PNG, whole or not at all; returns the file's name."""
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png", bbox_inches="tight")
    plt.close(figure)
    write_bytes(path, content.getvalue())
    return path.name


def plot_evaluation(summary: dict[str, Any], measured, folder: Path) -> list[str]:
    """Write the figures that the measures permit; names of the files."""
    figures = []
    groups = summary["groups"]
    if "found_target" in groups[0]["measures"]:
        figures.append(save(_found_target(groups), folder / "found_target.png"))
    if "pelvis_point_error" in groups[0]["measures"]:
        figures.append(save(_pelvis_errors(measured), folder / "pelvis_point_error.png"))
    if any("@" in name for name in groups[0]["measures"]):
        figures.append(save(_localisation(groups), folder / "localisation.png"))
    return figures


def _found_target(groups):
    """Share of maps at the right object, beside chance, for all samples and each action."""
    shown = [g for g in groups if g["kind"] != "set" and "found_target" in g["measures"]]
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(shown), 3.6))
    places = np.arange(len(shown))
    found, chance = (
        [group["measures"][name] for group in shown]
        for name in ("found_target", "found_target_chance")
    )
    axes.bar(places, [m["value"] for m in found], 0.6, yerr=_errors(found), capsize=3, label="maps")
    axes.scatter(
        places, [m["value"] for m in chance], marker="_", s=900, color="black", label="chance"
    )
    axes.set_xticks(places, [f"{g['name']}\n{g['num_items']} items" for g in shown])
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("pelvis point at the target object")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, markerscale=0.4)
    return figure


def _pelvis_errors(measured):
    """Cumulative distribution of the pelvis point's error, by action."""
    errors_of: dict[str, list[float]] = {"all": []}
    for sample, row in zip(measured.samples, measured.rows, strict=True):
        if "pelvis_point_error" in row:
            for label in ("all", action_of(sample.text) or "other"):
                errors_of.setdefault(label, []).append(row["pelvis_point_error"])
    figure, axes = plt.subplots(figsize=(5.2, 3.6))
    for action, errors in errors_of.items():
        style = {"color": "black", "linewidth": 2} if action == "all" else {}
        shares = np.arange(1, len(errors) + 1) / len(errors)
        axes.step(np.sort(errors), shares, where="post", label=f"{action} ({len(errors)})", **style)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    axes.set_xlabel("distance of generated and true pelvis point, metres")
    axes.set_ylabel("share of samples")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _localisation(groups):
    """The measures that come for several k or thresholds, over the whole scene and the target."""
    measures = groups[0]["measures"]
    families = {"TKCO": "closest points k", "IoU": "threshold, metres"}
    figure, row = plt.subplots(1, len(families), figsize=(9.2, 3.6))
    for axes, (family, label) in zip(row, families.items(), strict=True):
        for prefix, where in (("", "whole scene"), ("target/", "target object")):
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
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(label)
        axes.set_title(family)
        if axes.has_data():
            axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def _errors(found) -> np.ndarray:
    """Distances from each value to the ends of its interval, as matplotlib wants them."""
    below = [max(0.0, m["value"] - m["low"]) for m in found]
    return np.array([below, [max(0.0, m["high"] - m["value"]) for m in found]])


def plot_study(summary: dict[str, Any], path: Path) -> None:
    """Each headline measure against the number of steps, the full chain's interval as a band."""
    names = [*headlines(summary["measures"]), ENERGY, "seconds_per_map"]
    rows = -(-len(names) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(12, 3 * rows), squeeze=False)
    full = summary["cells"][0]
    for axes, name in zip(grid.flat, names, strict=False):
        for method in dict.fromkeys(cell["method"] for cell in summary["cells"]):
            cells = [c for c in summary["cells"] if c["method"] == method and c["role"] != "floor"]
            points = sorted((c["steps"], _measure(c, name)) for c in cells if _measure(c, name))
            if points:
                steps, found = zip(*points, strict=True)
                axes.errorbar(
                    steps,
                    [m[0] for m in found],
                    yerr=np.maximum(0, [[m[0] - m[1], m[2] - m[0]] for m in found]).T,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    linewidth=1,
                    label=method,
                )
        band = _measure(full, name)
        if name == ENERGY:
            band = tuple(summary["floor"][ENERGY][key] for key in ("value", "low", "high"))
        if name == "seconds_per_map":
            axes.set_yscale("log")
        else:
            axes.axhspan(band[1], band[2], color="black", alpha=0.12, label="full chain")
        unit = summary["measures"].get(name, {"unit": ""})["unit"]
        axes.set_title(name + (f" ({unit})" if unit else ""), fontsize=10)
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("steps")
    grid.flat[0].legend(fontsize=8)
    figure.tight_layout()
    save(figure, path)


def _measure(cell, name) -> tuple[float, float, float] | None:
    """Value and ends of the interval; None where the cell has none."""
    if name == "seconds_per_map":
        return (cell[name],) * 3
    found = cell[ENERGY] if name == ENERGY else cell["measures"][name]
    return found and tuple(found[key] for key in ("value", "low", "high"))


def plot_loss(curve: list[list[float]], path: Path) -> None:
    """A training's loss curve.

    Args:
        curve: rows of (step, mean loss since the row before).
        path: of the PNG.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(*zip(*curve, strict=True), linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss (MSE of x_0)", yscale="log")
    axes.grid(alpha=0.3)
    save(figure, path)
