"""Maps as coloured point clouds, which MeshLab and Blender open.

The layout is that of afford-motion's `ContactVisualizer`: a folder for each sample, with
`contact_joint_XX.ply` for each joint and `contact.npy`. Its stage 2 reads `contact.npy` when it
samples its example datasets, in the order of the folders' names.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cdm.archive.reader import ContactMaps
from cdm.datasets.base import evenly_spread
from cdm.errors import ArchiveError, listed
from cdm.files import replacing

# Colours of points far from a joint and on it. Every channel changes one way only, as brightness
# does, so that the map can also be read without colours.
FAR, NEAR = np.array([53, 42, 135]), np.array([250, 240, 60])
FARTHEST_M = 2.0  # at which a distance map (use_raw_dist) has the colour FAR, as in afford-motion
LONGEST_NAME = 120  # bytes of a caption in the name of a folder


def export_ply(
    archive: Path, folder: Path, items: int | Sequence[str], log: Callable[[str], None]
) -> list[str]:
    """Write point clouds of some samples: `{number:03}-{caption}/`, numbered as they are chosen.

    `contact_joint_XX.ply`: x, y, z in metres as the model saw them, coloured by the closeness to
    one joint. `contact.npy`: (num_points, 3 + contact_dim) float32, x, y, z and the distances in
    metres. Of several maps of a sample, the first.

    Args:
        archive: `contact_maps.zarr`.
        folder: replaced as a whole.
        items: how many samples, spread evenly over those with a map; or their names (`find_rows`).
        log: gets one line of text at a time.
    Returns:
        Names of the folders.
    Raises:
        ArchiveError: a map is damaged or missing, or a name is none of the archive; nothing is
            written then.
    """
    maps = ContactMaps(archive)
    text, names = maps.column("text"), []
    with replacing(folder) as temporary:
        temporary.mkdir()
        for number, row in enumerate(find_rows(maps, items)):
            names.append(f"{number:03}-{_folder_name(str(text[row]))}")
            _write_sample(maps, row, temporary / names[-1])
    log(f"{len(names)} samples -> {folder}")
    return names


def find_rows(maps: ContactMaps, items: int | Sequence[str]) -> list[int]:
    """The rows of chosen samples.

    Args:
        items: a number of samples, or names: set/index for all captions of an item that the archive
            has (HUMANISE/12), set/index-caption for one of them (H3D/000021-0).
    Raises:
        ArchiveError: no map has such a name.
    """
    with_maps = maps.rows_with_maps()
    if isinstance(items, int):
        return evenly_spread(with_maps, items)
    by_name: dict[str, list[int]] = {}
    for row in with_maps:
        set, index, caption_idx = maps.keys[row]
        by_name.setdefault(f"{set}/{index}", []).append(row)
        by_name.setdefault(f"{set}/{index}-{caption_idx}", []).append(row)
    rows = [by_name.get(name, by_name.get(_without_zeros(name), [])) for name in items]
    unknown = [name for name, found in zip(items, rows, strict=True) if not found]
    if unknown:
        raise ArchiveError(
            f"{maps.path}: has no map of {listed(unknown, 8, ', ')} (export.items); expected "
            f"set/index or set/index-caption, such as {listed(list(by_name)[:2], 2, ' or ')}"
        )
    return [row for found in rows for row in found]


def _without_zeros(name: str) -> str:
    """HUMANISE/00012, the number in the name of a file, is sample HUMANISE/12."""
    return re.sub(r"/0+(?=\d)", "/", name)


def _folder_name(caption: str) -> str:
    """A caption as part of a folder's name: no slashes or control characters, and not too long."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f/\\]", " ", caption).encode()[:LONGEST_NAME]
    return name.decode(errors="ignore").strip()


def _write_sample(maps: ContactMaps, row: int, folder: Path) -> None:
    folder.mkdir()
    xyz = maps.read("points", row).astype(np.float32)
    distance = maps.read("distance", row)[0].astype(np.float32)
    contact = io.BytesIO()  # into a file, numpy would say "N requested" of a full disk
    np.save(contact, np.concatenate([xyz, distance], axis=1))
    (folder / "contact.npy").write_bytes(contact.getvalue())
    closeness = maps.contact(*maps.keys[row])[0]
    if maps.attributes["config"]["dataset"]["use_raw_dist"]:
        closeness = 1 - np.clip(closeness, 0, FARTHEST_M) / FARTHEST_M
    for joint in range(closeness.shape[1]):
        write_ply(folder / f"contact_joint_{joint:02}.ply", xyz, colours(closeness[:, joint]))


def colours(closeness: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 red, green, blue of (n,) closeness: 0 is far away, 1 on the joint."""
    return np.rint(FAR + closeness[:, None].clip(0, 1) * (NEAR - FAR)).astype(np.uint8)


def write_ply(path: Path, xyz: np.ndarray, rgb: np.ndarray) -> None:
    """Write a point cloud as a binary little-endian PLY.

    Args:
        xyz: (n, 3), metres.
        rgb: (n, 3) uint8.
    """
    vertices = np.empty(len(xyz), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertices["xyz"], vertices["rgb"] = xyz, rgb
    properties = [*(f"float {axis}" for axis in "xyz"), "uchar red", "uchar green", "uchar blue"]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}"]
    header += [*(f"property {each}" for each in properties), "end_header"]
    path.write_bytes("\n".join(header).encode() + b"\n" + vertices.tobytes())
