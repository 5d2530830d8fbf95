"""Figures of whole_job.py as rows of a table, in Markdown.

python benchmarks/whole_job_table.py /scratch/whole_job/*.json
"""

import json
import sys
from pathlib import Path

COLUMNS = {
    "run": lambda f: f["name"],
    "commit": lambda f: f["commit"],
    "maps x steps": lambda f: f"{f['maps']} x {f['options']['steps']}",
    "devices": lambda f: devices(f),
    "chunks": lambda f: f"{f['chunks']} of {f['largest_chunk']}",
    "seconds": lambda f: f"{f['seconds']:.1f}",
    "maps/s": lambda f: f"{f['maps_per_s']:.1f}",
    "device busy": lambda f: f"{100 * f['gpu_share']:.0f} %",
    "by NVML": lambda f: ", ".join(f"{100 * gpu['share']:.0f}" for gpu in f["nvml"]) or "-",
    "first map after": lambda f: f"{f['before_first_batch_s']:.1f}",
    "between chunks": lambda f: shown(f["lost_per_gap_s"], "{:.2f}"),
    "after the last": lambda f: f"{f['after_last_batch_s']:.1f}",
    "a kill costs": lambda f: kill_cost(f.get("killed")),
}


def devices(figures: dict) -> str:
    """Such as "4 x NVIDIA H200, 16 cores"."""
    gpus, machine = figures["options"]["gpus"], figures["machine"]
    where = f"{gpus} x {machine['gpus'][0]}, " if gpus else ""
    return f"{where}{machine['cores']} cores"


def kill_cost(killed: dict | None) -> str:
    """Seconds lost; says so if something is not as it should be."""
    if killed is None:
        return ""
    wrong = " DIFFERS" if killed["differs_in"] else ""
    left = " PROCESSES LEFT" if killed["processes_left"] else ""
    return f"{killed['lost_s']:.1f}{wrong}{left}"


def shown(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else form.format(value)


def table(all_figures: list[dict]) -> str:
    """The rows with a head."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    lines += [[column(figures) for column in COLUMNS.values()] for figures in all_figures]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def phases(figures: dict) -> str:
    """A line with the seconds of each phase of a chunk, on average."""
    each = {phase: s / figures["chunks"] for phase, s in figures["phases_s"].items()}
    return f"{figures['name']}: " + ", ".join(f"{phase} {s:.2f}" for phase, s in each.items())


if __name__ == "__main__":
    found = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
    found = [figures for figures in found if "seconds" in figures]
    print(table(found))
    print("\nSeconds of a chunk's phases, means:\n")
    print("\n".join(map(phases, found)))
