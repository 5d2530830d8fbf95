"""Finished work whose files are no longer all there (no torch).

A record says that its files are whole. Files can be lost afterwards: deleted by hand, truncated by
a bad copy, or away with a disk. When the plan is made, names and sizes are compared with the
records, and Snakemake runs again what lost a file. Nothing is removed for this. So if a disk is
away for a moment only, its chunks count as finished once it is back.

An archive is also merged again after an edit of `workflow.absolute_paths`, which says whether its
attributes tell paths of this machine.

The archive's metadata is also hashed. It names the plan that the archive was merged for, and the
archive of another run may have files of the very same names and sizes.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cdm.archive.checks import lost_files, verify_file
from cdm.archive.records import read_archive_record, read_record, store_path
from cdm.errors import ArchiveError
from cdm.files import list_names, read_json
from cdm.run.plan import CHUNKS, Plan

METADATA = "zarr.json"
THREADS = 8  # a network file system answers many requests at once


def find_losses(plan: Plan, run: str | Path | None = None) -> dict[str, str]:
    """What has to be made again although its record is there.

    An archive that is whole needs no chunks, so they are not looked at then. A record that cannot
    be read is left to the merge, which says how to go on.

    Args:
        plan: names the chunks and the archive.
        run: the run's folder; by default that of the plan.
    Returns:
        name of the chunk, or "merge" for the archive -> the first file that is lost, or the edit.
        In the order of the archive.
    """
    run = Path(run or plan.config.run_dir)
    record = run / Path(plan.archive_record).name
    losses = {}
    if record.exists():
        archive = run / Path(plan.archive).name
        lost = _lost_of_archive(record, archive) or _paths_edited(plan, run, archive)
        if not lost:
            return {}
        losses["merge"] = lost
    return dict(_lost_chunks(plan, run)) | losses


def _lost_of_archive(record: Path, archive: Path) -> str | None:
    try:
        files = read_archive_record(record).files
    except ArchiveError as error:
        return str(error)
    lost = next(iter(lost_files(archive, files)), None)
    if lost or METADATA not in files:
        return lost
    if verify_file(archive / METADATA, files[METADATA]):
        return f"{archive}/{METADATA}: is not the one that was merged here"
    return None


def _paths_edited(plan: Plan, run: Path, archive: Path) -> str | None:
    """Whether `workflow.absolute_paths` was edited since the merge, in words; None if it was not.

    Only a merge changes the archive's attributes. Where chunks were removed, it would sample them
    again; then the archive stays as it is.
    """
    try:
        workflow = read_json(archive / METADATA)["attributes"]["config"]["workflow"]
        was, now = workflow["absolute_paths"], plan.config.workflow.absolute_paths
    except (OSError, ValueError, KeyError, TypeError):  # of a version that does not tell
        return None
    if was == now:
        return None
    needed = {Path(path).name for path in plan.chunk_records()}
    if not needed <= list_names(run / CHUNKS):
        return None
    return f"{archive}: workflow.absolute_paths is {now}, and was {was} when it was merged"


def _lost_chunks(plan: Plan, run: Path) -> Iterator[tuple[str, str]]:
    names = list_names(run / CHUNKS)
    finished = [chunk.name for chunk in plan.chunks if f"{chunk.name}.json" in names]

    def look(name: str) -> str | None:
        path = run / CHUNKS / f"{name}.json"
        try:
            files = plan.finished.get(name) or read_record(path).files
            return next(iter(lost_files(store_path(path), files)), None)
        except ArchiveError:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        for name, lost in zip(finished, pool.map(look, finished), strict=True):
            if lost:
                yield name, lost
