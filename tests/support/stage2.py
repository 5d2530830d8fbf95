"""Stage 2 as afford-motion's users describe it, and the folders it works on.

The readers are written from a description of what stage 2 opens, and share no code with `cdm`: they
take nothing but index files and names of files.
"""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers import DEMO_ARCHITECTURE, overlay, raw_config, write_contacts

from cdm.archive.layout import OK, Layout
from cdm.archive.records import ChunkRecord
from cdm.archive.store import write_chunk
from cdm.config import Config, load_config
from cdm.contact import to_distance
from cdm.datasets import FileReader, make_dataset
from cdm.files import digest
from cdm.run.exports import export_maps
from cdm.run.merge import merge
from cdm.run.plan import Chunk, Plan

POINTS = 16
SETS = ("HumanML3D", "HUMANISE", "PROX")
MEAN, STD = [[0.2] * 6], [[0.3] * 6]
HEADER = "scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others\n"


# --- stage 2 --------------------------------------------------------------------------------------


def rows_of_a_training(data_dir: Path, set: str, split: str) -> tuple[dict, list]:
    """Training on a set: row number -> the map that is trained on; rows with ground truth."""
    maps, ground_truth = {}, []
    for row in sorted({int(line) for line in (data_dir / set / f"{split}.txt").open()}):
        path = data_dir / set / "pred_contact" / f"{row:05}.npy"
        if path.exists():
            maps[row] = np.load(path).squeeze(0)
        else:
            ground_truth.append(row)
    return maps, ground_truth


def clips_of_a_training(data_dir: Path, split: str, pred_contact_dir: Path | None = None):
    """Training on H3D: clip -> the maps of it that may be drawn; clips with ground truth.

    Args:
        pred_contact_dir: the fork's key of this name, which moves this one folder.
    """
    folder = (pred_contact_dir or data_dir) / "H3D/pred_contact"
    maps, ground_truth = {}, []
    for clip in clips(data_dir, split):
        files = sorted(folder.glob(f"{clip}-*.npy"))
        if files:
            maps[clip] = {path.name: np.load(path).squeeze(0) for path in files}
        else:
            ground_truth.append(clip)
    return maps, ground_truth


def rows_of_a_test(data_dir: Path, set: str, contact_folder: Path) -> dict:
    """Testing on a set: row number -> its k maps. A missing file is a FileNotFoundError."""
    if set == "custom":
        rows = range(len(list(csv.DictReader((data_dir / "custom/anno.csv").open()))))
    else:
        rows = sorted({int(line) for line in (data_dir / set / "test.txt").open()})
    return {row: np.load(contact_folder / f"{set}/pred_contact/{row:05}.npy") for row in rows}


def clips_of_a_test(data_dir: Path, contact_folder: Path) -> dict:
    """Testing on H3D: (clip, caption) -> its k maps. A clip and each part of it has one caption."""
    maps = {}
    for clip in clips(data_dir, "test"):
        motion = np.load(data_dir / f"H3D/new_joint_vecs/{clip}.npy")
        lines = (data_dir / f"H3D/texts/{clip}.txt").read_text().splitlines()
        spans = [[int(20 * float(word)) for word in line.split("#")[2:]] for line in lines]
        whole = [i for i, span in enumerate(spans) if not any(span)]
        parts = [i for i, (a, b) in enumerate(spans) if 40 <= len(motion[a:b]) < 200]
        for caption in [*whole[:1], *parts]:
            path = contact_folder / f"H3D/pred_contact/{clip}-{caption}.npy"
            maps[clip, caption] = np.load(path)
    return maps


def clips(data_dir: Path, split: str) -> list[str]:
    """Clips of a split that are neither too short nor too long."""
    names = (data_dir / f"H3D/{split}.txt").read_text().split()
    lengths = {n: len(np.load(data_dir / f"H3D/new_joint_vecs/{n}.npy")) for n in names}
    return [name for name in names if 40 <= lengths[name] < 200]


# --- data and archives ----------------------------------------------------------------------------


