"""What H3D's motion files say about which clips are used: read once for a run, and kept by it.

A clip with a NaN anywhere in its motion is left out, as in afford-motion. No header tells that, so
the first plan of a run reads all motions whole.
"""

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdm.datasets.files import decode_npy, quick_path, read_regular
from cdm.errors import BadItem
from cdm.files import FileState, Place, RemotePath, RemoteState, seal, state_of, unseal

PART = 32  # motions that a thread reads at a time, so that handing over costs little


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
    if isinstance(data_dir, RemotePath):
        data_dir.folder.states(map(motion_file, names))  # remembered: `state_of` asks no more
    for name in names:
        try:
            path = quick_path(data_dir, motion_file(name))
            state = state_of(path)
        except BadItem as error:
            facts[name] = error
        except OSError as error:
            facts[name] = BadItem(f"no motion file: {path} ({error.strerror})")
        else:
            entry = known.get(name)
            if entry is not None and entry[:-2] == [*state] and state.tells_edits:
                facts[name] = MotionFacts(*entry[-2:])
            else:
                stale[name] = path
    if stale:
        paths = list(stale.values())
        size = 1 if isinstance(data_dir, RemotePath) else PART
        parts = [paths[start : start + size] for start in range(0, len(paths), size)]
        with ThreadPoolExecutor(16) as pool:
            read = chain.from_iterable(pool.map(lambda part: list(map(_read_motion, part)), parts))
            for name, (state_read, found) in zip(stale, read, strict=True):
                facts[name] = found
                if state_read is not None and isinstance(found, MotionFacts):
                    known[name] = [*state_read, *found]
    return {name: facts[name] for name in names}, known


def _read_motion(
    path: str | Place,
) -> tuple[FileState | RemoteState | None, MotionFacts | BadItem]:
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
