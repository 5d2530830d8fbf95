"""One self-contained HTML page of an evaluation: tables, figures, a few maps seen from above."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from cdm.archive.reader import ContactMaps
from cdm.contact import contact_from_distance
from cdm.datasets import Dataset, FileReader, Sample
from cdm.datasets.base import evenly_spread
from cdm.errors import ArchiveError, printable
from cdm.evaluation.evaluate import ACTION, SET, archived_statistics
from cdm.evaluation.measure import GroundTruth, MapMeasures, read_truth
from cdm.evaluation.measure_table import BEST, headlines
from cdm.evaluation.plots import save, short_line
from cdm.evaluation.records import again, verify_outputs
from cdm.evaluation.study_tables import short_table, verdict
from cdm.evaluation.summary import number
from cdm.files import read_json, write_bytes
from cdm.jobs.log import Log
from cdm.run.dataset import open_dataset
from cdm.run.plan import Plan
from cdm.run.plan_files import read_samples

NUM_EXAMPLES = 6
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0; }
td, th { padding: .15em .8em; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; display: block; margin: 1em 0; }
"""


def write_report(
    plan: Plan, record: Path, target: Path, log: Log, study: Path | None = None
) -> None:
    """Write the page.

    Args:
        plan: of the run that was evaluated.
        record: of the evaluation; metrics.json and the figures lie beside it.
        target: path of the page.
        log: gets one line of text at a time.
        study: record of compare_samplers, if it has run for this plan.
    Raises:
        ArchiveError: a table or figure is missing or was changed, or a map is.
    """
    folder = record.parent
    summary = _read_summary(record, "metrics.json")
    everything = summary["groups"][0]
    examples = save(draw_examples(plan), folder / "examples.png")
    body = [
        f"<h1>{_text(plan.config.exp_name)}</h1>",
        *_introduction(summary),
        "<h2>Measures</h2>",
        *_groups_table(summary),
        *_figures(folder, ("found_target.png", "pelvis_point_error.png", "localisation.png")),
        "<h2>Maps from above</h2><p>True closeness of the pelvis (or of the first joint) on the "
        "left, generated on the right; bright is close. Cross: the closest point. Rings: the "
        "target object.</p>",
        *_figures(folder, (examples,)),
        "<h2>All measures</h2>",
        _measures_table(everything["measures"]),
        *(_study(study) if study else []),
    ]
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f"<title>{_text(plan.config.exp_name)}</title><style>{STYLE}</style>\n"
        + "\n".join(body)
        + "\n</html>\n"
    )
    write_bytes(target, page.encode())
    log(f"{target} ({len(page) / 1e6:.1f} MB)")


def _read_summary(record: Path, name: str) -> dict[str, Any]:
    """A JSON table beside its record, after all files of the record were checked."""
    verify_outputs(record)
    try:
        return read_json(record.parent / name)
    except (OSError, ValueError) as error:
        raise ArchiveError(
            f"{record.parent / name}: cannot be read ({error}); to have it made again: "
            f"{again(record)}"
        ) from None


def _introduction(summary: dict[str, Any]) -> list[str]:
    """Paragraphs: how much was measured, of which model, and what was left out."""
    percent = f"{100 * summary['evaluation']['confidence']:g} %"
    sampler = summary["sampler"]
    return [
        f"<p>{summary['num_samples']} samples of {summary['groups'][0]['num_items']} items, "
        f"{summary['skipped']} skipped; {_text(sampler['method'])}, {sampler['steps']} of "
        f"{sampler['of']} steps, {sampler['k_samples']} map(s) a sample. Checkpoint "
        f"{_text(summary['checkpoint']['path'])}, sha256 {summary['checkpoint']['sha256']}. "
        f"Intervals: {percent}, bootstrap over items.</p>",
        *(f"<p>Left out: {_text(sentence)}.</p>" for sentence in summary["left_out"]),
    ]


