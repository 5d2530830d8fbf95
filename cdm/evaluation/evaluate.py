"""The merged archive against the ground truth: measures, intervals, tables (no torch).

Maps are read one sample at a time; what stays in memory are a few dozen numbers per sample.
"""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cdm.archive import ContactMaps
from cdm.archive.store import OK
from cdm.datasets import FileReader, Sample
from cdm.datasets.actions import action_of
from cdm.errors import ArchiveError
from cdm.evaluation.measure import BEST, MEASURES_VERSION, MapMeasures, Truth, read_truth
from cdm.evaluation.summary import (
    as_json,
    by_item,
    csv_text,
    headlines,
    intervals,
    number,
    sort_names,
    text_table,
)
from cdm.files import digest, write_bytes, write_json
from cdm.jobs.log import Log
from cdm.run.dataset import open_dataset
from cdm.run.plan import Plan, read_samples

ALL, SET, ACTION = "all", "set", "action"
OTHER = "other"  # captions that name none of the actions


@dataclass
class Measured:
    """What was measured, one entry per sample.

    Attributes:
        samples: in the order of the archive.
        rows: name -> value of each measure that the sample permits.
        left_out: what could not be measured -> number of samples.
        skipped: samples without a map.
    """

    samples: list[Sample] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)
    skipped: int = 0

    def add(self, sample: Sample, truth: Truth, values: dict[str, float], has_pelvis: bool) -> None:
        """Keep a sample's values, and say what is not among them."""
        self.samples.append(sample)
        self.rows.append(values)
        if truth.distance is None:
            self.left_out[
                f"{sample.set}: no ground truth, hence no CPLE, TKCO, WDE, IoU, SoftLoc, "
                "min_dist_error, pelvis_point_error"
            ] += 1
        if truth.mask is None:
            self.left_out[
                f"{sample.set}: no target masks (target_mask/*.npy), hence no dist_to_target, "
                f"found_target, target/..."
            ] += 1
        if not has_pelvis:
            self.left_out[
                f"{sample.set}: the maps have no pelvis column, hence no found_target, "
                "pelvis_point_error, CPLE_pelvis"
            ] += 1

    @property
    def names(self) -> list[str]:
        """Every measure that some sample has."""
        return sort_names(dict.fromkeys(name for row in self.rows for name in row))

    def groups(self) -> Iterator[tuple[str, str, list[int]]]:
        """(kind, name, positions) of all samples, of each set, and of each action."""
        yield ALL, ALL, list(range(len(self.samples)))
        of_kind = {
            SET: [sample.set for sample in self.samples],
            ACTION: [action_of(sample.text) or OTHER for sample in self.samples],
        }
        for kind, labels in of_kind.items():
            for label in dict.fromkeys(labels):
                yield kind, label, [i for i, own in enumerate(labels) if own == label]


def measure_archive(plan: Plan, log: Log, threads: int = 1) -> Measured:
    """Measure every map of the merged archive.

    Raises:
        ArchiveError: no archive, or one of another plan.
        BadItem: an item can no longer be read.
    """
    if not Path(plan.archive_record).exists():
        raise ArchiveError(
            f"{plan.archive_record}: no such file, so {plan.archive} does not hold the present "
            "plan; merge first: run snakemake without a target"
        )
    maps = ContactMaps(plan.archive)
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    reader = FileReader(plan.config.data_dir)
    measures = MapMeasures(plan.config, maps.attributes["statistics"])
    status = maps.group["status"][:]
    measured, began = Measured(), time.perf_counter()

    def work(row: int, sample: Sample) -> tuple[Truth, dict[str, float]]:
        truth = read_truth(dataset, sample, reader)
        x = maps.group["sample"][row].astype(np.float32)
        return truth, measures(x, truth)

    with ThreadPoolExecutor(threads) as pool:
        for chunk in plan.chunks:
            samples = read_samples(plan, chunk, dataset)
            rows = [row for row in range(chunk.start, chunk.stop) if status[row] == OK]
            chosen = [samples[row - chunk.start] for row in rows]
            for sample, (truth, values) in zip(chosen, pool.map(work, rows, chosen), strict=True):
                measured.add(sample, truth, values, measures.pelvis is not None)
            measured.skipped += len(samples) - len(rows)
            log(f"{chunk.stop}/{plan.num_samples} samples, {time.perf_counter() - began:.0f} s")
    if not measured.samples:
        raise ArchiveError(f"{plan.archive}: every sample was skipped; nothing to evaluate")
    return measured


def summarise(measured: Measured, plan: Plan) -> dict[str, Any]:
    """metrics.json: settings, what was left out, and an interval for each group and measure."""
    names, config = measured.names, plan.config
    groups = []
    for kind, name, members in measured.groups():
        keys = [(measured.samples[i].set, measured.samples[i].index) for i in members]
        values = by_item(keys, [measured.rows[i] for i in members], names)
        found = intervals(values, names, config.evaluation)
        groups.append(
            {
                "kind": kind,
                "name": name,
                "num_samples": len(members),
                "num_items": len(values),
                "measures": {
                    name: as_json(name, interval)
                    for name, interval in found.items()
                    if interval.num_items
                },
            }
        )
    return {
        "archive": plan.archive,
        "checkpoint": asdict(plan.checkpoint),
        "sampler": plan.identity["sampling"]
        | {"steps": plan.num_steps, "of": config.diffusion.steps},
        "evaluation": asdict(config.evaluation),
        "num_samples": len(measured.samples),
        "skipped": measured.skipped,
        "left_out": [f"{what} ({n} samples)" for what, n in sorted(measured.left_out.items())],
        "groups": groups,
    }


