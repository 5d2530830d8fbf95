"""An item as the page reads it: a few hundred bytes of JSON and one block of numbers (no torch).

Places are uint16, closeness and colours uint8. The block is the arrays one after the other,
deflated, in base64; `layout` tells name, type and shape of each.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdm.contact import contact_from_distance
from cdm.errors import printable
from cdm.gallery.items import GalleryItem

MOST_FRAMES = 32  # of a motion: more are not told apart by eye
FEWEST_POINTS = 256  # that thinning leaves


def closeness(distance: np.ndarray, sigma: float) -> np.ndarray:
    """Closeness exp(-d^2 / 2 sigma^2) of distances as uint8: 255 touches, 0 is far away."""
    return np.rint(255 * contact_from_distance(distance, False, sigma)).astype(np.uint8)


def to_z_up(xyz: np.ndarray, up: int) -> np.ndarray:
    """Places (..., 3) turned so that the axis `up` becomes z; right-handed."""
    return xyz[..., [(up + 1) % 3, (up + 2) % 3, up]]


def pack_item(item: GalleryItem, sigma: float, up: int, points: int | None = None) -> dict:
    """The item as JSON values.

    Args:
        sigma: width of closeness, metres.
        up: axis that points up in `item.xyz`.
        points: how many at most; the target's and the closest ones are all kept.
    """
    # Which points, and the frame that they and the motion lie in.
    kept = thinned(item, points)
    xyz = to_z_up(item.xyz, up).astype(np.float64)
    places = xyz[kept]
    motion = None
    if item.motion is not None and len(item.motion):
        frames = np.linspace(0, len(item.motion) - 1, min(len(item.motion), MOST_FRAMES))
        motion = to_z_up(item.motion[np.rint(frames).astype(int)], up).astype(np.float64)
    behind = None
    if item.backdrop is not None:
        behind = to_z_up(item.backdrop[:, :3], up).astype(np.float64)
    parts = (places, None if motion is None else motion.reshape(-1, 3), behind)
    everything = np.concatenate([part for part in parts if part is not None])
    origin = everything.min(axis=0)
    step = max(float((everything - origin).max()), 1e-6) / 65535

    def grid(values):
        return np.rint((values - origin) / step).astype("<u2")

    # The arrays, with the points last: like numbers side by side deflate better.
    arrays: dict[str, np.ndarray] = {"xyz": grid(places).T}
    if motion is not None:
        arrays["motion"] = grid(motion)
    arrays["maps"] = closeness(item.generated[:, kept], sigma).transpose(0, 2, 1)
    if item.truth is not None:
        arrays["truth"] = closeness(item.truth[kept], sigma).T
    if item.colors is not None:
        arrays["colors"] = item.colors[kept].T.astype(np.uint8)
    if item.target is not None:
        arrays["target"] = item.target[kept].astype(np.uint8)
    if behind is not None and item.backdrop is not None:
        arrays["behind"] = grid(behind).T
        arrays["behind_colors"] = np.rint((item.backdrop[:, 3:].T + 1) * 127.5).astype(np.uint8)

    return {
        "origin": origin.round(6).tolist(),
        "step": step,
        "points": len(item.xyz),
        "closest": [
            closest_places(xyz, distance, rows)
            for distance, rows in zip(item.generated, item.closest, strict=True)
        ],
        "true": None
        if item.truth is None
        else closest_places(xyz, item.truth, item.truth.argmin(axis=0)),
        **pack_arrays(arrays),
    }


def closest_places(xyz: np.ndarray, distance: np.ndarray, rows: np.ndarray) -> list[list[float]]:
    """x, y, z and distance of the closest point of each joint, in metres to the millimetre.

    Args:
        xyz: (n, 3); distance: (n, joints); rows: (joints,) positions in the cloud.
    """
    metres = distance[rows, np.arange(len(rows))]
    return np.column_stack([xyz[rows], metres]).astype(np.float64).round(3).tolist()


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as `layout` (name, "u1" or "u2", shape) and `block` (base64 of what zlib made).

    uint16 stand first, so that each begins at an even byte.
    """
    arrays = dict(sorted(arrays.items(), key=lambda pair: pair[1].dtype.itemsize == 1))
    layout = [[name, f"u{a.dtype.itemsize}", list(a.shape)] for name, a in arrays.items()]
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return {"layout": layout, "block": base64.b64encode(zlib.compress(content, 6)).decode()}


def thinned(item: GalleryItem, most: int | None) -> np.ndarray:
    """Positions of the points that are shown, in their order.

    What is left out is background, evenly: the target object and the closest point of every joint
    all stay.
    """
    n = len(item.xyz)
    if most is None or n <= most:
        return np.arange(n)
    keep = np.zeros(n, bool)
    keep[item.closest.ravel()] = True
    if item.truth is not None:
        keep[item.truth.argmin(axis=0)] = True
    if item.target is not None:
        keep |= item.target
    background = np.flatnonzero(~keep)
    room = max(most - int(keep.sum()), 0)
    if room:
        # Neighbours in a file often lie side by side in the room, so that even steps spread.
        keep[background[np.linspace(0, len(background) - 1, room).astype(int)]] = True
    return np.flatnonzero(keep)


def pack_all(items: Sequence[GalleryItem], sigma: float, up: int, most_bytes: int) -> list[dict]:
    """All items, each thinned until together they fit.

    Args:
        most_bytes: of all blocks together.
    """
    packed = [pack_item(item, sigma, up) for item in items]
    share = most_bytes / max(len(items), 1)
    for place, item in enumerate(items):
        points = len(item.xyz)
        while len(packed[place]["block"]) > share and points > FEWEST_POINTS:
            shrink = 0.97 * share / len(packed[place]["block"])
            points = max(int(points * shrink), FEWEST_POINTS)
            packed[place] = pack_item(item, sigma, up, points)
    return packed


def describe_item(item: GalleryItem) -> dict[str, Any]:
    """What lists, filters and captions show of an item, as JSON values."""
    return describe(
        item.key, item.set, item.index, item.caption, item.action, item.measured, item.pick
    )


def describe(key, set, index, caption, action, measured, pick="") -> dict[str, Any]:
    """Like `describe_item`, of an item that was not read yet."""
    found, error = measured
    return {
        "key": printable(key),
        "set": printable(set),
        "index": printable(index),
        "caption": printable(caption),
        "action": action,
        "found": found,
        "error": error,
        "pick": pick,
    }
