"""All measures of an item's maps, against its ground truth and the target object (no torch)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cdm.config import Config, DatasetConfig
from cdm.contact import contact_from_distance, contact_to_distance, denormalise
from cdm.datasets import Dataset, FileReader, Item, Sample
from cdm.datasets.base import NUM_JOINTS
from cdm.evaluation import metrics

# Raised whenever the values that given maps have change.
MEASURES_VERSION = 1

TARGET = "target/"  # prefix of what is measured on the target's points alone
BEST = "best/"  # prefix of the best of an item's maps
MEDIANS = ("pelvis_point_error",)
DESCRIPTIONS = {  # prefix of the name -> unit, meaning
    "found_target_chance": ("", "share of all scene points that lie so close to the target"),
    "found_target": ("", "share of maps whose pelvis point lies within found_radius of the target"),
    "pelvis_point_error": ("m", "median distance of generated and true pelvis point"),
    "pelvis_point_spread": ("m", "mean distance of the pelvis points of two maps of an item"),
    "diversity": ("", "mean RMS difference in contact of two maps of an item"),
    "dist_to_target_average": ("m", "distance to the target, over its points and the joints"),
    "dist_to_target_pelvis_average": ("m", "distance of the pelvis to the target, over its points"),
    "dist_to_target_min_average": ("m", "distance of the closest joint, over the target's points"),
    "dist_to_target": ("", "share of maps in which a joint comes closer to the target than this"),
    "CPLE_joint": ("m", "distance of generated and true closest point of one joint"),
    "CPLE_pelvis": ("m", "distance of generated and true closest point of the pelvis"),
    "CPLE": ("m", "distance of generated and true closest point"),
    "TKCO": ("", "overlap of the k closest points, generated and true"),
    "WDE": ("m", "error of the distances, weighted towards true contact"),
    "IoU": ("", "overlap of the points in contact, generated and true"),
    "SoftLoc": ("", "nearness of the generated closest point to true contact"),
    "min_dist_error": ("m", "error of the smallest distance"),
}


def describe(name: str) -> tuple[str, str]:
    """Unit and meaning of a measure."""
    bare = name.removeprefix(BEST).removeprefix(TARGET)
    [key] = [key for key in DESCRIPTIONS if bare.startswith(key)][:1]
    unit, meaning = DESCRIPTIONS[key]
    if name.startswith(BEST):
        meaning += "; best of an item's maps"
    return unit, meaning + ("; on the target's points" if TARGET in name else "")


def statistic(name: str) -> str:
    """How a measure is summed up over items: mean or median."""
    return "median" if name.removeprefix(BEST) in MEDIANS else "mean"


def is_share(name: str) -> bool:
    """Whether a measure lies between 0 and 1."""
    return describe(name)[0] == "" and name != "diversity"


def higher_is_better(name: str) -> bool:
    """Whether more of it is a better map; of no meaning for diversity and chance."""
    bare = name.removeprefix(BEST).removeprefix(TARGET)
    last = bare.rpartition("_")[2]
    return bare.startswith(("TKCO", "IoU", "SoftLoc", "found_target")) or (
        bare.startswith("dist_to_target_") and last[0].isdigit()
    )


def joint_names(config: DatasetConfig) -> list[str]:
    """A name for each column of a map: the joint's number, or what was made of all joints."""
    columns = {
        "contact_cont_joints": config.data_repr_joints,
        "contact_all_joints": range(NUM_JOINTS),
        "contact_pelvis": (0,),
    }
    return [str(joint) for joint in columns.get(config.data_repr, ("farthest",))]


@dataclass(frozen=True)
class Truth:
    """What maps of an item are held against.

    Attributes:
        xyz: (num_points, 3) float64 metres; rotated or not, no measure depends on it.
        distance: (num_points, contact_dim) float64 metres, or None without ground truth.
        mask: (num_points,) bool, points of the target object, or None where it is not known.
    """

    xyz: np.ndarray
    distance: np.ndarray | None
    mask: np.ndarray | None


def read_truth(dataset: Dataset, sample: Sample, reader: FileReader) -> Truth:
    """Read what an item's maps are held against.

    Raises:
        BadItem: a file is damaged.
    """
    return truth_of(dataset.read_item(sample, reader), dataset, reader)


def truth_of(item: Item, dataset: Dataset, reader: FileReader) -> Truth:
    """What maps of an item that was read are held against; its mask is read in any phase."""
    mask = item.info_obj_mask
    if mask is None:
        mask = dataset.read_target_mask(item.sample, reader)
    return Truth(
        xyz=item.c_pc_xyz.astype(np.float64),
        distance=None if item.distance is None else item.distance.astype(np.float64),
        mask=mask if mask is not None and mask.any() else None,
    )


