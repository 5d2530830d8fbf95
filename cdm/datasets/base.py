"""What the datasets share: the order of samples, captions, contact and rotation.

Layout and semantics are those of afford-motion's contact datasets (`datasets/contact_motion.py`).
The order is that of the tables and is never shuffled. Every random pick is counter-based. The one
exception is `captions: reference`, which repeats afford-motion's own order and draws.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from cdm.contact import contact_from_distance
from cdm.datasets.experiment_log import trained_split
from cdm.datasets.files import FileReader, exists, find_states, load_npy
from cdm.datasets.reference_draws import REFERENCE, Captions, Entry, draw_entries
from cdm.datasets.samples import Item, Sample
from cdm.datasets.values import as_mask, checked_captions
from cdm.errors import DataError, listed
from cdm.files import FileState, RemoteState, place_of
from cdm.noise import choice, stream_key, uniform

AFFORDANCE_DIM = 1  # point features of a model that sees affordances alone
NUM_JOINTS = 22  # columns of every `dist`


class Dataset(ABC):
    """The interface of a dataset; subclasses know one layout on disk.

    Args:
        config: section `dataset` (`cdm.config.DatasetConfig`).
        data_dir: folder that holds the sets, on disk or on a server.
        point_feat_dim: width of the model's point features; 1 selects affordance files.
        seed: of caption picks and rotations.
    Attributes:
        exp_dir: the experiment whose log tells the split that the model was trained on; None if
            there is none.
        dropped: what `samples` left out, with the reason.
        num_items: items of the split that can be used, whatever `max_items` says; set by `samples`.
    """

    gravity_dim = 2  # axis that points up
    has_ground_truth = True
    has_splits = True  # of which one can be trained on
    gives_color = True  # as point features, where dataset.use_color asks for them
    gives_openscene = True  # likewise, with dataset.use_openscene
    default_transforms: tuple[str, ...] = ()  # afford-motion's, where the configuration has null
    statistics_split = "train"  # that models are trained on, where the configuration has null

    def __init__(self, config, data_dir, point_feat_dim: int | None = None, seed: int = 0):
        self.config = config
        self.data_dir = place_of(data_dir)
        self.point_feat_dim = point_feat_dim
        self.seed = seed
        self.exp_dir: str | None = None
        self.dropped: dict[str, str] = {}
        self.num_items = 0
        self.motions: dict[str, list] = {}  # what the next plan need not read again (H3D)

    def samples(self) -> list[Sample]:
        """All samples, in the order of the plan: of the first `max_items` items.

        Raises:
            DataError: an index file is missing or wrong, or no item can be used.
        """
        entries = self.drawn_entries() if self.config.captions == REFERENCE else self.entries()
        self.num_items = len(entries)
        samples = [
            Sample(entry.set, entry.index, caption_idx, text, entry.scene_id, entry.scene_trans)
            for entry in entries[: self.config.max_items]
            for caption_idx, text in self.pick(entry.set, entry.index, entry.captions)
        ]
        return checked_captions(samples, str(self.data_dir))

    @abstractmethod
    def entries(self) -> list[Entry]:
        """The items of the split, in the order of the plan."""

    def drawn_entries(self) -> list[Entry]:
        """The items in afford-motion's order, each with the one caption that it draws."""
        return draw_entries(self.entries(), self.seed, self.config.phase)

    @abstractmethod
    def files(self, sample: Sample) -> list[str]:
        """Files `load` reads for a sample, relative to data_dir."""

    def all_files(self, samples: Iterable[Sample]) -> list[list[str]]:
        """`files` of many samples: a server is asked about all of them at once."""
        return [self.files(sample) for sample in samples]

    @abstractmethod
    def read_item(self, sample: Sample, reader: FileReader) -> Item:
        """The item as it lies on disk, neither rotated nor normalised.

        Raises:
            BadItem: a file is missing or damaged, or its numbers cannot be right; says why.
        """

    def read_distance(self, sample: Sample, reader: FileReader) -> np.ndarray:
        """The item's (num_points, contact_dim) distances alone."""
        distance = self.read_item(sample, reader).distance
        assert distance is not None, f"{type(self).__name__} has no ground truth"
        return distance

    def target_mask_file(self, sample: Sample) -> str | None:
        """File that marks the points of the object the text names, where the layout has one."""
        return None

    def read_target_mask(self, sample: Sample, reader: FileReader) -> np.ndarray | None:
        """(num_points,) bool, in any phase; None where there is no such file."""
        name = self.target_mask_file(sample)
        if name is None or not exists(self.data_dir / name):
            return None
        mask = load_npy(reader, name, (self.config.num_points,))
        return as_mask(mask, str(reader.path(name)))

    def read_colors(self, sample: Sample, reader: FileReader) -> np.ndarray | None:
        """(num_points, 3) uint8 red, green and blue, for the eye; None where there are none.

        Unlike point features, they are read whether or not the model sees them.
        """
        return None

    def read_motion(self, sample: Sample, reader: FileReader) -> np.ndarray | None:
        """(frames, 22, 3) float32 joints in metres; None where the layout has no motion.

        They lie among the points of `read_item`, which are not rotated.

        Raises:
            BadItem: the motion's file is damaged.
        """
        return None

    def read_backdrop(self, sample: Sample) -> np.ndarray | None:
        """More points of the room, for the eye alone, where the item's cloud is too thin to read.

        No map has them, and no number depends on them.

        Returns:
            (n, 6) float32: metres, among the points of `read_item`, which are not rotated; red,
            green and blue in [-1, 1]. None where there are none, as in all data on disk.
        """
        return None

    @cached_property  # the log of an experiment is read once
    def statistics_phase(self) -> str:
        """Split that statistics are computed from.

        Maps are normalised as the model's training maps were, whatever split is sampled. Of H3D,
        afford-motion computes them from all clips, whatever split it trains on.

        Raises:
            DataError: the log of the experiment does not tell the split.
        """
        chosen = self.config.statistics_phase
        if chosen is None and self.statistics_split == "train" and self.exp_dir is not None:
            chosen = trained_split(self.exp_dir)
        return chosen or self.statistics_split

    @property
    def statistics_sets(self) -> tuple[str, ...]:
        """Sets that the model was trained on, whichever of them are sampled."""
        return self.config.statistics_sets or self.config.sets

    def statistics_samples(self) -> list[Sample]:
        """One sample for each item the statistics are computed from."""
        split = {"phase": self.statistics_phase, "sets": self.statistics_sets}
        config = replace(self.config, **split, captions="first", max_items=None)
        trained_on = type(self)(config, self.data_dir, self.point_feat_dim, self.seed)
        try:
            samples = trained_on.samples()
        except DataError as error:
            if self.statistics_origin() == "computed":
                raise
            raise DataError(
                f"{error}\nThe mean and std that the model was trained with are computed from the "
                f"split {self.statistics_phase} of {', '.join(self.statistics_sets)}, as there is "
                "no file of them. Name that file in dataset.statistics, or what the model was "
                "trained on in dataset.statistics_phase and dataset.statistics_sets"
            ) from error
        return list({(sample.set, sample.index): sample for sample in samples}.values())

    def statistics_origin(self) -> str:
        """How the names of chunks tell computed statistics.

        Split and sets stay untold where they are the sampled ones, as in the names of earlier
        versions.
        """
        other_sets = self.statistics_sets != self.config.sets
        if self.statistics_phase == self.config.phase and not other_sets:
            return "computed"
        of_sets = f" of {' '.join(self.statistics_sets)}" if other_sets else ""
        return f"computed from {self.statistics_phase}{of_sets}"

    def statistics_name(self) -> str:
        """File name under which afford-motion caches mean and std."""
        sets = self.statistics_sets
        fur = "HumanML3D" in sets and self._option("use_fur")
        return self._statistics_name("_".join(sets), "_fur" if fur else "")

    def load(self, sample: Sample, reader: FileReader, statistics=None) -> Item:
        """Read, rotate and normalise one item.

        Args:
            statistics: `cdm.datasets.statistics.Statistics` of the contact, or None to leave x out.
        Raises:
            BadItem: the item cannot be used; says why.
        """
        item = self.read_item(sample, reader)
        item = rotate(item, self.rotation(sample))
        if item.distance is None or statistics is None:
            return item
        return replace(item, x=statistics.normalise(self.contact(item.distance)))

    def contact(self, distance: np.ndarray) -> np.ndarray:
        """Contact of distances under this configuration."""
        return contact_from_distance(distance, self.config.use_raw_dist, self.config.sigma)

    @property
    def rotates(self) -> bool:
        """Whether items are turned by a random angle, as afford-motion does to train."""
        chosen = self.config.transforms
        transforms = self.default_transforms if chosen is None else chosen
        return self.config.phase in ("train", "all") and "RandomRotation" in transforms

    def rotation(self, sample: Sample) -> np.ndarray:
        """(4, 4) float64 rotation about the gravity axis; the same for all captions of an item."""
        if not self.rotates:
            return np.eye(4)
        u = uniform(stream_key(self.seed, "rotation", sample.set, sample.index))
        return gravity_rotation((2 * u - 1) * math.pi, self.gravity_dim)

    @property
    def how(self) -> str:
        """`dataset.captions`: which captions of an item maps are made for."""
        return self.config.captions

    def pick(self, set_name: str, index: str, captions: Captions) -> Captions:
        """The captions maps are made for, of those that an item has."""
        if not captions:
            return [(0, "")]  # an item without a caption is sampled with the empty text
        if self.how == "all":
            return captions
        if self.how == "first" or len(captions) == 1:
            return captions[:1]
        return [captions[choice(stream_key(self.seed, "caption", set_name, index), len(captions))]]

    def _option(self, key: str) -> bool:
        return bool((self.config.sets_config or {}).get("HumanML3D", {}).get(key, False))

    def _statistics_name(self, sets: str, ending: str = "") -> str:
        if self.config.use_raw_dist:
            return f"Mean_Std_Dist_{sets}_{self.config.data_repr}{ending}.npz"
        return f"Mean_Std_Cont_{sets}_{self.config.data_repr}_{self.config.sigma}{ending}.npz"

    def _select(self, dist: np.ndarray) -> np.ndarray:
        return select_joints(dist, self.config.data_repr, self.config.data_repr_joints)


