"""Measures the maps of one item against its ground truth and its target object (no torch)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cdm.config import Config
from cdm.contact import contact_from_distance, contact_to_distance, denormalise
from cdm.datasets import Dataset, FileReader, Item, Sample
from cdm.datasets.base import joint_names
from cdm.evaluation import metrics
from cdm.evaluation.measure_table import BEST, TARGET, measure_of

# Raised whenever the values of given maps change, so that old results are not taken for new ones.
MEASURES_VERSION = 1


@dataclass(frozen=True)
class GroundTruth:
    """What the maps of one item are compared with.

    Attributes:
        xyz: (num_points, 3) float64 metres. They may be rotated: no measure depends on it.
        distance: (num_points, contact_dim) float64 metres, or None without ground truth.
        mask: (num_points,) bool, the points of the target object, or None where it is not known.
    """

    xyz: np.ndarray
    distance: np.ndarray | None
    mask: np.ndarray | None


def read_truth(dataset: Dataset, sample: Sample, reader: FileReader) -> GroundTruth:
    """Read an item's points, true distances and target mask.

    Raises:
        BadItem: a file is missing or damaged.
    """
    return truth_of(dataset.read_item(sample, reader), dataset, reader)


def truth_of(item: Item, dataset: Dataset, reader: FileReader) -> GroundTruth:
    """The ground truth of an item that was already read.

    The dataset reads the target mask in phase test only, so other phases read it here.
    """
    mask = item.info_obj_mask
    if mask is None:
        mask = dataset.read_target_mask(item.sample, reader)
    return GroundTruth(
        xyz=item.c_pc_xyz.astype(np.float64),
        distance=None if item.distance is None else item.distance.astype(np.float64),
        mask=mask if mask is not None and mask.any() else None,
    )


class MapMeasures:
    """Measures maps under one configuration.

    Args:
        config: sections `dataset` and `evaluation`.
        statistics: mean and std, (1, contact_dim), that the maps are normalised by.
        chance: whether to measure found_target_chance too. It is the same for all maps of an item.
    """

    def __init__(self, config: Config, statistics: Mapping, chance: bool = True):
        self.chance = chance
        self.dataset, self.evaluation = config.dataset, config.evaluation
        self.mean, self.std = (np.asarray(statistics[key], np.float32) for key in ("mean", "std"))
        self.joints = joint_names(config.dataset)
        self.pelvis = self.joints.index("0") if "0" in self.joints else None

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Normalised maps as distances: float64 metres, shaped like x.

        Contact below `evaluation.min_contact` counts as that much, as in afford-motion's
        evaluator: a distance then stays finite.
        """
        contact = denormalise(x, self.mean, self.std, self.dataset.use_raw_dist)
        if not self.dataset.use_raw_dist:
            floor = self.evaluation.min_contact
            contact = contact_to_distance(contact, self.dataset.sigma, clip_min=floor)
        return contact.astype(np.float64)

    def contact(self, x: np.ndarray) -> np.ndarray:
        """Normalised maps as contact from 0 to 1: float32, shaped like x."""
        contact = denormalise(x, self.mean, self.std, self.dataset.use_raw_dist)
        if self.dataset.use_raw_dist:
            return contact_from_distance(contact, False, self.dataset.sigma)
        return contact

    def pelvis_points(self, x: np.ndarray) -> np.ndarray:
        """The point nearest to the pelvis in each map: (k,) positions in the point cloud.

        It is chosen before contact is clipped to 1, because clipping makes many points equal.
        """
        column = (self.mean + self.std * x)[..., self.pelvis]
        return column.argmin(axis=1) if self.dataset.use_raw_dist else column.argmax(axis=1)

    def __call__(self, x: np.ndarray, truth: GroundTruth) -> dict[str, float]:
        """Every measure that the item permits.

        Args:
            x: (k, num_points, contact_dim) float32, the normalised maps of one item.
            truth: of the same item.
        Returns:
            name -> mean over the maps. For k > 1 there is also the best of the maps under
            BEST + name, and how much the maps differ from each other.
        Raises:
            ValueError: x holds NaN or infinity. argmax would take NaN for the best point.
        """
        if not np.isfinite(x).all():
            raise ValueError("the maps hold NaN or infinity, which no measure can tell from a map")
        # Measures of each map by itself.
        distance = self.distance(x)
        maps = [
            self._localisation(pred, truth) | self._target_measures(pred, truth)
            for pred in distance
        ]
        per_map = {name: np.array([values[name] for values in maps]) for name in maps[0]}
        if self.pelvis is not None:
            per_map |= self._pelvis_measures(x, truth)

        # Measures of the item: chance, and how its maps differ.
        item = self._item_measures(x, truth)
        if len(x) > 1:
            for name, values in per_map.items():
                higher = measure_of(name).better == "higher"
                item[BEST + name] = float(values.max() if higher else values.min())
        return {name: float(values.mean()) for name, values in per_map.items()} | item

    def _pelvis_measures(self, x: np.ndarray, truth: GroundTruth) -> dict[str, np.ndarray]:
        """Measures of the point nearest to the pelvis: name -> (k,) values."""
        points, values = self.pelvis_points(x), {}
        if truth.mask is not None:
            values["found_target"] = self._within_target(truth.xyz[points], truth)
        if truth.distance is not None:
            true = truth.xyz[truth.distance[:, self.pelvis].argmin()]
            squares = np.square(truth.xyz[points] - true).sum(axis=1)
            values["pelvis_point_error"] = np.sqrt(squares)
        return values

    def _item_measures(self, x: np.ndarray, truth: GroundTruth) -> dict[str, float]:
        """What belongs to the item and not to one of its maps."""
        values = {}
        if self.pelvis is not None and self.chance and truth.mask is not None:
            values["found_target_chance"] = float(self._within_target(truth.xyz, truth).mean())
        if len(x) == 1:
            return values
        if self.pelvis is not None:
            places = truth.xyz[self.pelvis_points(x)]
            apart = metrics.pairwise_distances(places, places)
            values["pelvis_point_spread"] = metrics.mean_pairwise(apart)
        flat = self.contact(x).reshape(len(x), -1).astype(np.float64)
        apart = metrics.pairwise_distances(flat, flat) / np.sqrt(flat.shape[1])
        values["diversity"] = metrics.mean_pairwise(apart)
        return values

    def _within_target(self, xyz: np.ndarray, truth: GroundTruth) -> np.ndarray:
        """Whether each of the points (n, 3) lies within found_radius of the target: (n,) bool."""
        away = metrics.distance_to_points(xyz, truth.xyz[truth.mask])
        return away <= self.evaluation.found_radius

    def _localisation(self, pred: np.ndarray, truth: GroundTruth) -> dict[str, float]:
        """Measures of afford-motion's localisation script, for one map (num_points, contact_dim).

        They are taken over the whole scene and, with the prefix TARGET, over the target's points.
        """
        if truth.distance is None:
            return {}
        values = self._localisation_of(pred, truth.distance, truth.xyz)
        if truth.mask is not None:
            parts = (array[truth.mask] for array in (pred, truth.distance, truth.xyz))
            on_target = self._localisation_of(*parts)
            values |= {TARGET + name: value for name, value in on_target.items()}
        return values

    def _localisation_of(self, pred, gt, xyz) -> dict[str, float]:
        """Localisation measures over the given points; shapes as in `cdm.evaluation.metrics`."""
        e = self.evaluation
        m_pred, m_gt = metrics.smallest(pred), metrics.smallest(gt)
        values = {"CPLE": metrics.closest_point_error(m_pred, m_gt, xyz)}
        errors = metrics.joint_point_errors(pred, gt, xyz).tolist()
        for column, (joint, error) in enumerate(zip(self.joints, errors, strict=True)):
            values["CPLE_pelvis" if column == self.pelvis else f"CPLE_joint_{joint}"] = error
        for k in e.top_k:
            # Of fewer points than k, all are among the closest k, and the overlap says nothing.
            few = k >= len(xyz)
            values[f"TKCO@{k}"] = np.nan if few else metrics.top_k_overlap(m_pred, m_gt, k)
        for sigma in e.wde_sigma:
            values[f"WDE@{sigma:g}"] = metrics.weighted_distance_error(pred, gt, m_gt, sigma)
        for threshold in e.iou_thresholds:
            values[f"IoU@{threshold:g}"] = metrics.contact_iou(m_pred, m_gt, threshold)
        for sigma in e.soft_sigma:
            values[f"SoftLoc@{sigma:g}"] = metrics.soft_localisation(m_pred, m_gt, xyz, sigma)
        values["min_dist_error"] = metrics.min_distance_error(m_pred, m_gt)
        return values

    def _target_measures(self, pred: np.ndarray, truth: GroundTruth) -> dict[str, float]:
        """Measures of afford-motion's evaluator, for one map (num_points, contact_dim).

        Empty without a target mask; afford-motion's evaluator then uses all points instead.
        """
        if truth.mask is None:
            return {}
        on_target = pred[truth.mask]
        values = metrics.distance_to_target(on_target, self.evaluation.distance_thresholds)
        if self.pelvis is not None:
            values["dist_to_target_pelvis_average"] = float(on_target[:, self.pelvis].mean())
        return values
