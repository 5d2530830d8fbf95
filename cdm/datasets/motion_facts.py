"""What H3D's motion files say about which clips are used: read once for a run, and kept by it.

A clip with a NaN anywhere in its motion is left out, as in afford-motion. No header tells that, so
the first plan of a run reads all motions whole.
"""

import contextlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdm.datasets.files import decode_npy, quick_path, read_regular
from cdm.errors import BadItem
from cdm.files import FileState, Place, RemotePath, RemoteState, map_files, seal, state_of, unseal


class MotionFacts(NamedTuple):
    """What a motion file says about whether its clip can be used."""

    num_frames: int
    has_nan: bool


def motion_file(name: str) -> str:
    """Where a clip's motion lies, below the data folder."""
    return f"H3D/new_joint_vecs/{name}.npy"


def motion_facts(
    data_dir: Place, names: Iterable[str], facts_path: str | Path | None = None
) -> tuple[dict[str, MotionFacts | BadItem], dict[str, list]]:
    """Length and NaN of each clip's motion, or what is wrong with its file; and what to keep.

    With a facts file of today's motions, every motion is only stat'ed.
    """
    known = _read_facts(facts_path)
    facts: dict[str, MotionFacts | BadItem] = {}
    stale: dict[str, str | Place] = {}

    # What every motion's state says.
    names = list(names)
    if isinstance(data_dir, RemotePath):
        data_dir.folder.states(map(motion_file, names))  # remembered: `state_of` asks no more
    for name, found in zip(names, map_files(partial(_look_at, data_dir), names), strict=True):
        if isinstance(found, BadItem):
            facts[name] = found
            continue
        path, state = found
        entry = known.get(name)
        if entry is not None and entry[:-2] == [*state] and state.tells_edits:
            facts[name] = MotionFacts(*entry[-2:])
        else:
            stale[name] = path

    # Those that are new or changed are read.
    motions = map_files(_read_motion, stale.values(), waits=isinstance(data_dir, RemotePath))
    for name, (state_read, read) in zip(stale, motions, strict=True):
        facts[name] = read
        if state_read is not None and isinstance(read, MotionFacts):
            known[name] = [*state_read, *read]
    return {name: facts[name] for name in names}, known


def _look_at(data_dir: Place, name: str) -> tuple[str | Place, FileState | RemoteState] | BadItem:
    """Where a clip's motion lies, and the file's state; or what is wrong with it."""
    try:
        path = quick_path(data_dir, motion_file(name))
        return path, state_of(path)
    except BadItem as error:
        return error
    except OSError as error:
        return BadItem(f"no motion file: {path} ({error.strerror})")


Read = tuple[FileState | RemoteState | None, MotionFacts | BadItem]


def _read_motion(path: str | Place) -> Read:
    """The file's state and facts; None and what is wrong with it where it cannot be used."""
    try:
        data, state = read_regular(path)
        motion = decode_npy(data, str(path), (None, None), finite=False)
    except BadItem as error:
        return None, error
    return state, MotionFacts(len(motion), bool(np.isnan(motion).any()))


def seal_motions(motions: dict[str, list]) -> bytes:
    """The bytes of the file in which a run keeps `motions`."""
    return seal({"motions": motions})


def _read_facts(facts_path: str | Path | None) -> dict[str, list]:
    """Clip -> the four values of its state, frames, has_nan; empty for a damaged file."""
    if facts_path is None:
        return {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = unseal(Path(facts_path).read_bytes())["motions"]
        return {name: entry for name, entry in known.items() if len(entry) == 6}
    return {}
