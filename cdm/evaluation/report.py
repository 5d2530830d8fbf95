"""One self-contained HTML page of an evaluation: what was run, measures, maps, figures."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cdm.archive.records import read_archive_record
from cdm.errors import ArchiveError
from cdm.evaluation import inline_figures, words
from cdm.evaluation.evaluate import ACTION, SET
from cdm.evaluation.measure import joint_names
from cdm.evaluation.measure_table import BEST, TARGET, headlines, measure_of
from cdm.evaluation.records import again, verify_outputs
from cdm.evaluation.study_tables import short_table, verdict
from cdm.files import read_json, write_bytes
from cdm.gallery import gallery_fragment, gather_items
from cdm.gallery.items import joint_label
from cdm.gallery.measures import measured_of
from cdm.jobs.log import Log
from cdm.pages import render
from cdm.run.dataset import open_dataset
from cdm.run.plan import Plan

CHANCE_OF = {"found_target": "found_target_chance"}  # measure -> what chance gives of it
BETTER = {"higher": "higher is better", "lower": "lower is better", "neither": ""}


@dataclass(frozen=True)
class Figure:
    """A figure that answers one question.

    Attributes:
        question: its heading.
        drawings: one SVG or several.
        caption: what to see.
    """

    question: str
    drawings: list[Markup]
    caption: str


@dataclass(frozen=True)
class Cell:
    """A value of a table with its interval, as texts and as a bar.

    Attributes:
        shown: texts.
        low, high, value, chance: places on the bar, 0 to 100; chance is None where there is none.
    """

    shown: words.Shown
    low: float
    high: float
    value: float
    chance: float | None


def write_report(
    plan: Plan, record: Path, target: Path, log: Log, study: Path | None = None
) -> None:
    """Write the page.

    Args:
        plan: of the run that was evaluated.
        record: of the evaluation; metrics.json and items.csv lie beside it.
        target: path of the page.
        log: gets one line of text at a time.
        study: record of compare_samplers, if it has run for this plan.
    Raises:
        ArchiveError: a table is missing or was changed, or a map is.
    """
    # What was measured.
    summary = _read_summary(record, "metrics.json")
    items = _read_items(record)
    measures = summary["groups"][0]["measures"]
    groups = _shown_groups(summary)

    # The page.
    page = render(
        "report.html",
        title=plan.config.exp_name,
        asked_items=plan.config.report.items,
        evaluation=record.name,
        sentences=words.what_was_run(plan, summary),
        left_out=summary["left_out"],
        confidence=f"{100 * summary['evaluation']['confidence']:g} %",
        groups=groups,
        rows=[_row(name, groups) for name in headlines(measures)],
        gallery=_gallery(plan, items),
        figures=_figures(summary, items),
        parts=_all_measures(measures),
        study=_study(study) if study else None,
        facts=words.run_facts(plan, summary, _versions(plan)),
        folder=record.parent,
    )
    write_bytes(target, page.encode())
    log(f"{target} ({len(page) / 1e6:.1f} MB)")


# --- what the page is made from ------------------------------------------------------------------


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


def _read_items(record: Path) -> list[dict[str, str]]:
    """items.csv, which was checked with the record's other files: one mapping for each sample."""
    with open(record.parent / "items.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _versions(plan: Plan) -> dict[str, dict[str, int]]:
    """Library -> version -> number of the archive's chunks that were made with it."""
    return read_archive_record(Path(plan.archive_record)).versions


# --- tables --------------------------------------------------------------------------------------


def _shown_groups(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The columns of the table: all samples, then sets and actions where there are several."""
    everything = summary["groups"][0]
    columns = [everything]
    for kind in (SET, ACTION):
        of_kind = [group for group in summary["groups"] if group["kind"] == kind]
        columns += of_kind if len(of_kind) > 1 else []
    return columns


def _row(name: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A headline measure: its name and meaning, and a cell for each group that has it.

    All bars of a row have one scale: 0 to 1 for shares, else 0 to the highest end of the row.
    """
    measure = measure_of(name)
    found = [group["measures"].get(name) for group in groups]
    chances = [group["measures"].get(CHANCE_OF.get(name, "")) for group in groups]
    highest = 1 if measure.is_share else max(each["high"] for each in found if each)
    cells = [
        each and _cell(name, each, chance, highest or 1)
        for each, chance in zip(found, chances, strict=True)
    ]
    has_chance = any(cell and cell.chance is not None for cell in cells)
    notes = [measure.meaning, BETTER[measure.better]]
    notes += ["upright line in the bar: chance"] if has_chance else []
    return {"name": name, "meaning": "; ".join(filter(None, notes)), "cells": cells}


def _cell(
    name: str, measure: words.Measured, chance: words.Measured | None, highest: float
) -> Cell:
    low, high, value = (100 * measure[end] / highest for end in ("low", "high", "value"))
    at = 100 * chance["value"] / highest if chance else None
    return Cell(words.shown(name, measure), low, high, value, at)


def _all_measures(measures: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, rows) of every measure; of the best of several maps, the headlines only."""
    names = [
        name
        for name in measures
        if not name.startswith(BEST) or name.removeprefix(BEST) in headlines(measures)
    ]
    parts: dict[str, list] = {
        "whole scene": [],
        "points of the target object": [],
        "best of an item's maps": [],
    }
    whole, on_target, best = parts.values()
    for name in names:
        part = best if name.startswith(BEST) else on_target if TARGET in name else whole
        part.append(
            {
                "name": name,
                "shown": words.shown(name, measures[name]),
                "num_items": measures[name]["num_items"],
                "meaning": _meaning(name),
            }
        )
    return [(title, rows) for title, rows in parts.items() if rows]


def _gallery(plan: Plan, items: Iterable[Mapping[str, str]]) -> Markup:
    """The maps in 3D: as many as `report.items` asks for.

    Args:
        items: the rows of items.csv, which say which maps are the worst.
    Raises:
        ArchiveError: every sample was skipped, or a map is missing or damaged.
    """
    chosen = gather_items(plan, plan.config.report.items, measured_of(items))
    if not chosen:
        raise ArchiveError(f"{plan.archive}: all samples were skipped, so there is no map to show")
    dataset = plan.config.dataset
    up = open_dataset(plan.config, plan.architecture.point_feat_dim).gravity_dim
    return gallery_fragment(chosen, joint_names(dataset), dataset.sigma, up)


def _meaning(name: str) -> str:
    """What a measure says, with the joint's name, and which direction is better."""
    measure = measure_of(name)
    meaning = measure.meaning
    if measure.name == "CPLE_joint_":
        meaning = meaning.replace("one joint", f"the {joint_label(name.rpartition('_')[2])}")
    return "; ".join(filter(None, [meaning, BETTER[measure.better]]))


# --- maps and figures ----------------------------------------------------------------------------


def _figures(summary: Mapping[str, Any], items: Iterable[Mapping[str, str]]) -> list[Figure]:
    """One figure for each question that the measures answer."""
    groups = summary["groups"]
    measures, figures = groups[0]["measures"], []
    if "found_target" in measures:
        caption = words.found_caption(groups, summary["evaluation"]["found_radius"])
        drawing = inline_figures.found_target(groups)
        figures.append(Figure("Do the maps find the object?", [drawing], caption))
    if "pelvis_point_error" in measures:
        errors = [
            (item["action"], float(item["pelvis_point_error"]))
            for item in items
            if item["pelvis_point_error"]
        ]
        caption = words.errors_caption([error for _, error in errors])
        drawing = inline_figures.pelvis_errors(errors)
        figures.append(Figure("How far is the pelvis point from the true one?", [drawing], caption))
    questions = {
        "TKCO": "Do the closest points agree?",
        "IoU": "Do the points in contact agree?",
    }
    for family, question in questions.items():
        if any(f"{family}@" in name for name in measures):
            drawing = inline_figures.overlap(measures, family)
            figures.append(Figure(question, [drawing], words.overlap_caption(measures, family)))
    return figures


def _study(record: Path) -> dict[str, Any]:
    """What compare_samplers found."""
    summary = _read_summary(record, "summary.json")
    header, rows = short_table(summary)
    return {
        "sentences": verdict(summary),
        "rule": summary["rule"],  # the long one of the sentences
        "figure": Figure(
            "Which sampler with how few steps is as good?",
            inline_figures.study(summary),
            "A setting is as good as the full chain only if its point lies in the grey band of all "
            "three figures. Bars are intervals; fewer evaluations of the model take less time.",
        ),
        "header": header,
        "rows": rows,
    }