def evenly_spread(entries: Sequence, most: int) -> list:
    """At most so many of the entries, spread evenly over all of them, in their order.

    Entry `i * len(entries) // most` for each i below `most`: the first one is always chosen.
    """
    count = min(most, len(entries))
    return [entries[i * len(entries) // count] for i in range(count)]


def select_joints(dist: np.ndarray, data_repr: str, joints) -> np.ndarray:
    """Distances a contact map is made of.

    Args:
        dist: (num_points, 22), metres.
        joints: columns of contact_cont_joints.
    Returns:
        (num_points, contact_dim).
    """
    if data_repr == "contact_all_joints":
        return dist
    if data_repr == "contact_cont_joints":
        return dist[:, list(joints)]
    if data_repr == "contact_pelvis":
        return dist[:, :1]
    if data_repr == "contact_one_joints":  # the farthest joint, as in afford-motion
        return dist.max(axis=1, keepdims=True)
    raise ValueError(f"unknown data_repr '{data_repr}'")


def joint_names(config) -> list[str]:
    """The name of each column of a map: the joint's number, or "farthest" of all joints.

    Args:
        config: section `dataset`.
    """
    columns = {
        "contact_cont_joints": config.data_repr_joints,
        "contact_all_joints": range(NUM_JOINTS),
        "contact_pelvis": (0,),
    }
    return [str(joint) for joint in columns.get(config.data_repr, ("farthest",))]


def gravity_rotation(angle: float, gravity_dim: int) -> np.ndarray:
    """(4, 4) float64 right-handed rotation by angle (radians) about axis gravity_dim."""
    i, j = (gravity_dim + 1) % 3, (gravity_dim + 2) % 3
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[j, i] = math.sin(angle)
    matrix[i, j] = -math.sin(angle)
    return matrix


def rotate(item: Item, aug_trans: np.ndarray) -> Item:
    """Apply a (4, 4) rotation to the points and to info_scene_trans. Distances do not change."""
    trans = np.asarray(aug_trans, np.float32)
    if not np.array_equal(trans, np.eye(4)):
        # Spelled out: a BLAS product may round differently from machine to machine, and a last
        # bit can move a point along the Hilbert curve.
        x, y, z = (item.c_pc_xyz[:, axis, None] for axis in range(3))
        xyz = x * trans[:3, 0] + y * trans[:3, 1] + z * trans[:3, 2]
        scene_trans = (trans.astype(np.float64) @ item.info_scene_trans).astype(np.float32)
        item = replace(item, c_pc_xyz=xyz, info_scene_trans=scene_trans)
    return replace(item, info_aug_trans=trans)


def as_bytes(colors: np.ndarray) -> np.ndarray | None:
    """uint8 of colours (n, 3) from 0 to 1; None for points without colours (n, 0)."""
    if colors.shape[1] != 3:
        return None
    return np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)


def translation(offset) -> np.ndarray:
    """(4, 4) float32 translation by three metres."""
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, 3] = offset
    return matrix


def stat_files(dataset: Dataset, relpaths) -> Mapping[str, FileState | RemoteState | None]:
    """State of every file the samples need, None for a missing one.

    Raises:
        DataError: files are missing, and `dataset.on_bad_item` does not permit to skip them.
        Unreachable: the server does not tell.
    """
    names, folder = list(dict.fromkeys(relpaths)), str(dataset.data_dir)
    stats = find_states(dataset.data_dir, names)
    missing = [name for name, found in stats.items() if found is None]
    if missing and dataset.config.on_bad_item == "fail":
        paths = listed((f"{folder}/{name}" for name in missing), 5)
        raise DataError(
            f"{len(missing)} of {len(names)} files the samples need are missing:\n  {paths}\n"
            f"Check dataset.data_dir ({folder}), restore the files, take the items out of their "
            "split file, or set dataset.on_bad_item: skip"
        )
    return stats