def draw_examples(plan: Plan):
    """Figure of a few samples, spread evenly over the archive: true and generated closeness.

    Raises:
        ArchiveError: every sample was skipped, or a map is missing or damaged.
    """
    # What is read, and which samples.
    maps = ContactMaps(plan.archive)
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    reader = FileReader(plan.config.data_dir)
    measures = MapMeasures(plan.config, archived_statistics(maps, plan))
    rows = evenly_spread(maps.rows_with_maps(), NUM_EXAMPLES)
    if not rows:
        raise ArchiveError(f"{plan.archive}: all samples were skipped, so there is no map to show")

    # Two samples in each line of the figure, each with a true and a generated map.
    lines = -(-len(rows) // 2)
    figure, grid = plt.subplots(lines, 4, figsize=(14, 3.6 * lines), layout="constrained")
    for axes in grid.flat:
        axes.set_axis_off()
    for (left, right), row in zip(grid.reshape(-1, 2), rows, strict=False):
        sample = _sample(plan, row, dataset)
        truth = read_truth(dataset, sample, reader)
        x = maps.read("sample", row)[:1].astype(np.float32)
        column = measures.pelvis or 0
        generated = measures.distance(x)[0, :, column]
        point = generated.argmin() if measures.pelvis is None else measures.pelvis_points(x)[0]
        _draw(right, dataset, truth, generated, point)
        right.set_title("generated", fontsize=9)
        if truth.distance is not None:
            true = truth.distance[:, column]
            _draw(left, dataset, truth, true, true.argmin())
        left.set_title(short_line(f"{sample.set} {sample.index}: {sample.text}"), fontsize=9)
    return figure


def _draw(axes, dataset: Dataset, truth: GroundTruth, distance: np.ndarray, point: int) -> None:
    """One map from above: closeness as colour, rings on the target's points, a cross on a point."""
    plane = truth.xyz[:, [axis for axis in range(3) if axis != dataset.gravity_dim]]
    order = np.argsort(truth.xyz[:, dataset.gravity_dim])  # higher points hide lower ones
    contact = contact_from_distance(distance, False, dataset.config.sigma)
    axes.scatter(*plane[order].T, c=contact[order], s=4, cmap="magma", vmin=0, vmax=1)
    if truth.mask is not None:
        rings = {"facecolors": "none", "edgecolors": "tab:cyan", "linewidths": 0.15}
        axes.scatter(*plane[truth.mask].T, s=14, **rings)
    axes.scatter(*plane[point], marker="x", s=70, color="lime", linewidths=2.5)
    axes.set_aspect("equal")


def _sample(plan: Plan, row: int, dataset: Dataset) -> Sample:
    """The sample of a row of the archive."""
    chunk = next(chunk for chunk in plan.chunks if chunk.start <= row < chunk.stop)
    return read_samples(plan, chunk, dataset)[row - chunk.start]


def _groups_table(summary: dict[str, Any]) -> list[str]:
    """Two tables of headline measures with intervals: all samples by set, and by action."""
    everything = summary["groups"][0]
    tables = []
    for kind in (SET, ACTION):
        groups = [everything, *(g for g in summary["groups"] if g["kind"] == kind)]
        rows = [
            [name, *(_with_interval(group["measures"].get(name)) for group in groups)]
            for name in headlines(everything["measures"])
        ]
        rows.append(["items", *(str(group["num_items"]) for group in groups)])
        tables.append(_table([f"by {kind}", *(group["name"] for group in groups)], rows))
    return tables


def _measures_table(measures: dict[str, Any]) -> str:
    """Every measure with its meaning; of the best of several maps, the headlines only."""
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


def _study(record: Path) -> list[str]:
    """What compare_samplers found."""
    summary = _read_summary(record, "summary.json")
    return [
        "<h2>Few steps</h2>",
        *(f"<p>{_text(sentence)}</p>" for sentence in verdict(summary)),
        *_figures(record.parent, ("quality.png",)),
        _table(*short_table(summary)),
    ]


def _text(text: str) -> str:
    """A text as HTML shows it: markup and control characters are escaped."""
    return escape(printable(text))


def _with_interval(measure: dict[str, Any] | None) -> str:
    """A value with its interval, or `-`."""
    if measure is None:
        return "-"
    return f"{number(measure['value'])} [{number(measure['low'])}, {number(measure['high'])}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of texts."""

    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "\n".join(["<table>", line(header, "th"), *(line(r, "td") for r in rows), "</table>"])


def _figures(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of the figures that exist, embedded in the page."""
    return [
        f'<img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode((folder / name).read_bytes()).decode()}">'
        for name in names
        if (folder / name).exists()
    ]
