"""The exports of a run, as its configuration asks for them (no torch).

An export is made again when its archive is newer, when it is of another plan, when section `export`
asks for something else, when a file of it is gone, or when maps of another run took its place in a
data folder. No chunk depends on it. Each export tells its plan itself, because times of files are
lost where a run is copied.
"""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cdm.archive.data_folder import (
    check_data_folder,
    opened,
    other_exports,
    put_maps,
    replaced_since,
)
from cdm.archive.export import export_npz, export_pred_contact
from cdm.archive.ply import export_ply
from cdm.archive.reader import ContactMaps
from cdm.archive.records import read_archive_record
from cdm.archive.stage2 import PRED_CONTACT, SetMaps, asked_items, check_maps
from cdm.config import Config
from cdm.datasets import Dataset, FileReader, Item, Sample, make_dataset
from cdm.datasets.statistics import Statistics
from cdm.datasets.values import check_same_points
from cdm.errors import BadItem, listed
from cdm.files import read_json, write_json
from cdm.run.dataset import open_dataset
from cdm.run.plan import Plan

LISTED = 10  # names of a kind that are told before "and N more"
Log = Callable[[str], None]


def export_maps(plan: Plan, record: Path, log: Log) -> None:
    """The folders that stage 2 reads: in the run's folder, and in `export.to` if that is set.

    What stage 2 will find is looked at at the end; log and record tell it.

    Raises:
        ArchiveError: a map is damaged, or the data folder is not as it should be; nothing is
            written there then.
        DataError: `export.to` has no index files of the split.
    """
    # What is exported, and where.
    config, run = plan.config, Path(plan.config.run_dir)
    into = _data_folder(config)
    dataset = _dataset(plan, into)
    items = asked_items(dataset, config.stage_2_tests)
    origin = {"archive": os.path.abspath(plan.archive), "plan": plan.fingerprint}
    maps = ContactMaps(plan.archive)
    sets = dict.fromkeys(set for set, _, _ in maps.keys)
    split = config.dataset.phase

    # The run's own folder is written first. Then `finish` fills the data folder and looks at it.
    with ExitStack() as stack:
        folders = {}
        if into is not None:
            folders = stack.enter_context(opened(into, sets, config.export.overwrite))

        def finish(files: dict[str, dict[str, list]]) -> dict[str, Any]:
            if into is not None:
                put_maps(folders, run, split, files, origin, log)
                for path in other_exports(into, sets, split):
                    log(f"{path} is of an earlier export: no sample of it is in this archive")
            found = _look(config, into or run, items)
            skipped = read_archive_record(Path(plan.archive_record)).skipped
            for line in _describe(found, files, skipped, config.stage_2_tests):
                log(line)
            return {
                **origin,
                "export": asked_of_maps(config),
                "stage_2": [each.as_dict() for each in found],
                "files": {set: {n: c[0] for n, c in own.items()} for set, own in files.items()},
            }

        export_pred_contact(Path(plan.archive), run, record, log, finish)


def _data_folder(config: Config) -> Path | None:
    """The folder of `export.to`, unless that is the run's own."""
    if config.export.to is None:
        return None
    into = Path(config.export.to)
    same = into.exists() and into.resolve() == Path(config.run_dir).resolve()
    return None if same else into


def _dataset(plan: Plan, into: Path | None) -> Dataset:
    """The dataset whose items stage 2 asks for: that of the folder with its index files."""
    config, width = plan.config, plan.architecture.point_feat_dim
    if into is None or into.resolve() == Path(config.data_dir).resolve():
        return open_dataset(config, width)
    return make_dataset(config.dataset, width, config.seed, into)


def _look(config: Config, parent: Path, items: dict[str, list[Sample]]) -> list[SetMaps]:
    num_points = dict.fromkeys(items, config.dataset.num_points)
    return check_maps(parent, items, config.stage_2_tests, num_points, config.dataset.contact_dim)


def _describe(
    found: list[SetMaps],
    files: dict[str, dict[str, list]],
    skipped: list[dict[str, Any]],
    tests: bool,
) -> Iterator[str]:
    """What stage 2 will find, why maps are missing, and what of it this export did not write."""
    reasons = {f"{row['set']}/{row['index']}": row["reason"] for row in skipped}
    for each in found:
        yield from each.lines(tests)
        names = dict.fromkeys(name.split(" caption ")[0] for name in each.missing)
        bad = [f"{name} ({reasons[name]})" for name in names if name in reasons]
        if bad:
            yield f"  {len(bad)} of these were skipped as bad items: {listed(bad, LISTED, ', ')}"
        others = sorted({*each.files} - files.get(each.set, {}).keys())
        if others:
            yield (
                f"  {len(others)} file(s) that it reads are not of this export: "
                f"{listed(others, LISTED, ', ')}"
            )


