"""Large datasets for measurements: afford-motion's folders, with few files under many names.

A pool of items is made once. Every item of the dataset is a hard link to one of them, so that
24,544 items of 8192 points take 60 MB and not 20 GB. Its captions, names and tables are all there,
each its own. The files are therefore in the page cache, as those of a data folder are that was
read before on a machine with enough memory: a cold or a slow disk is not measured.
"""

import os
from pathlib import Path

import numpy as np

POOL = 64  # files that the items share
SET_NAMES = {"h3d": "H3D", "humanise": "HUMANISE"}
DATASETS = {"h3d": "ContactHumanML3DDataset", "humanise": "ContactMapDataset"}
VERBS = "walk to", "sit on", "lie on", "stand by", "reach for", "turn around at", "lean on"
THINGS = "chair", "sofa", "bed", "table", "desk", "window", "door", "cabinet", "lamp", "wall"


def write_dataset(folder: Path, layout: str, num_items: int, num_points: int) -> Path:
    """Write a dataset unless it is there; returns its data folder.

    Args:
        folder: parent of the data folder, whose name tells layout, items and points.
        layout: "h3d" (ContactHumanML3DDataset) or "humanise" (ContactMapDataset).
    """
    data = folder / f"{layout}_{num_items}_{num_points}"
    if (data / "complete").exists():
        return data
    {"h3d": _write_h3d, "humanise": _write_humanise}[layout](data, num_items, num_points)
    np.savez(
        data / "statistics.npz", mean=np.full((1, 6), 0.2, "f4"), std=np.full((1, 6), 0.3, "f4")
    )
    (data / "complete").touch()
    return data


def dataset_section(data: Path, layout: str, num_points: int) -> dict:
    """Section `dataset` of a configuration for such a folder."""
    return {
        "name": DATASETS[layout],
        "data_dir": str(data),
        "sets": ["HUMANISE"],
        "num_points": num_points,
        "statistics": str(data / "statistics.npz"),
    }


def caption(number: int) -> str:
    """A caption of which every item has its own."""
    verb, thing = VERBS[number % len(VERBS)], THINGS[number // len(VERBS) % len(THINGS)]
    return f"a person walks for {number} steps and then they {verb} the {thing}"


def _write_h3d(data: Path, num_items: int, num_points: int) -> None:
    """`H3D/`: a split, motions of 40 to 199 frames, captions, contacts."""
    base = data / "H3D"
    folders = [base / name for name in ("contacts", "new_joint_vecs", "texts")]
    for path in folders:
        path.mkdir(parents=True, exist_ok=True)
    contacts, motions, texts = folders

    # The pool: scenes as generate_contact_data.py writes them, and motions.
    pool = min(POOL, num_items)
    for number in range(pool):
        rng = np.random.default_rng(number)
        points, dist = _scene(rng, num_points)
        np.savez_compressed(contacts / f"pool{number:03}.npz", points=points[:, :3], dist=dist)
        frames = int(rng.integers(40, 200))
        np.save(motions / f"pool{number:03}.npy", rng.normal(size=(frames, 263)).astype("f4"))

    # The items.
    names = [f"{number:06}" for number in range(num_items)]
    for number, name in enumerate(names):
        _link(contacts / f"pool{number % pool:03}.npz", contacts / f"{name}.npz")
        _link(motions / f"pool{number % pool:03}.npy", motions / f"{name}.npy")
        words = caption(number)
        tagged = " ".join(f"{word}/NOUN" for word in words.split())
        (texts / f"{name}.txt").write_text(f"{words}#{tagged}#0.0#0.0\n")
    for phase in ("train", "all"):
        (base / f"{phase}.txt").write_text("".join(f"{name}\n" for name in names))


def _write_humanise(data: Path, num_items: int, num_points: int) -> None:
    """`HUMANISE/`: a split, a table, contacts with colours."""
    base = data / "HUMANISE" / "contact_motion"
    contacts = base / "contacts"
    contacts.mkdir(parents=True, exist_ok=True)
    pool = min(POOL, num_items)
    for number in range(pool):
        points, dist = _scene(np.random.default_rng(number), num_points)
        mask = np.arange(num_points)
        np.savez(contacts / f"pool{number:03}.npz", points=points, mask=mask, dist=dist)
    lines = ["scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others"]
    for number in range(num_items):
        _link(contacts / f"pool{number % pool:03}.npz", contacts / f"{number:05}.npz")
        lines.append(f"scene{number % pool:04}_00,0,0,0,{caption(number)},x")
    (base / "anno.csv").write_text("\n".join(lines) + "\n")
    names = "".join(f"{number:06}\n" for number in range(num_items))
    for phase in ("train", "all"):
        (data / "HUMANISE" / f"{phase}.txt").write_text(names)


def _scene(rng: np.random.Generator, num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and colours (num_points, 6) of a room of 4 m, and distances (num_points, 22)."""
    points = rng.uniform(-1, 1, (num_points, 6)).astype("f4")
    points[:, :3] *= 2
    joints = rng.uniform(-1, 1, (22, 3)).astype("f4")
    dist = np.linalg.norm(points[:, None, :3] - joints, axis=-1)
    return points, dist.astype("f4")


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        os.link(source, target)
