"""The outcome of a study in sentences, tables and a figure (no torch)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm.evaluation.measure_table import headlines
from cdm.evaluation.study import COMPARED, ENERGY, FULL, REPEAT
from cdm.evaluation.summary import csv_text, number, text_table
from cdm.files import write_bytes, write_json


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """The outcome in sentences."""
    full, repeat = summary["settings"][:2]

    def name(key: str) -> str:
        chosen = summary[key]
        if (chosen["method"], chosen["steps"]) == (full["method"], full["steps"]):
            return "the full chain: no setting with fewer steps is as good"
        times = full["seconds_per_map"] / chosen["seconds_per_map"]
        return f"{chosen['method']} with {chosen['steps']} steps, {times:.1f} times as fast"

    # What was drawn, the rule, and what it recommends.
    noise_floor = ", ".join(
        f"{key} {interval['value']:.5f} [{interval['low']:.5f}, {interval['high']:.5f}]"
        for key, interval in summary["noise_floor"].items()
    )
    lines = [
        f"{summary['num_samples']} samples of {summary['num_items']} items, "
        f"{summary['k_samples']} maps each; the full chain is {full['method']} with "
        f"{full['steps']} steps.",
        summary["rule"],
        f"Noise floor: {noise_floor}.",
        f"Recommended: {name('recommended')}.",
        f"By (1) alone, without the noise floor: {name('within_intervals')}.",
        "By (1) alone, if measures may also be better than the full chain's interval "
        f"(no diversity counts as better): {name('not_worse')}.",
    ]

    # What limits the verdict.
    if repeat["outside"]:
        lines.append(
            "Caution: the second full chain itself lies outside in "
            f"{', '.join(repeat['outside'])}, where chance decides. More items or maps "
            "(compare.max_items, compare.k_samples) make that rarer."
        )
    devices = dict.fromkeys(setting["device"] for setting in summary["settings"])
    if len(devices) > 1:
        lines.append(f"Seconds per map were measured on several devices: {', '.join(devices)}.")
    return [
        *lines,
        "This was shown for this checkpoint and these items only. Differences smaller than the "
        "intervals are not seen.",
    ]


def short_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the headline measures of every setting."""
    names = headlines(summary["measures"])
    header = [
        "sampler",
        "steps",
        *names,
        "diversity ratio",
        "energy distance",
        "s/map",
        "outside",
        "beyond noise floor",
    ]
    labels = {FULL: " (full chain)", REPEAT: " (second full chain)", COMPARED: ""}
    rows = [
        [
            setting["method"] + labels[setting["role"]],
            str(setting["steps"]),
            *(number(setting["measures"][name]["value"]) for name in names),
            f"{setting['diversity_ratio']:.3f}",
            f"{setting[ENERGY]['value']:.5f}" if setting[ENERGY] else "-",
            f"{setting['seconds_per_map']:.4f}",
            f"{len(setting['outside'])} of {len(summary['measures'])}",
            ", ".join(setting["beyond_noise_floor"]) or "-",
        ]
        for setting in summary["settings"]
    ]
    return header, rows


def summary_csv(summary: Mapping[str, Any]) -> str:
    """summary.csv: one line per setting and measure."""
    ends = ("value", "low", "high")
    rows = []
    for setting in summary["settings"]:
        measures = setting["measures"]
        if setting[ENERGY]:
            measures = measures | {ENERGY: setting[ENERGY]}
        for name, measure in measures.items():
            shift = measure.get("mean_difference", {})
            rows.append(
                {
                    **{key: setting[key] for key in ("method", "steps", "role", "seconds_per_map")},
                    "measure": name,
                    **{key: measure[key] for key in (*ends, "num_items")},
                    **{f"mean_difference_{key}": shift.get(key, "") for key in ends},
                    "outside": name in setting["outside"],
                    "beyond_noise_floor": name in setting["beyond_noise_floor"],
                }
            )
    return csv_text(list(rows[0]), rows)


def summary_text(summary: Mapping[str, Any]) -> str:
    """summary.txt: verdict, short table, and for each setting the measures that lie outside."""
    outside = [
        f"{setting['method']}, {setting['steps']} steps: {', '.join(setting['outside'])}\n"
        for setting in summary["settings"]
        if setting["outside"]
    ]
    lines = "".join(f"{sentence}\n" for sentence in verdict(summary))
    text = f"{lines}\n{text_table(*short_table(summary))}"
    return text + "".join(["\nOutside the full chain's interval:\n", *outside] if outside else [])


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """summary.md: verdict, figure and short table, for a page of documentation."""
    header, rows = short_table(summary)
    table = [header, ["---"] * len(header), *rows]
    lines = [f"- {sentence}" for sentence in verdict(summary)]
    lines += ["", "![measures against steps](quality.png)", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    return "".join(f"{line}\n" for line in lines)


def write_summary(summary: dict[str, Any], folder: Path) -> list[str]:
    """Write tables and figure of a study into a folder; returns the names of the files."""
    from cdm.evaluation.plots import plot_study  # matplotlib takes a while

    write_json(folder / "summary.json", summary)
    texts = {"csv": summary_csv, "txt": summary_text, "md": summary_markdown}
    for ending, text in texts.items():
        write_bytes(folder / f"summary.{ending}", text(summary).encode())
    plot_study(summary, folder / "quality.png")
    return [*(f"summary.{ending}" for ending in ("json", *texts)), "quality.png"]
