"""The outcome of a study in sentences, tables, a figure, and a file of settings (no torch)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cdm.evaluation.measure_table import headlines
from cdm.evaluation.study_rule import DIVERSITY, ENERGY
from cdm.evaluation.study_summary import COMPARED, FULL, REPEAT
from cdm.evaluation.summary import csv_text, number, text_table
from cdm.files import write_bytes, write_json

RECOMMENDED = "recommended.yaml"


def is_old(summary: Mapping[str, Any]) -> bool:
    """Whether a summary was made before samplers had time grids, by another rule."""
    return "version" not in summary


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """The outcome in sentences."""
    if is_old(summary):
        return _old_verdict(summary)
    lines = [_what_is_recommended(summary), _what_was_shown(summary), summary["rule"]]

    # What limits the verdict.
    early = [each for each in summary["looks"] if each["early"] and each["told_apart"]]
    for look in early:
        lines.append(
            f"Told apart after {look['samples']} samples, and drawn no further: "
            f"{', '.join(look['told_apart'])}."
        )
    devices = dict.fromkeys(setting["device"] for setting in summary["settings"])
    if len(devices) > 1:
        lines.append(f"Seconds per map were measured on several devices: {', '.join(devices)}.")
    return [
        *lines,
        "This was shown for this checkpoint and these items only. Smaller differences than those "
        "named are not seen.",
    ]


def _what_is_recommended(summary: Mapping[str, Any]) -> str:
    full, chosen = summary["settings"][0], summary["recommended"]
    if _is_full(summary):
        return f"Recommended: the full chain; {summary['reason']}."
    times = full["seconds_per_map"] / chosen["seconds_per_map"]
    return (
        f"Recommended: {chosen['method']} {chosen['respacing']} ({chosen['steps']} steps), "
        f"{times:.1f} times as fast; {summary['reason']}."
    )


def _what_was_shown(summary: Mapping[str, Any]) -> str:
    """What the study could see."""
    found = summary["detectable"]
    samples = ""
    if summary["num_samples"] != summary["num_items"]:
        samples = f" ({summary['num_samples']} captions)"
    return (
        f"Not told apart means: by {summary['num_items']} items{samples} x "
        f"{summary['k_samples']} maps x {summary['draws']} draw(s), against "
        f"{summary['full_chains']} draws of the full chain ({summary['full_steps']} steps). A "
        f"difference of {found[DIVERSITY]:.1%} in diversity, or of {found[ENERGY]:.5f} in energy "
        f"distance, would have been seen in {100 * found['power']:.0f} of 100 such studies."
    )


def _is_full(summary: Mapping[str, Any]) -> bool:
    full, chosen = summary["settings"][0], summary["recommended"]
    return (full["method"], full["steps"]) == (chosen["method"], chosen["steps"])


def _old_verdict(summary: Mapping[str, Any]) -> list[str]:
    chosen = summary["recommended"]
    return [
        "This study was made by an older rule. To have it made again, run compare_samplers.",
        summary["rule"],
        f"Recommended then: {chosen['method']} with {chosen['steps']} steps.",
    ]


def short_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what the rule looks at, and the headline measures, of every setting."""
    names = [name for name in headlines(summary["measures"]) if name != DIVERSITY]
    header = [
        "sampler",
        "steps",
        "diversity ratio",
        "energy distance",
        "outside",
        "told apart by",
        *names,
        "s/map",
        "items",
    ]
    return header, [_row(setting, names, summary) for setting in summary["settings"]]


def _row(setting: Mapping[str, Any], names: list[str], summary: Mapping[str, Any]) -> list[str]:
    labels = {FULL: " (full chains, pooled)", REPEAT: " (one full chain)", COMPARED: ""}
    respacing = setting.get("respacing", "")
    sampler = f"{setting['method']} {respacing}".strip() + labels[setting["role"]]
    # An older rule named its two parts otherwise.
    told_apart_by = setting.get("told_apart_by", setting.get("beyond_noise_floor", []))
    return [
        sampler,
        str(setting["steps"]),
        f"{setting['diversity_ratio']:.3f}",
        f"{setting[ENERGY]['value']:.5f}" if setting[ENERGY] else "-",
        f"{len(setting['outside'])} of {len(summary['measures'])}",
        ", ".join(told_apart_by) or "-",
        *(number(setting["measures"][name]["value"]) for name in names),
        f"{setting['seconds_per_map']:.4f}",
        str(setting.get("num_items", summary["num_items"])),
    ]