def export_table(plan: Plan, target: Path, log: Log) -> None:
    """The old script's .npz, with the fields that are read from the dataset again."""
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    reader = FileReader(plan.config.data_dir)
    numbers = ContactMaps(plan.archive).attributes["statistics"]
    mean, std = (np.asarray(numbers[key], np.float32) for key in ("mean", "std"))
    statistics = Statistics(mean, std, plan.archive)
    lost: dict[Sample, str] = {}

    def read_item(sample: Sample, xyz: np.ndarray) -> Item | None:
        try:
            item = dataset.load(sample, reader, statistics)
            check_same_points(item.c_pc_xyz, xyz, str(sample))
        except BadItem as error:
            lost[sample] = str(error)  # of several maps, an item is read twice
            return None
        mesh = item.info_scene_mesh and os.path.join(plan.config.data_dir, item.info_scene_mesh)
        return replace(item, info_scene_mesh=mesh)

    export_npz(Path(plan.archive), target, log, read_item)
    if lost:
        log(
            f"{len(lost)} sample(s) could not be read again, so x, c_pc_feat, info_scene_mesh and "
            f"info_obj_mask are left out there: {next(iter(lost.values()))}"
        )


def export_clouds(plan: Plan, record: Path, log: Log) -> None:
    """Point clouds of chosen samples in the run's folder `ply/`."""
    items = plan.config.export.items
    folders = export_ply(Path(plan.archive), _clouds(plan.config), items, log)
    asked = asked_of_clouds(plan.config)
    files = {name: _sizes(_clouds(plan.config) / name) for name in folders}
    write_json(record, {"plan": plan.fingerprint, "export": asked, "files": files})


def _clouds(config: Config) -> Path:
    return Path(config.run_dir, "ply")


# --- whether an export has to be made again -------------------------------------------------------


def asked_of_maps(config: Config) -> dict[str, Any]:
    """The keys that decide what `export_maps` makes."""
    export = config.as_dict()["export"]
    return {key: export[key] for key in ("to", "for")}


def asked_of_clouds(config: Config) -> dict[str, Any]:
    """The keys that decide what `export_clouds` makes."""
    return {"items": config.as_dict()["export"]["items"]}


def stale_table(plan: Plan, table: Path) -> str | None:
    """Why the old script's .npz has to be made again although it is there, or None.

    A .npz is a zip file, whose list of contents comes last. So one that was cut off has none.
    """
    if not os.path.lexists(table):
        return None
    try:
        with zipfile.ZipFile(table) as file:
            found = file.comment
    except (OSError, zipfile.BadZipFile):
        return f"{table}: is cut off, or no .npz"
    return None if found == plan.fingerprint.encode() else f"{table}: holds maps of another plan"


def stale_maps(plan: Plan, record: Path) -> str | None:
    """Why exported maps have to be made again although their record is there, or None.

    Raises:
        ArchiveError: there is no folder to put them in.
    """
    config = plan.config
    into = _data_folder(config)
    if into is not None:
        check_data_folder(into)  # before a map is sampled for it
    return _stale(plan, record, asked_of_maps(config), lambda content: _lost_maps(plan, content))


def stale_clouds(plan: Plan, record: Path) -> str | None:
    """Why exported point clouds have to be made again although their record is there, or None."""
    folder, asked = _clouds(plan.config), asked_of_clouds(plan.config)
    return _stale(plan, record, asked, lambda content: _lost_files(folder, content["files"]))


def _stale(
    plan: Plan, record: Path, asked: dict[str, Any], lost: Callable[[dict[str, Any]], str | None]
) -> str | None:
    """Why a record does not answer what is asked now; without one, Snakemake knows."""
    if not record.exists():
        return None
    try:
        content = read_json(record)
        if content["plan"] != plan.fingerprint:
            return f"{record}: is of maps of another plan"
        before = content["export"]
        changed = [key for key, value in asked.items() if before[key] != value]
        if changed:
            key = changed[0]
            return f"export.{key} is {asked[key]}, and was {before[key]} when {record} was written"
        return lost(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{record}: is not the record of an export of this version"


def _lost_maps(plan: Plan, content: dict[str, Any]) -> str | None:
    """The first exported file that is missing or of another size; or who replaced them since."""
    config = plan.config
    into = _data_folder(config)
    files = {f"{set}/{PRED_CONTACT}": sizes for set, sizes in content["files"].items()}
    for parent in (Path(config.run_dir), *filter(None, [into])):
        lost = _lost_files(parent, files)
        if lost:
            return lost
    split = config.dataset.phase
    for set, sizes in content["files"].items():
        if into is not None and replaced_since(into, set, split, sizes, plan.fingerprint):
            return f"{into / set / PRED_CONTACT}: holds maps of another export"
    return None


def _lost_files(parent: Path, files: dict[str, dict[str, int]]) -> str | None:
    """The first of these files, folder -> name -> size in bytes, that is not there as it was."""
    for name, sizes in files.items():
        folder = parent / name
        try:
            there = _sizes(folder)
        except OSError as error:
            return f"{folder}: {error.strerror}"
        lost = [name for name, size in sizes.items() if there.get(name) != size]
        if lost:
            return f"{folder}/{lost[0]}: is missing, or has another size than was written"
    return None


def _sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of each file in a folder, by name."""
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries}
