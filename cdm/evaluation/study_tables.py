"""The study's outcome in sentences, tables and a figure (no torch)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm.evaluation.study import ENERGY
from cdm.evaluation.summary import csv_text, headlines, number, text_table
from cdm.files import write_bytes, write_json


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """The outcome in sentences."""
    full, again = summary["cells"][:2]

    def name(key: str) -> str:
        chosen = summary[key]
        if (chosen["method"], chosen["steps"]) == (full["method"], full["steps"]):
            return "the full chain: no cell with fewer steps is as good"
        times = full["seconds_per_map"] / chosen["seconds_per_map"]
        return f"{chosen['method']} with {chosen['steps']} steps, {times:.1f} times as fast"

    floor = ", ".join(
        f"{key} {interval['value']:.5f} [{interval['low']:.5f}, {interval['high']:.5f}]"
        for key, interval in summary["floor"].items()
    )
    lines = [
        f"{summary['num_samples']} samples of {summary['num_items']} items, "
        f"{summary['k_samples']} maps each; the full chain is {full['method']} with "
        f"{full['steps']} steps.",
        summary["rule"],
        f"Floor: {floor}.",
        f"Recommended: {name('recommended')}.",
        f"By (1) alone, without the floor: {name('within_intervals')}.",
        "By (1) alone, and letting measures pass that are better than the full chain's interval "
        f"(of diversity none is): {name('not_worse')}.",
    ]
    if again["outside"]:
        lines.append(
            "Caution: the second full chain itself lies outside in "
            f"{', '.join(again['outside'])}, where chance decides. More items or maps "
            "(compare.max_items, compare.k_samples) make that rarer."
        )
    devices = dict.fromkeys(cell["device"] for cell in summary["cells"])
    if len(devices) > 1:
        lines.append(f"Seconds per map are of several devices: {', '.join(devices)}.")
    return [
        *lines,
        "Shown for this checkpoint and these items alone, no finer than the intervals are wide.",
    ]


def short_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the headline measures of every cell."""
    names = headlines(summary["measures"])
    header = [
        "sampler",
        "steps",
        *names,
        "diversity ratio",
        "energy distance",
        "s/map",
        "outside",
        "beyond floor",
    ]
    labels = {"full": " (full chain)", "floor": " (second full chain)", "cell": ""}
    rows = [
        [
            cell["method"] + labels[cell["role"]],
            str(cell["steps"]),
            *(number(cell["measures"][name]["value"]) for name in names),
            f"{cell['diversity_ratio']:.3f}",
            f"{cell[ENERGY]['value']:.5f}" if cell[ENERGY] else "-",
            f"{cell['seconds_per_map']:.4f}",
            f"{len(cell['outside'])} of {len(summary['measures'])}",
            ", ".join(cell["beyond_floor"]) or "-",
        ]
        for cell in summary["cells"]
    ]
    return header, rows


def summary_csv(summary: Mapping[str, Any]) -> str:
    """One line per cell and measure."""
    rows = []
    for cell in summary["cells"]:
        measures = cell["measures"] | ({ENERGY: cell[ENERGY]} if cell[ENERGY] else {})
        for name, measure in measures.items():
            shift = measure.get("mean_difference", {})
            rows.append(
                {
                    **{key: cell[key] for key in ("method", "steps", "role", "seconds_per_map")},
                    "measure": name,
                    **{key: measure[key] for key in ("value", "low", "high", "num_items")},
                    **{f"mean_difference_{k}": shift.get(k, "") for k in ("value", "low", "high")},
                    "outside": name in cell["outside"],
                    "beyond_floor": name in cell["beyond_floor"],
                }
            )
    return csv_text(rows)


def summary_text(summary: Mapping[str, Any]) -> str:
    """summary.txt: verdict, short table, and the measures outside of each cell."""
    outside = [
        f"{cell['method']}, {cell['steps']} steps: {', '.join(cell['outside'])}\n"
        for cell in summary["cells"]
        if cell["outside"]
    ]
    lines = "".join(f"{sentence}\n" for sentence in verdict(summary))
    text = f"{lines}\n{text_table(*short_table(summary))}"
    return text + "".join(["\nOutside the full chain's interval:\n", *outside] if outside else [])


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """summary.md: verdict, figure and short table, to put into a page."""
    header, rows = short_table(summary)
    table = [header, ["---"] * len(header), *rows]
    lines = [f"- {sentence}" for sentence in verdict(summary)]
    lines += ["", "![measures against steps](quality.png)", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    return "".join(f"{line}\n" for line in lines)


def write_summary(summary: dict[str, Any], record: Path) -> None:
    """Write tables and figure beside the record, which comes last."""
    from cdm.evaluation.plots import plot_study  # matplotlib takes a while

    folder = record.parent
    write_json(folder / "summary.json", summary)
    texts = {"csv": summary_csv, "txt": summary_text, "md": summary_markdown}
    for ending, text in texts.items():
        write_bytes(folder / f"summary.{ending}", text(summary).encode())
    plot_study(summary, folder / "quality.png")
    for old in folder.glob("summary-*.json"):
        if old != record:
            old.unlink()
    files = [*(f"summary.{ending}" for ending in ("json", *texts)), "quality.png"]
    write_json(record, {"recommended": summary["recommended"], "files": files})