def write_data(folder: Path) -> Path:
    """A data folder with every set; returns it."""
    for set in SETS:
        base = folder / set / "contact_motion"
        contacts = base / ("contacts_fur" if set == "HumanML3D" else "contacts")
        for row in range(6):
            write_contacts(contacts / f"{row:05}.npz", POINTS, row)
        captions = ["sit$$sit down$$have a seat", "", "walk"]
        rows = "".join(f"scene{i},0.5,1.0,-0.25,{captions[i % 3]},\n" for i in range(6))
        (base / "anno.csv").write_text(HEADER + rows)
        (folder / set / "train.txt").write_text("000003\n000000\n000001\n")
        (folder / set / "test.txt").write_text("000002\n000004\n")
        (folder / set / "all.txt").write_text("\n".join(f"{i:06d}" for i in range(6)))
    for row in (2, 4):  # target objects of HUMANISE's test split
        path = folder / f"HUMANISE/contact_motion/target_mask/{row:05}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.arange(POINTS) < 5)

    (folder / "custom/points").mkdir(parents=True)
    for row in range(2):  # colours from 0 to 255
        points = np.random.default_rng(row).uniform(0, 4, (POINTS, 6)) * (1, 1, 1, 60, 60, 60)
        np.savez(folder / f"custom/points/{row:04}.npz", points=points.astype(np.float32))
    rows = "room,1,2,3,sit on the sofa,\nhall,0,0,0,walk,\n"
    (folder / "custom/anno.csv").write_text(HEADER + rows)

    for clip, frames in {"000021": 60, "M000004": 45, "000007": 20}.items():
        write_contacts(folder / f"H3D/contacts/{clip}.npz", POINTS, frames)
        for name in ("texts", "new_joint_vecs"):
            (folder / "H3D" / name).mkdir(exist_ok=True)
        np.save(folder / f"H3D/new_joint_vecs/{clip}.npy", np.zeros((frames, 3), np.float32))
        text = "hops#x#0.0#0.0\nlands#x#0.0#0.0\nlater#x#0.5#2.6\n"
        (folder / f"H3D/texts/{clip}.txt").write_text(text)
    for split in ("train", "test"):
        (folder / f"H3D/{split}.txt").write_text("000021\nM000004\n000007\n")
    return folder


def stage_1(data_dir: Path | str, **changes) -> Config:
    """The configuration of a run on `write_data`, named `run`."""
    dataset = {"data_dir": str(data_dir), "num_points": POINTS, "transforms": None}
    base = {"exp_name": "run", "exp_dir": "demo", "dataset": dataset, "gpu": None}
    base["sampling"] = {"batch_size": 32}  # of a plan, which holds no `auto`
    return load_config(overlay(raw_config(**base), changes))


def make_archive(config: Config, skipped: tuple[str, ...] = ()) -> Plan:
    """The plan of a merged archive of random maps under outputs/run of the working directory.

    Args:
        skipped: samples without a map, set/index.
    """
    dataset = make_dataset(config.dataset, 0, config.seed, config.data_dir)
    samples, reader = dataset.samples(), FileReader(config.data_dir)
    k, dim, points = (
        config.sampling.k_samples,
        config.dataset.contact_dim,
        config.dataset.num_points,
    )
    layout = Layout(len(samples), len(samples), k, points, dim, config.workflow.dtype)
    rng = np.random.default_rng(config.seed)
    arrays = {name: rng.normal(size=v.shape).astype(v.dtype) for name, v in layout.empty().items()}
    sample = arrays["sample"].astype(np.float32)
    distance = to_distance(sample, np.float32(MEAN), np.float32(STD), 0.8)
    arrays["distance"] = distance.astype(layout.dtype)
    rows = []
    for number, each in enumerate(samples):
        bad = f"{each.set}/{each.index}" in skipped
        status = {"status": "skipped", "reason": "NaN in points"} if bad else {"status": OK}
        known = ("set", "index", "caption_idx", "text", "scene_id")
        rows.append({key: getattr(each, key) for key in known} | status)
        if bad:
            for values in arrays.values():
                values[number] = np.nan
        else:  # exports compare the points with the item's
            arrays["points"][number] = dataset.load(each, reader).c_pc_xyz

    name = digest([config.seed, k, rows])
    chunk = Chunk(0, 0, len(samples), name, name, 0)
    plan = Plan(config, DEMO_ARCHITECTURE, None, None, None, {}, (chunk,))
    provenance = {
        "config": config.as_dict(),
        "statistics": {"mean": MEAN, "std": STD, "sigma": 0.8},
        "device": "CPU",
        "precision": "fp32",
    }
    record = ChunkRecord(chunk.name, chunk.base, layout, rows, {}, provenance, {})
    store = Path(plan.chunk_record(chunk)).with_suffix(".zarr")
    if not store.exists():
        write_chunk(store, arrays, record)
    merge(plan, lambda line: None)
    return plan


def export(plan, **settings) -> list[str]:
    """Export under settings of section `export`; returns what the log says."""
    lines = []
    export_maps(asking(plan, **settings), Path("outputs/run/pred_contact.json"), lines.append)
    return lines


def asking(plan, **settings):
    settings = {key + "_" * (key == "for"): value for key, value in settings.items()}
    config = replace(plan.config, export=replace(plan.config.export, **settings))
    return replace(plan, config=config)
