"""Items of a run for the gallery: the maps, and what the dataset knows about them (no torch)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cdm.archive.reader import ContactMaps
from cdm.config import Config
from cdm.contact import to_distance
from cdm.datasets import Dataset, FileReader, Sample
from cdm.datasets.actions import action_of
from cdm.datasets.base import evenly_spread, joint_names
from cdm.datasets.files import to_restore
from cdm.datasets.values import check_same_points
from cdm.errors import BadItem
from cdm.gallery.items import GalleryItem, Measured
from cdm.run.dataset import open_dataset
from cdm.run.plan import Plan
from cdm.run.plan_files import read_samples

Key = tuple[str, str, int]  # set, index, caption_idx


def gather_items(
    plan: Plan, most: int, measured: Mapping[Key, Measured] | None = None
) -> list[GalleryItem]:
    """Items of the merged archive: half of them spread evenly over it, the others the worst.

    Args:
        most: how many.
        measured: by an evaluation of this archive.
    Returns:
        In the order of the archive.
    Raises:
        ArchiveError: a map is missing or damaged.
        BadItem: an item cannot be read any more.
    """
    # Which rows, and why.
    maps = ContactMaps(plan.archive)
    rows = choose_rows(maps.rows_with_maps(), maps.keys, most, measured or {})
    view = ItemReader(plan.config, plan.architecture.point_feat_dim)

    # Chunk by chunk, because the rows of a chunk's samples are read together.
    items = []
    for chunk in plan.chunks:
        mine = [row for row in sorted(rows) if chunk.start <= row < chunk.stop]
        samples = read_samples(plan, chunk, view.dataset) if mine else []
        for row in mine:
            sample, key = samples[row - chunk.start], maps.keys[row]
            arrays = {name: maps.read(name, row) for name in ItemReader.ARRAYS}
            found = (measured or {}).get(key, Measured())
            try:
                item = view.item(sample, arrays, maps.attributes["statistics"])
            except BadItem as error:
                raise to_restore(error) from error
            items.append(replace(item, measured=found, pick=rows[row]))
    return items


def choose_rows(
    rows: Sequence[int], keys: Sequence[Key], most: int, measured: Mapping[Key, Measured]
) -> dict[int, str]:
    """Row -> "even" or "worst" of the rows that are shown.

    Without a measure that says which are the worst, all are spread evenly.
    """
    ranked = [row for row in rows if badness(measured.get(keys[row])) > -math.inf]
    num_even = most if not ranked else most - most // 2
    chosen = dict.fromkeys(evenly_spread(rows, num_even), "even")
    ranked.sort(key=lambda row: -badness(measured.get(keys[row])))
    for row in ranked:
        if len(chosen) >= min(most, len(rows)):
            break
        chosen.setdefault(row, "worst")
    return chosen


def badness(measured: Measured | None) -> float:
    """How bad a map is: metres of error, or without ground truth 1 for a missed target."""
    if measured is None:
        return -math.inf
    if measured.error is not None:
        return measured.error
    return -math.inf if measured.found is None else 1 - measured.found


class ItemReader:
    """Puts together what the archive and the dataset hold of a sample.

    Args:
        config: of the run.
        point_feat_dim: of the model, which decides what the dataset's items are.
    Attributes:
        dataset: the run's.
        up: axis that points up.
        joints: the maps' columns.
    """

    ARRAYS = ("sample", "points", "aug_trans")

    def __init__(self, config: Config, point_feat_dim: int):
        self.config = config
        self.dataset: Dataset = open_dataset(config, point_feat_dim)
        self.up = self.dataset.gravity_dim
        self.joints = joint_names(config.dataset)

    def item(
        self, sample: Sample, arrays: Mapping[str, np.ndarray], statistics: Mapping
    ) -> GalleryItem:
        """The item with its maps and its truth.

        Args:
            arrays: one row of the archive: name -> values of each of ARRAYS.
            statistics: mean and std, (1, contact_dim), that the maps are normalised by.
        Raises:
            BadItem: a file of the item is missing, damaged or of other points.
        """
        item = self.maps_alone(sample, arrays, statistics)
        reader = FileReader(self.config.data_dir)
        true = self.dataset.read_item(sample, reader)
        check_same_points(true.c_pc_xyz, item.xyz, str(sample))
        mask = true.info_obj_mask
        if mask is None:
            mask = self.dataset.read_target_mask(sample, reader)
        return replace(
            item,
            truth=true.distance,
            target=mask if mask is not None and mask.any() else None,
            colors=self.dataset.read_colors(sample, reader),
            motion=self.dataset.read_motion(sample, reader),
            backdrop=self.dataset.read_backdrop(sample),
        )

    def maps_alone(
        self, sample: Sample, arrays: Mapping[str, np.ndarray], statistics: Mapping
    ) -> GalleryItem:
        """The item with its maps; this needs no file of the dataset."""
        mean, std = (np.asarray(statistics[key], np.float32) for key in ("mean", "std"))
        raw, sigma = self.config.dataset.use_raw_dist, self.config.dataset.sigma
        x = arrays["sample"].astype(np.float32)
        # Before contact is clipped to 1, because clipping makes many points equal.
        column = mean + std * x
        return GalleryItem(
            set=sample.set,
            index=sample.index,
            caption_idx=sample.caption_idx,
            caption=sample.text,
            action=action_of(sample.text),
            # As on disk: the model may have seen the points rotated.
            xyz=arrays["points"].astype(np.float32) @ arrays["aug_trans"][:3, :3],
            generated=to_distance(x, mean, std, sigma, raw),
            closest=column.argmin(axis=1) if raw else column.argmax(axis=1),
        )
