"""What an archive says about itself: units and meaning of each array, and no path of a machine.

The names of attributes are those of the CF conventions (units, long_name, coordinates, title,
source), which xarray and its plots know.
"""

import os
import re
from pathlib import Path, PurePath
from typing import Any

METRES = {"units": "m"}
NONE = {"units": "1"}

# Array or column -> its attributes.
ARRAY_ATTRIBUTES: dict[str, dict[str, str]] = {
    "distance": METRES
    | {
        "long_name": "distance to joint",
        "description": "Distance from each point to each joint of the generated human. This is "
        "what afford-motion's second stage reads.",
    },
    "sample": NONE
    | {
        "long_name": "normalised model output",
        "description": "x_0 as the model gives it. Times statistics.std plus statistics.mean (the "
        "attributes of the archive) it is contact, exp(-d^2 / (2 sigma^2)) of a distance d; or the "
        "distance itself where config.dataset.use_raw_dist is true.",
    },
    "points": METRES
    | {
        "long_name": "points of the scene",
        "description": "As the model saw them: after the random rotation aug_trans of a training "
        "split.",
    },
    "scene_trans": NONE
    | {
        "long_name": "translation of the scene",
        "description": "Homogeneous matrix, whose last column is in metres: afford-motion's "
        "info_scene_trans, rotated by aug_trans like the points.",
    },
    "aug_trans": NONE
    | {
        "long_name": "random rotation of the item",
        "description": "Homogeneous matrix R: a point x of the dataset is R x in `points`.",
    },
    "index": {
        "long_name": "row of the archive",
        "description": "The number of the row, as text: unique, so that xarray aligns no two "
        "different rows of an archive.",
    },
    "key": {
        "long_name": "name of the sample",
        "description": "set/item/caption_idx: unique, and the same in every archive. To compare "
        'archives, align them by it: a.swap_dims(index="key") - b.swap_dims(index="key").',
    },
    "set": {"long_name": "set of the item", "description": "Such as HUMANISE, PROX or H3D."},
    "item": {
        "long_name": "index of the item in its set",
        "description": "Number of a row, or name of a clip (H3D).",
    },
    "caption_idx": NONE
    | {"long_name": "number of the caption", "description": "Among those of the item, from 0."},
    "text": {"long_name": "caption", "description": "What the model was told."},
    "scene_id": {"long_name": "scene", "description": "As the dataset calls it."},
    "status": {
        "long_name": "status of the row",
        "description": "ok: has its maps. skipped: the item could not be used, its rows are NaN.",
    },
    "joint": {
        "long_name": "joint",
        "description": "As SMPL calls it; farthest is the joint that is farthest from the point.",
    },
    "xyz": {"long_name": "axis", "description": "Of the points' coordinates."},
}

DESCRIPTION = (
    "Maps of the distances between the points of a scene and the joints of a human, sampled from a "
    "contact diffusion model for each caption. Rows of skipped samples are NaN."
)
TAIL = 3  # last parts of a path that stay, where it lies neither here nor below the user's home
HOMES = ("home", "Users")  # folders that have one folder for each user


def without_folders(value: Any, here: Path | None = None, home: Path | None = None) -> Any:
    """JSON values in which no path tells where on this machine, or whose, a file was.

    A path below the working folder becomes relative to it, one below the user's home begins with
    `~`, and of any other the last parts stay, behind `...`. Other text is left as it is.

    Args:
        value: JSON values. Keys are left as they are.
        here: the working folder.
        home: the user's.
    """
    bases = _bases(here or Path.cwd(), "") + _bases(home or Path.home(), "~")
    return _without(value, bases)


def _bases(folder: Path, name: str) -> list[tuple[PurePath, str]]:
    """A folder under the name it was given and the one behind links."""
    paths = dict.fromkeys((folder, Path(os.path.realpath(folder))))
    return [(path, name) for path in paths if len(path.parts) > 1]  # not the root


def _without(value: Any, bases: list[tuple[PurePath, str]]) -> Any:
    if isinstance(value, dict):
        return {key: _without(each, bases) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without(each, bases) for each in value]
    if not isinstance(value, str):
        return value
    if not value.startswith("/"):
        for base, name in bases:  # a path in a sentence, which begins after a space or a quote
            found = rf"(?<![\w/.:-]){re.escape(str(base))}/"
            value = re.sub(found, f"{name}/" if name else "", value)
        return value
    path = PurePath(value)
    for base, name in bases:
        if path.is_relative_to(base):
            return "/".join(filter(None, (name, *path.relative_to(base).parts))) or "."
    parts = path.parts[1:]
    if parts[:1] and parts[0] in HOMES:
        parts = parts[2:]
    return "/".join(("...", *parts[-TAIL:]))
