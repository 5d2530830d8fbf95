"""Records of an evaluation, whose names tell whether its inputs are as they were (no torch).

Snakemake runs a rule again when the file that it should write is not there. So the name of a
record carries a key of everything the evaluation was made from: the plan and the settings, which
are known when the Snakefile is read, and the content of the files that it read, which the record
keeps. If such a file was edited, added or removed since, the record gets another name, and the
same command evaluates again.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdm.archive.checks import verify_file
from cdm.datasets import FileReader
from cdm.errors import ArchiveError
from cdm.files import (
    Place,
    RemotePath,
    checksum,
    digest,
    hash_file,
    may_be,
    place_of,
    read_bytes,
    seal,
    state_of,
    typed,
    unseal,
    write_bytes,
)
from cdm.run.plan import Plan

Inputs = Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True)
class EvaluationRecord:
    """What is known of a finished evaluation or study.

    Attributes:
        base: key of the plan and of the settings.
        plan: fingerprint of the plan.
        inputs: file in the data folder -> its state and sha256 when it was read; None if there
            was no such file.
        files: file beside the record -> [size in bytes, sha256].
    """

    base: str
    plan: str
    inputs: dict[str, Any]
    files: dict[str, list]


def inputs_read(reader: FileReader, names: Iterable[str]) -> dict[str, dict[str, Any] | None]:
    """What a reader found in these files: name -> state and sha256; None if it did not read it."""
    found = {name: reader.contents.get(name) for name in sorted(set(names))}
    return {name: content and content.as_dict() for name, content in found.items()}


def record_key(folder: Path, kind: str, base: str, plan: Plan) -> str:
    """Key in the name `{kind}-{key}.json` of the record that describes the files of today.

    Args:
        folder: where the records of this kind lie.
        kind: "evaluation" or "summary".
        base: key of the plan and of the settings.
        plan: names the data folder.
    Returns:
        The key of the finished record, if there is one with this base and it still holds; a key
        that no record has, if there is one that no longer holds; else the base.
    """
    stale = []
    for path in sorted(folder.glob(f"{kind}-*.json")):
        key = path.stem.removeprefix(f"{kind}-")
        try:
            record = read_record(path)
        except ArchiveError:
            stale += [key] if key == base else []
            continue
        if record.base != base:
            continue
        if next(_changes(record, folder, plan), None) is None:
            return key
        stale.append(key)
    return digest([base, stale]) if stale else base


def _changes(record: EvaluationRecord, folder: Path, plan: Plan) -> Iterator[Place]:
    """Inputs and outputs of a record that are not as it says."""
    data_dir = place_of(plan.config.data_dir)
    if isinstance(data_dir, RemotePath):
        data_dir.folder.states(record.inputs)  # asked for at once, and remembered
    for name, then in record.inputs.items():
        path = data_dir / name
        try:
            now = state_of(path)
            same = then is not None and (
                now.agrees_with(then) or (may_be(then, now) and hash_file(path) == then["sha256"])
            )
        except OSError:
            # The rule demo_data writes its files again, alike, if a job needs them.
            same = then is None or plan.config.is_demo_data
        if not same:
            yield path
    for name, (size, _) in record.files.items():
        try:
            same = os.stat(folder / name).st_size == size
        except OSError:
            same = False
        if not same:
            yield folder / name


def drop_records(folder: Path, kind: str) -> None:
    """Remove all records of a kind, because the tables that they describe are about to change."""
    for old in folder.glob(f"{kind}-*.json"):
        old.unlink()


def write_record(path: Path, base: str, plan: Plan, inputs: Inputs, files: Iterable[str]) -> None:
    """Write the record of a finished evaluation, sealed.

    Args:
        path: `{kind}-{key}.json`.
        base: key of the plan and of the settings.
        plan: of the run that was evaluated.
        inputs: `inputs_read` of every file that the plan's fingerprint does not cover.
        files: names of the tables and figures that lie beside the record.
    """
    sums = {name: checksum(path.parent / name) for name in files}
    record = EvaluationRecord(base, plan.fingerprint, dict(inputs), sums)
    write_bytes(path, seal(asdict(record)))


def read_record(path: Path) -> EvaluationRecord:
    """Read what `write_record` wrote.

    Raises:
        ArchiveError: missing, damaged, or not such a record.
    """
    try:
        return typed(EvaluationRecord, unseal(read_bytes(path)))
    except (OSError, ValueError) as error:
        raise ArchiveError(
            f"{path}: not the record of an evaluation ({error}); to have it made again: "
            f"{again(path)}"
        ) from None


def verify_outputs(path: Path) -> None:
    """Hold the tables and figures beside a record against its checksums.

    Raises:
        ArchiveError: names the file that is missing or was changed.
    """
    for name, expected in read_record(path).files.items():
        problem = verify_file(path.parent / name, expected)
        if problem:
            raise ArchiveError(f"{problem}; to have it made again: {again(path)}")


def again(record: Path) -> str:
    """How to have an evaluation made again."""
    return f"rm {record}, then run the same snakemake command again"
