"""Measures the merged archive against the ground truth: values, intervals, tables (no torch).

Maps are read one sample at a time. What stays in memory is a few dozen numbers per sample.
"""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cdm.archive.layout import OK
from cdm.archive.reader import ContactMaps
from cdm.archive.records import read_record
from cdm.datasets import FileReader, Sample
from cdm.datasets.actions import action_of
from cdm.datasets.files import to_restore
from cdm.datasets.statistics import checked_statistics
from cdm.datasets.values import check_same_points
from cdm.errors import ArchiveError, BadItem, DataError
from cdm.evaluation.measure import MEASURES_VERSION, GroundTruth, MapMeasures, read_truth
from cdm.evaluation.measure_table import BEST, headlines, sort_names
from cdm.evaluation.records import drop_records, inputs_read, record_key, write_record
from cdm.evaluation.summary import as_json, by_item, csv_text, intervals, number, text_table
from cdm.files import digest, write_bytes, write_json
from cdm.jobs.log import Log
from cdm.run.dataset import open_dataset
from cdm.run.inputs import ITEMS
from cdm.run.plan import Chunk, Plan
from cdm.run.plan_files import read_samples

ALL, SET, ACTION = "all", "set", "action"
OTHER = "other"  # captions that name none of the actions
KIND = "evaluation"  # its records are evaluation-{key}.json