def metrics_csv(summary: dict[str, Any]) -> str:
    """One line per group and measure."""
    return csv_text(
        [
            {
                "kind": group["kind"],
                "group": group["name"],
                "measure": name,
                **{key: measure[key] for key in ("statistic", "unit", "better")},
                **{key: measure[key] for key in ("value", "low", "high", "num_items")},
            }
            for group in summary["groups"]
            for name, measure in group["measures"].items()
        ]
        or [{"kind": "", "group": "", "measure": ""}]
    )


def metrics_text(summary: dict[str, Any]) -> str:
    """metrics.txt: all samples with intervals, then sets and actions side by side."""
    everything = summary["groups"][0]
    sampler = summary["sampler"]
    percent = f"{100 * summary['evaluation']['confidence']:g} %"
    lines = [
        f"{summary['archive']}: {summary['num_samples']} samples of {everything['num_items']} "
        f"items, {summary['skipped']} skipped",
        f"{sampler['method']}, {sampler['steps']} of {sampler['of']} steps, "
        f"{sampler['k_samples']} map(s) a sample; checkpoint {summary['checkpoint']['path']}",
        f"intervals: {percent}, {summary['evaluation']['resamples']} bootstrap draws of items",
        *(f"left out: {sentence}" for sentence in summary["left_out"]),
    ]
    rows = [
        [
            name + (" (median)" if measure["statistic"] == "median" else ""),
            *(number(measure[key]) for key in ("value", "low", "high")),
            measure["unit"],
            str(measure["num_items"]),
        ]
        for name, measure in everything["measures"].items()
    ]
    text = "\n".join(lines) + "\n\n"
    text += text_table(["measure", "value", "from", "to", "unit", "items"], rows)
    for kind in (SET, ACTION):
        groups = [group for group in summary["groups"] if group["kind"] == kind]
        names = [name for name in everything["measures"] if not name.startswith(BEST)]
        rows = [
            [name, *(number(g["measures"].get(name, {}).get("value")) for g in groups)]
            for name in names
        ]
        header = [f"by {kind}", *(group["name"] for group in groups)]
        rows.append(["items", *(str(group["num_items"]) for group in groups)])
        text += "\n" + text_table(header, rows)
    return text


def items_csv(measured: Measured) -> str:
    """One line per sample, with every value."""
    names = measured.names
    return csv_text(
        [
            {
                **{key: getattr(sample, key) for key in ("set", "index", "caption_idx")},
                "action": action_of(sample.text) or OTHER,
                "text": sample.text,
                **{name: row.get(name, "") for name in names},
            }
            for sample, row in zip(measured.samples, measured.rows, strict=True)
        ]
    )


def evaluation_key(plan: Plan) -> str:
    """Names an evaluation's record: of the maps, and of how they are measured."""
    return digest([plan.fingerprint, asdict(plan.config.evaluation), MEASURES_VERSION])


def evaluate(plan: Plan, record: Path, log: Log, threads: int = 1) -> dict[str, Any]:
    """Measure the merged archive and write tables and figures beside the record.

    Args:
        plan: of the run whose archive is measured.
        record: `report/evaluation-{key}.json`, written last; metrics.json, .csv and .txt, items.csv
            and the figures lie beside it.
        log: gets one line of text at a time.
        threads: samples measured at a time.
    Returns:
        The content of metrics.json.
    """
    from cdm.evaluation.plots import plot_evaluation  # matplotlib takes a while

    folder = record.parent
    measured = measure_archive(plan, log, threads)
    summary = summarise(measured, plan)
    write_json(folder / "metrics.json", summary)
    write_bytes(folder / "metrics.csv", metrics_csv(summary).encode())
    write_bytes(folder / "metrics.txt", metrics_text(summary).encode())
    write_bytes(folder / "items.csv", items_csv(measured).encode())
    figures = plot_evaluation(summary, measured, folder)
    for sentence in summary["left_out"]:
        log(f"left out: {sentence}")
    measures = summary["groups"][0]["measures"]
    for name in headlines(measures):
        value, low, high = (number(measures[name][key]) for key in ("value", "low", "high"))
        log(f"{name} {value} {measures[name]['unit']} [{low}, {high}]")
    files = ["metrics.json", "metrics.csv", "metrics.txt", "items.csv", *figures]
    for old in folder.glob("evaluation-*.json"):
        if old != record:
            old.unlink()
    write_json(record, {"archive": plan.archive, "plan": plan.fingerprint, "files": files})
    log(f"tables and figures -> {folder}")
    return summary
