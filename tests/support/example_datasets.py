"""Configurations of small datasets, and the items that afford-motion's code recorded."""

import re

import numpy as np

from cdm.config import DatasetConfig
from cdm.datasets import make_dataset

SETS = ("HumanML3D", "HUMANISE", "PROX")


def dataset_config(**options) -> DatasetConfig:
    """afford-motion's HUMANISE configuration, with changes."""
    defaults = {
        "name": "ContactMapDataset",
        "data_dir": "data",
        "phase": "test",
        "sets": SETS,
        "sets_config": {"HumanML3D": {"use_mirror": True, "use_fur": True}},
        "data_repr": "contact_cont_joints",
        "data_repr_joints": (0, 10, 11, 12, 20, 21),
        "use_raw_dist": False,
        "sigma": 0.8,
        "num_points": 16,
        "use_color": True,
        "use_openscene": False,
        "transforms": None,
        "captions": "random",
        "max_items": None,
        "statistics": None,
        "statistics_phase": None,
        "on_bad_item": "fail",
        "min_horizon": 40,
        "max_horizon": 200,
    }
    return DatasetConfig(**{**defaults, **options})


def parity_dataset(entry, data_dir, **options):
    """The dataset an expected file was recorded from, as its `meta` describes it."""
    meta = entry["meta"]
    mirror_fur = {key: bool(meta.get(key)) for key in ("use_mirror", "use_fur")}
    config = dataset_config(
        name=meta["dataset"],
        phase=meta["phase"],
        sets=tuple(meta.get("sets", SETS)),
        sets_config={"HumanML3D": mirror_fur},
        data_repr=meta["data_repr"],
        use_raw_dist=meta["use_raw_dist"],
        sigma=meta["sigma"],
        use_color=meta["use_color"],
        use_openscene=meta["use_openscene"],
        num_points=entry["shapes"]["c_pc_xyz"][0][1],
        **{"captions": "all", "transforms": (), "on_bad_item": "skip", **options},
    )
    return make_dataset(config, meta.get("point_feat_dim"), seed=1, data_dir=data_dir)


def parity_cases(parity_index):
    """afford-motion's recorded items, by file name."""
    files = parity_index["cases"]["10_dataset"]["files"]
    known = (
        *("ContactMapDataset", "ContactHumanML3DDataset"),
        *("ContactMapCustomDataset", "ContactMapExampleDataset"),
    )
    metas = {name: entry.get("meta", {}) for name, entry in files.items()}
    return {name: files[name] for name, meta in metas.items() if meta.get("dataset") in known}


def make(data_dir, seed=1, **options):
    """The dataset of the fixture `data_dir`."""
    options = {"phase": "train", "sets": ("PROX",), **options}
    return make_dataset(dataset_config(**options), seed=seed, data_dir=data_dir)


def make_h3d(data_dir, facts_path=None, **options):
    """The H3D clips of the fixture `data_dir`, one of which has no motion file."""
    options = {"on_bad_item": "skip", **options}
    config = dataset_config(**{"name": "ContactHumanML3DDataset", "phase": "train", **options})
    return make_dataset(config, data_dir=data_dir, facts_path=facts_path)


def make_examples(data_dir, *lines, **options):
    """The examples of the fixture `data_dir`; lines are written into its list first."""
    path = data_dir / "examples/contact_examples.txt"
    if lines:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return make(data_dir, **{"name": "ContactMapExampleDataset", **options})


def damage(path, **changes):
    """Change arrays of an .npz; None takes one out."""
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def message(error) -> str:
    """Text of what pytest.raises caught, on one line."""
    return re.sub(r"\s+", " ", str(error.value))