def summary_csv(summary: Mapping[str, Any]) -> str:
    """summary.csv: one line per setting and measure."""
    ends = ("value", "low", "high")
    keys = ("method", "respacing", "grid", "steps", "role", "seconds_per_map")
    rows = []
    for setting in summary["settings"]:
        measures = setting["measures"]
        if setting[ENERGY]:
            measures = measures | {ENERGY: setting[ENERGY]}
        for name, measure in measures.items():
            shift = measure.get("mean_difference", {})
            rows.append(
                {
                    **{key: setting[key] for key in keys},
                    "measure": name,
                    **{key: measure[key] for key in (*ends, "num_items")},
                    **{f"mean_difference_{key}": shift.get(key, "") for key in ends},
                    "bound": summary["settings"][0]["measures"].get(name, {}).get("bound", ""),
                    "outside": name in setting["outside"],
                    "told_apart": name in setting["told_apart_by"],
                }
            )
    return csv_text(list(rows[0]), rows)


def summary_text(summary: Mapping[str, Any]) -> str:
    """summary.txt: verdict, short table, and for each setting the measures that lie outside."""
    outside = [
        f"{setting['method']} {setting['respacing'] or 'all'}: {', '.join(setting['outside'])}\n"
        for setting in summary["settings"]
        if setting["outside"]
    ]
    lines = "".join(f"{sentence}\n" for sentence in verdict(summary))
    text = f"{lines}\n{text_table(*short_table(summary))}"
    limit = summary["limits"]["outside"]
    title = f"\nOutside their bounds (chance puts up to {limit} there):\n"
    return text + "".join([title, *outside] if outside else [])


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """summary.md: verdict, figure and short table, for a page of documentation."""
    header, rows = short_table(summary)
    table = [header, ["---"] * len(header), *rows]
    lines = [f"- {sentence}" for sentence in verdict(summary)]
    lines += ["", "![diversity, energy distance and measures outside](quality.png)", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    return "".join(f"{line}\n" for line in lines)


def recommended_yaml(summary: Mapping[str, Any]) -> str:
    """recommended.yaml: the settings to sample with, and in comments what was shown of them."""
    chosen = summary["recommended"]
    settings = {
        "diffusion": {"timestep_respacing": _typed_respacing(chosen["respacing"])},
        "sampling": {"method": chosen["method"], "eta": 0.0},
    }
    lines = [
        _what_is_recommended(summary),
        _what_was_shown(summary),
        f"Made by compare_samplers for the checkpoint {summary['checkpoint'][:12]}; for another "
        "one, run it again.",
        "Lay it over your file: --configfile mine.yaml PATH_OF_THIS_FILE",
    ]
    comments = "".join(f"# {line}\n" for line in lines)
    return comments + yaml.safe_dump(settings, sort_keys=False)


def _typed_respacing(respacing: str) -> int | str:
    return int(respacing) if respacing.isdigit() else respacing


def write_summary(summary: dict[str, Any], folder: Path) -> list[str]:
    """Write tables, figure and settings of a study into a folder; returns the files' names."""
    from cdm.evaluation.plots import plot_study  # matplotlib takes a while

    write_json(folder / "summary.json", summary)
    texts = {
        "summary.csv": summary_csv,
        "summary.txt": summary_text,
        "summary.md": summary_markdown,
        RECOMMENDED: recommended_yaml,
    }
    for name, text in texts.items():
        write_bytes(folder / name, text(summary).encode())
    plot_study(summary, folder / "quality.png")
    return ["summary.json", *texts, "quality.png"]
