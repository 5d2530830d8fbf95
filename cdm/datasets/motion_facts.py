"""What H3D's motion files say about which clips are used: read once for a run, and kept by it.

A clip with a NaN anywhere in its motion is left out, as in afford-motion. No header tells that, so
the first plan of a run reads all motions whole.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdm.datasets.files import decode_npy, quick_path, read_regular
from cdm.errors import BadItem
from cdm.files import FileState, Place, RemotePath, RemoteState, seal, state_of, unseal

TRIAL = 64  # motions that are read before it is decided whether threads read the others
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
        for name, (state_read, found) in zip(stale, _read_motions(stale.values()), strict=True):
            facts[name] = found
            if state_read is not None and isinstance(found, MotionFacts):
                known[name] = [*state_read, *found]
    return {name: facts[name] for name in names}, known


Read = tuple[FileState | RemoteState | None, MotionFacts | BadItem]


def _read_motions(places: Iterable[str | Place]) -> Iterator[Read]:
    """`_read_motion` of each, by threads where they help.

    They help where a disk or a server lets a reader wait. Where files come from memory, Python is
    what takes the time, and sixteen threads that share it are half as fast as one.
    """
    paths = list(places)
    remote = bool(paths) and isinstance(paths[0], RemotePath)
    if not remote:
        began, cpu_began = time.perf_counter(), time.thread_time()
        first = [_read_motion(path) for path in paths[:TRIAL]]
        waited = time.perf_counter() - began > 2 * (time.thread_time() - cpu_began)
        yield from first
        del paths[:TRIAL]
        if not waited:
            yield from map(_read_motion, paths)
            return
    size = 1 if remote else PART
    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
    with ThreadPoolExecutor(16) as pool:
        yield from chain.from_iterable(pool.map(lambda part: list(map(_read_motion, part)), parts))


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