@dataclass
class Measured:
    """What was measured, one entry per sample.

    Attributes:
        samples: those that have a map, in the order of the archive.
        rows: for each of them, name -> value of each measure that the sample permits.
        left_out: what could not be measured -> number of samples.
        skipped: set -> number of samples without a map.
        inputs: what was read from the files that the plan's fingerprint does not cover.
    """

    samples: list[Sample] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    inputs: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def add(
        self, sample: Sample, truth: GroundTruth, values: dict[str, float], has_pelvis: bool
    ) -> None:
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

    def sentences(self) -> list[str]:
        """What was left out, and why, for people."""
        measured = {sample.set for sample in self.samples}
        return [
            *(f"{what} ({n} samples)" for what, n in sorted(self.left_out.items())),
            *(
                f"{name}: all of its {n} samples were skipped, hence nothing is measured"
                for name, n in sorted(self.skipped.items())
                if name not in measured
            ),
        ]

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
        ArchiveError: there is no archive, it is of another plan, all of its samples were skipped,
            or a map in it is missing or damaged.
        BadItem: an item cannot be read any more.
        DataError: an item was edited after its maps were sampled.
    """
    # The archive, the items, and what measures them.
    if not Path(plan.archive_record).exists():
        raise ArchiveError(
            f"{plan.archive_record}: no such file, so {plan.archive} does not hold the present "
            "plan; merge first: run snakemake without a target"
        )
    maps = ContactMaps(plan.archive, checksums=True)
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    reader = FileReader(plan.config.data_dir)
    measures = MapMeasures(plan.config, archived_statistics(maps, plan))
    measured, began = Measured(), time.perf_counter()
    read: set[str] = set()

    def work(row: int, sample: Sample, covered: bool) -> tuple[GroundTruth, dict[str, float]]:
        try:
            truth = read_truth(dataset, sample, reader)
        except BadItem as error:
            raise to_restore(error) from error
        if not covered:
            _check_points(maps, row, truth, sample, plan)
        x = maps.read("sample", row).astype(np.float32)
        return truth, measures(x, truth)

    # Chunk by chunk, several samples at a time.
    with ThreadPoolExecutor(threads) as pool:
        for chunk in plan.chunks:
            samples = read_samples(plan, chunk, dataset)
            rows = [r for r in range(chunk.start, chunk.stop) if maps.statuses[r] == OK]
            chosen = [samples[row - chunk.start] for row in rows]
            covered = Path(plan.chunk_record(chunk)).exists()
            done = pool.map(work, rows, chosen, [covered] * len(rows))
            for sample, (truth, values) in zip(chosen, done, strict=True):
                measured.add(sample, truth, values, measures.pelvis is not None)
            measured.skipped.update(s.set for s in samples)
            measured.skipped.subtract(s.set for s in chosen)
            found = map(dataset.target_mask_file, chosen)
            masks = {name for name in found if name is not None}
            files = {name for sample in chosen for name in dataset.files(sample)}
            if covered:
                _check_unedited(plan, chunk, files, reader)
            read |= masks - files if covered else masks | files
            log(f"{chunk.stop}/{plan.num_samples} samples, {time.perf_counter() - began:.0f} s")

    # What was read beside the files that the plan knows.
    if not measured.samples:
        raise ArchiveError(
            f"{plan.archive}: all of its {plan.num_samples} samples were skipped, so there is "
            f"nothing to evaluate; cdm status {plan.config.run_dir} lists the reasons"
        )
    measured.inputs = inputs_read(reader, read)
    return measured


def archived_statistics(maps: ContactMaps, plan: Plan) -> dict[str, list]:
    """Mean and std that an archive's maps are normalised by.

    Raises:
        DataError: they are not finite, or not of the shape that the plan's maps have.
    """
    there = maps.attributes["statistics"]
    mean, std = (np.asarray(there[key], np.float32) for key in ("mean", "std"))
    source = f"{maps.path}: attribute 'statistics'"
    return checked_statistics(mean, std, source, plan.config.dataset.contact_dim).numbers()


def _check_points(
    maps: ContactMaps, row: int, truth: GroundTruth, sample: Sample, plan: Plan
) -> None:
    """Compare an item with its points in the archive.

    Chunks may be removed after the merge. Without their records, no plan sees that an item was
    edited, and its true distances would be compared with maps of other points.

    Raises:
        DataError: it has other points.
    """
    turn = maps.read("aug_trans", row)[:3, :3].astype(np.float32)
    sampled = maps.read("points", row).astype(np.float32) @ turn
    try:
        check_same_points(truth.xyz, sampled, str(sample))
    except BadItem as problem:
        raise DataError(
            f"{problem}. Restore them; or have all maps sampled anew: rm {plan.archive_record}, "
            "then run the same command again"
        ) from None


def _check_unedited(plan: Plan, chunk: Chunk, files: set[str], reader: FileReader) -> None:
    """Compare the files of a chunk's samples with what its record says they held.

    Raises:
        DataError: a file was edited after the maps were sampled, so both do not belong together.
    """
    recorded = read_record(Path(plan.chunk_record(chunk))).contents[ITEMS]
    for name in sorted(files):
        now, then = reader.contents.get(name), recorded.get(name)
        if now and then and now.sha256 != then["sha256"]:
            raise DataError(
                f"{reader.path(name)}: was edited after the maps of chunk {chunk.name} were "
                "sampled. Run the same command again: it samples this chunk anew and then measures"
            )


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
        "skipped": measured.skipped.total(),
        "left_out": measured.sentences(),
        "groups": groups,
    }


def metrics_csv(summary: dict[str, Any]) -> str:
    """metrics.csv: one line per group and measure."""
    columns = ("statistic", "unit", "better", "value", "low", "high", "num_items")
    rows = [
        {"kind": group["kind"], "group": group["name"], "measure": name}
        | {column: measure[column] for column in columns}
        for group in summary["groups"]
        for name, measure in group["measures"].items()
    ]
    return csv_text(["kind", "group", "measure", *columns], rows)


def metrics_text(summary: dict[str, Any]) -> str:
    """metrics.txt: all samples with intervals, then sets and actions side by side."""
    # What was measured.
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

    # All samples.
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

    # Each set, then each action, in a column of its own.
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
    """items.csv: one line per sample, with every value that it has."""
    rows = [
        {
            "set": sample.set,
            "index": sample.index,
            "caption_idx": sample.caption_idx,
            "action": action_of(sample.text) or OTHER,
            "text": sample.text,
        }
        | values
        for sample, values in zip(measured.samples, measured.rows, strict=True)
    ]
    header = ["set", "index", "caption_idx", "action", "text", *measured.names]
    return csv_text(header, rows)


def evaluation_key(plan: Plan) -> str:
    """Key of the evaluation's record: of the maps, of how they are measured, and of the files.

    It changes if a target mask is edited, added or removed after an evaluation.
    """
    return record_key(Path(plan.config.run_dir, "report"), KIND, _base_key(plan), plan)


def _base_key(plan: Plan) -> str:
    return digest([plan.fingerprint, asdict(plan.config.evaluation), MEASURES_VERSION])


def evaluate(plan: Plan, record: Path, log: Log, threads: int = 1) -> dict[str, Any]:
    """Measure the merged archive and write tables and figures beside the record.

    Args:
        plan: of the run whose archive is measured.
        record: `report/evaluation-{key}.json`, written last; metrics.json, .csv and .txt, items.csv
            and the figures lie beside it.
        log: gets one line of text at a time.
        threads: how many samples are measured at the same time.
    Returns:
        The content of metrics.json.
    """
    from cdm.evaluation.plots import plot_evaluation  # matplotlib takes a while

    # Measure and sum up.
    folder = record.parent
    measured = measure_archive(plan, log, threads)
    summary = summarise(measured, plan)

    # Tables and figures. The records of older ones go first.
    drop_records(folder, KIND)
    write_json(folder / "metrics.json", summary)
    write_bytes(folder / "metrics.csv", metrics_csv(summary).encode())
    write_bytes(folder / "metrics.txt", metrics_text(summary).encode())
    write_bytes(folder / "items.csv", items_csv(measured).encode())
    figures = plot_evaluation(summary, measured, folder)

    # The log, and the record last.
    for sentence in summary["left_out"]:
        log(f"left out: {sentence}")
    measures = summary["groups"][0]["measures"]
    for name in headlines(measures):
        value, low, high = (number(measures[name][key]) for key in ("value", "low", "high"))
        log(f"{name} {value} {measures[name]['unit']} [{low}, {high}]")
    files = ["metrics.json", "metrics.csv", "metrics.txt", "items.csv", *figures]
    write_record(record, _base_key(plan), plan, measured.inputs, files)
    log(f"tables and figures -> {folder}")
    return summary
