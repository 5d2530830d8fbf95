"""Whether a data folder has the maps that stage 2 will read (no torch). Looking changes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cdm.archive.stage2 import H3D, PRED_CONTACT, SetMaps, asked_items, check_maps
from cdm.config import Config
from cdm.config.sections import CUSTOM
from cdm.datasets import Dataset, FileReader, Sample, make_dataset
from cdm.datasets.files import load_npz
from cdm.errors import BadItem, ConfigError, listed

SETS = ("HumanML3D", "HUMANISE", "PROX")
# Sets that one dataset class of stage 2 reads together: all of them are trained on, or none.
FAMILIES = {"ContactMapDataset": SETS, "ContactHumanML3DDataset": (H3D,), CUSTOM: ("custom",)}
SPLITS = ("train", "all", "val", "test")


def check_stage_2(
    data_dir: Path,
    split: str,
    config: Config,
    sets: Sequence[str] | None = None,
    contact_folder: Path | None = None,
    joints: int | None = None,
    deep: bool = False,
) -> list[SetMaps]:
    """Look for the map of every item of a split, as stage 2 does.

    Args:
        data_dir: stage 2's data folder.
        split: "train" or "all", which stage 2 trains on; "test"; or "val", as if it trained on it.
        config: tells which items there are, and afford-motion's order of them: `dataset` with
            mirrored clips, lengths of H3D clips and `max_items`, and the seed.
        sets: to look at; None for those that are trained on together with one that has maps, or
            for all sets where none has.
        contact_folder: parent of {set}/pred_contact; None for the data folder.
        joints: of a map; None for those that most maps have.
        deep: read the values too.
    Raises:
        ConfigError: no such folder or set, or no contact folder for a test.
        DataError: an index file is missing or damaged.
    """
    # Where the maps are, and of which sets.
    tests = split == "test"
    if not data_dir.is_dir():
        raise ConfigError(f"{data_dir}: no such folder; expected stage 2's data folder, on disk")
    if tests and contact_folder is None:
        raise ConfigError(
            "stage 2 reads the maps of a test in its task.test.contact_folder: name that folder "
            "with --contact-folder, such as --contact-folder outputs/EXP_NAME"
        )
    parent = contact_folder or data_dir
    if not parent.is_dir():
        raise ConfigError(f"{parent}: no such folder; expected the parent of the sets' folders")
    chosen = _choose_sets(data_dir, parent, split, sets)

    # The items of each, and what is there for them.
    reports = []
    for dataset in _datasets(data_dir, split, config, chosen):
        items = asked_items(dataset, tests)
        num_points = {set: _num_points(dataset, samples[0]) for set, samples in items.items()}
        reports += check_maps(parent, items, tests, num_points, joints, deep)
    return reports


def _choose_sets(
    data_dir: Path, parent: Path, split: str, sets: Sequence[str] | None
) -> dict[str, list[str]]:
    """Dataset class -> the sets of it that are looked at."""
    there = {
        name: [set for set in family if _index_file(data_dir, set, split).exists()]
        for name, family in FAMILIES.items()
    }
    known = [set for found in there.values() for set in found]
    if sets is None:
        with_maps = {
            name: found
            for name, found in there.items()
            if any((parent / set / PRED_CONTACT).exists() for set in found)
        }
        there = with_maps or there
    else:
        unknown = [set for set in sets if set not in known]
        if unknown:
            raise ConfigError(
                f"{data_dir}: has no index file of the split {split} of {listed(unknown, 8, ', ')};"
                f" it has those of {listed(known, 8, ', ') or 'no set'}"
            )
        there = {name: [set for set in found if set in sets] for name, found in there.items()}
    if not any(there.values()):
        raise ConfigError(
            f"{data_dir}: has no set with the split {split}: looked for {split}.txt in "
            f"{', '.join((*SETS, H3D))}; expected stage 2's data folder"
        )
    return {name: found for name, found in there.items() if found}


def _index_file(data_dir: Path, set: str, split: str) -> Path:
    """A file without which the items of a set are not known; scans are tested only."""
    if set == "custom":
        return data_dir / set / ("anno.csv" if split == "test" else "no split")
    alone = data_dir / set / f"{split}_without_mirror.txt"
    return alone if set == "HumanML3D" and alone.exists() else data_dir / set / f"{split}.txt"


def _datasets(
    data_dir: Path, split: str, config: Config, chosen: dict[str, list[str]]
) -> Iterator[Dataset]:
    for name, sets in chosen.items():
        own = tuple(sets) if name == "ContactMapDataset" else SETS
        dataset = replace(config.dataset, name=name, phase=split, sets=own, use_openscene=False)
        yield make_dataset(dataset, seed=config.seed, data_dir=data_dir)


def _num_points(dataset: Dataset, sample: Sample) -> int | None:
    """Points of an item's own file; None where it cannot be read."""
    name = dataset.files(sample)[0]
    try:
        return len(load_npz(FileReader(dataset.data_dir), name, {"points": (None, None)})["points"])
    except BadItem:
        return None


def describe_maps(reports: Sequence[SetMaps], tests: bool) -> str:
    """The findings in words."""
    lines = [line for report in reports for line in report.lines(tests)]
    absent = [report.set for report in reports if report.num_items and not report.files]
    others = [report.set for report in reports if report.files]
    if absent and others:
        lines.append(
            f"{', '.join(absent)}: no map at all. If stage 2 does not use it: --sets "
            f"{' '.join(others)}"
        )
    return "\n".join(lines)
