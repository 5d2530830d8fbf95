"""One self-contained HTML page of an evaluation: tables, figures, a few maps seen from above."""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from cdm.archive import ContactMaps
from cdm.archive.store import OK
from cdm.contact import contact_from_distance
from cdm.datasets import Dataset, FileReader, Sample
from cdm.datasets.base import evenly_spread
from cdm.evaluation.evaluate import ACTION, SET
from cdm.evaluation.measure import BEST, MapMeasures, Truth, truth_of
from cdm.evaluation.plots import save
from cdm.evaluation.study_tables import short_table, verdict
from cdm.evaluation.summary import headlines, number
from cdm.files import write_bytes
from cdm.jobs.log import Log
from cdm.run.dataset import open_dataset
from cdm.run.plan import Plan, read_samples

NUM_EXAMPLES = 6
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0; }
td, th { padding: .15em .8em; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; display: block; margin: 1em 0; }
"""


def write_report(plan: Plan, folder: Path, target: Path, log: Log) -> None:
    """Write the page.

    Args:
        plan: of the run that was evaluated.
        folder: with metrics.json and its figures.
        target: path of the page.
        log: gets one line of text at a time.
    """
    summary = json.loads((folder / "metrics.json").read_bytes())
    everything = summary["groups"][0]
    examples = save(draw_examples(plan), folder / "examples.png")
    percent = f"{100 * summary['evaluation']['confidence']:g} %"
    sampler = summary["sampler"]
    body = [
        f"<h1>{escape(plan.config.exp_name)}</h1>",
        f"<p>{summary['num_samples']} samples of {everything['num_items']} items, "
        f"{summary['skipped']} skipped; {sampler['method']}, {sampler['steps']} of {sampler['of']} "
        f"steps, {sampler['k_samples']} map(s) a sample. Checkpoint "
        f"{escape(summary['checkpoint']['path'])}, sha256 {summary['checkpoint']['sha256']}. "
        f"Intervals: {percent}, bootstrap over items.</p>",
        *(f"<p>Left out: {escape(sentence)}.</p>" for sentence in summary["left_out"]),
        "<h2>Measures</h2>",
        *_groups_table(summary),
        *_figures(folder, ("found_target.png", "pelvis_point_error.png", "localisation.png")),
        "<h2>Maps from above</h2><p>True closeness of the pelvis (or of the first joint) on the "
        "left, generated on the right; bright is close. Cross: the closest point. Rings: the "
        "target object.</p>",
        *_figures(folder, (examples,)),
        "<h2>All measures</h2>",
        _measures_table(everything["measures"]),
        *_study(Path(plan.config.run_dir, "compare_samplers")),
    ]
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f"<title>{escape(plan.config.exp_name)}</title><style>{STYLE}</style>\n"
        + "\n".join(body)
        + "\n</html>\n"
    )
    write_bytes(target, page.encode())
    log(f"{target} ({len(page) / 1e6:.1f} MB)")


def draw_examples(plan: Plan):
    """Figure of a few samples, evenly over the archive: true and generated closeness."""
    maps = ContactMaps(plan.archive)
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    reader = FileReader(plan.config.data_dir)
    measures = MapMeasures(plan.config, maps.attributes["statistics"])
    usable = np.flatnonzero(maps.group["status"][:] == OK)
    rows = evenly_spread(usable.tolist(), NUM_EXAMPLES)
    figure, grid = plt.subplots(
        -(-len(rows) // 2), 4, figsize=(14, 3.6 * -(-len(rows) // 2)), layout="constrained"
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.reshape(-1, 2), rows, strict=False):
        sample = _sample(plan, row, dataset)
        truth = truth_of(dataset.read_item(sample, reader), dataset, reader)
        x = maps.group["sample"][row][:1].astype(np.float32)
        column = measures.pelvis or 0
        generated = measures.distance(x)[0, :, column]
        point = generated.argmin() if measures.pelvis is None else measures.pelvis_points(x)[0]
        _draw(axes[1], dataset, truth, generated, point)
        axes[1].set_title("generated", fontsize=9)
        if truth.distance is not None:
            true = truth.distance[:, column]
            _draw(axes[0], dataset, truth, true, true.argmin())
        axes[0].set_title(f"{sample.set} {sample.index}: {sample.text[:50]}", fontsize=9)
    return figure


def _draw(axes, dataset: Dataset, truth: Truth, distance: np.ndarray, point: int) -> None:
    """One map from above: closeness by colour, the target's points ringed, a point crossed."""
    plane = truth.xyz[:, [axis for axis in range(3) if axis != dataset.gravity_dim]]
    order = np.argsort(truth.xyz[:, dataset.gravity_dim])  # what is higher hides what is lower
    contact = contact_from_distance(distance, False, dataset.config.sigma)
    axes.scatter(*plane[order].T, c=contact[order], s=4, cmap="magma", vmin=0, vmax=1)
    if truth.mask is not None:
        rings = {"facecolors": "none", "edgecolors": "tab:cyan", "linewidths": 0.15}
        axes.scatter(*plane[truth.mask].T, s=14, **rings)
    axes.scatter(*plane[point], marker="x", s=70, color="lime", linewidths=2.5)
    axes.set_aspect("equal")


def _sample(plan: Plan, row: int, dataset: Dataset) -> Sample:
    chunk = next(chunk for chunk in plan.chunks if chunk.start <= row < chunk.stop)
    return read_samples(plan, chunk, dataset)[row - chunk.start]


def _groups_table(summary: dict[str, Any]) -> list[str]:
    """Headline measures with intervals: all samples, each set, each action."""
    names = headlines(summary["groups"][0]["measures"])
    tables = []
    for kind in (SET, ACTION):
        groups = [g for g in summary["groups"] if g["kind"] == kind]
        rows = [
            [
                name,
                *(_with_interval(g["measures"].get(name)) for g in summary["groups"][:1] + groups),
            ]
            for name in names
        ]
        rows.append(["items", *(str(g["num_items"]) for g in summary["groups"][:1] + groups)])
        tables.append(_table([f"by {kind}", "all", *(g["name"] for g in groups)], rows))
    return tables


def _measures_table(measures: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{number(m['value'])} {m['unit']}",
            f"{number(m['low'])} to {number(m['high'])}",
            str(m["num_items"]),
            m["meaning"],
        ]
        for name, m in measures.items()
        if not name.startswith(BEST) or name.removeprefix(BEST) in headlines(measures)
    ]
    return _table(["measure", "value", "interval", "items", "meaning"], rows)


def _study(folder: Path) -> list[str]:
    """What compare_samplers found, where it has run."""
    if not (folder / "summary.json").exists():
        return []
    summary = json.loads((folder / "summary.json").read_bytes())
    return [
        "<h2>Few steps</h2>",
        *(f"<p>{escape(sentence)}</p>" for sentence in verdict(summary)),
        *_figures(folder, ("quality.png",)),
        _table(*short_table(summary)),
    ]


def _with_interval(measure: dict[str, Any] | None) -> str:
    if measure is None:
        return "-"
    return f"{number(measure['value'])} [{number(measure['low'])}, {number(measure['high'])}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "\n".join(["<table>", line(header, "th"), *(line(r, "td") for r in rows), "</table>"])


def _figures(folder: Path, names: Sequence[str]) -> list[str]:
    """The figures that there are, inside the page."""
    return [
        f'<img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode((folder / name).read_bytes()).decode()}">'
        for name in names
        if (folder / name).exists()
    ]