class MapMeasures:
    """Measures maps under one configuration.

    Args:
        config: sections `dataset` and `evaluation`.
        statistics: mean and std, (1, contact_dim), that the maps are normalised by.
        chance: also measure found_target_chance, which is the same for all maps of an item.
    """

    def __init__(self, config: Config, statistics: Mapping, chance: bool = True):
        self.chance = chance
        self.dataset, self.evaluation = config.dataset, config.evaluation
        self.mean, self.std = (np.asarray(statistics[key], np.float32) for key in ("mean", "std"))
        self.joints = joint_names(config.dataset)
        self.pelvis = self.joints.index("0") if "0" in self.joints else None

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Normalised maps as float64 metres, as the reference's evaluator has them."""
        contact = denormalise(x, self.mean, self.std, self.dataset.use_raw_dist)
        if not self.dataset.use_raw_dist:
            floor = self.evaluation.min_contact
            contact = contact_to_distance(contact, self.dataset.sigma, clip_min=floor)
        return contact.astype(np.float64)

    def contact(self, x: np.ndarray) -> np.ndarray:
        """Normalised maps as contact from 0 to 1, float32."""
        contact = denormalise(x, self.mean, self.std, self.dataset.use_raw_dist)
        if self.dataset.use_raw_dist:
            return contact_from_distance(contact, False, self.dataset.sigma)
        return contact

    def pelvis_points(self, x: np.ndarray) -> np.ndarray:
        """The point nearest to the pelvis in each map, (k,).

        Before contact is clipped to 1, which would make many points equal.
        """
        column = (self.mean + self.std * x)[..., self.pelvis]
        return column.argmin(axis=1) if self.dataset.use_raw_dist else column.argmax(axis=1)

    def __call__(self, x: np.ndarray, truth: Truth) -> dict[str, float]:
        """Every measure that an item permits.

        Args:
            x: (k, num_points, contact_dim) float32, the normalised maps of one item.
            truth: of the item.
        Returns:
            name -> mean over the maps; for k > 1 also BEST + name -> the best of them, and how the
            maps differ from each other.
        """
        distance = self.distance(x)
        maps = [self._localisation(pred, truth) | self._to_target(pred, truth) for pred in distance]
        per_map = {name: np.array([values[name] for values in maps]) for name in maps[0]}
        item = {}
        if self.pelvis is not None:
            points = self.pelvis_points(x)
            if truth.mask is not None:
                per_map["found_target"] = self._at_target(truth.xyz[points], truth)
                if self.chance:
                    item["found_target_chance"] = float(self._at_target(truth.xyz, truth).mean())
            if truth.distance is not None:
                true = truth.xyz[truth.distance[:, self.pelvis].argmin()]
                per_map["pelvis_point_error"] = np.sqrt(
                    np.square(truth.xyz[points] - true).sum(axis=1)
                )
            if len(x) > 1:
                places = truth.xyz[points]
                item["pelvis_point_spread"] = metrics.mean_pairwise(
                    metrics.pairwise_distances(places, places)
                )
        if len(x) > 1:
            flat = self.contact(x).reshape(len(x), -1).astype(np.float64)
            apart = metrics.pairwise_distances(flat, flat) / np.sqrt(flat.shape[1])
            item["diversity"] = metrics.mean_pairwise(apart)
            for name, values in per_map.items():
                best = values.max() if higher_is_better(name) else values.min()
                item[BEST + name] = float(best)
        return {name: float(values.mean()) for name, values in per_map.items()} | item

    def _at_target(self, xyz: np.ndarray, truth: Truth) -> np.ndarray:
        """Whether points (n, 3) lie close enough to the target's, (n,) bool."""
        away = metrics.distance_to_points(xyz, truth.xyz[truth.mask])
        return away <= self.evaluation.found_radius

    def _localisation(self, pred: np.ndarray, truth: Truth) -> dict[str, float]:
        """The localisation script's measures, over the whole scene and over the target alone."""
        if truth.distance is None:
            return {}
        values = self._compare(pred, truth.distance, truth.xyz)
        if truth.mask is not None:
            parts = (array[truth.mask] for array in (pred, truth.distance, truth.xyz))
            values |= {TARGET + name: value for name, value in self._compare(*parts).items()}
        return values

    def _compare(self, pred, gt, xyz) -> dict[str, float]:
        e = self.evaluation
        m_pred, m_gt = metrics.smallest(pred), metrics.smallest(gt)
        values = {"CPLE": metrics.closest_point_error(m_pred, m_gt, xyz)}
        errors = metrics.joint_point_errors(pred, gt, xyz).tolist()
        for column, (joint, error) in enumerate(zip(self.joints, errors, strict=True)):
            values["CPLE_pelvis" if column == self.pelvis else f"CPLE_joint_{joint}"] = error
        for k in e.top_k:
            # Of fewer points than k all would be taken; the reference then divides by k still.
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

    def _to_target(self, pred: np.ndarray, truth: Truth) -> dict[str, float]:
        """The evaluator's measures; none without a mask, where the reference takes all points."""
        if truth.mask is None:
            return {}
        there = pred[truth.mask]
        values = metrics.distance_to_target(there, self.evaluation.distance_thresholds)
        if self.pelvis is not None:
            values["dist_to_target_pelvis_average"] = float(there[:, self.pelvis].mean())
        return values
