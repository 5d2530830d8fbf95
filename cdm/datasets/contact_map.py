"""ContactMapDataset: the scene sets HumanML3D, HUMANISE and PROX (z up)."""

import numpy as np

from cdm.datasets.base import (
    AFFORDANCE_DIM,
    NUM_JOINTS,
    Dataset,
    as_bytes,
    translation,
)
from cdm.datasets.files import REBUILD, exists, load_npy, load_npz
from cdm.datasets.reference_draws import Entry
from cdm.datasets.samples import Item, Sample
from cdm.datasets.tables import AnnoRow, read_row_numbers, read_table
from cdm.datasets.values import as_mask, check_colors, check_distances, check_points
from cdm.errors import BadItem, DataError, listed
from cdm.files import RemotePath

NO_TRUTH = (
    "scenes without ground truth can be read with dataset.name=ContactMapCustomDataset; otherwise "
    + REBUILD
)


class ContactMapDataset(Dataset):
    """Items of `{set}/contact_motion`, one per row of its anno.csv that the split file lists."""

    default_transforms = ("RandomRotation",)

    def entries(self):
        entries = []
        for set_name in self.config.sets:
            rows, wanted = self.read_rows(set_name), self.read_split(set_name)
            outside = sorted(index for index in wanted if not 0 <= index < len(rows))
            if outside:
                raise DataError(
                    f"{self.data_dir / self._split_file(set_name)}: {len(outside)} ids have no row "
                    f"in {set_name}/contact_motion/anno.csv ({len(rows)} rows): "
                    f"{listed(outside, 5, ', ')}; split and table must belong together"
                )
            entries += [
                Entry(
                    set=set_name,
                    index=str(index),
                    captions=row.captions(),
                    parts=row.parts(),
                    scene_id=row.scene_id,
                    scene_trans=row.scene_trans,
                )
                for index, row in enumerate(rows)
                if index in wanted
            ]
        if not entries:
            splits = ", ".join(self._split_file(set_name) for set_name in self.config.sets)
            raise DataError(
                f"{self.data_dir}: {splits} list no item; choose another dataset.phase or "
                "dataset.sets, or fill the split files"
            )
        return entries

    def read_rows(self, set_name: str) -> list[AnnoRow]:
        """The set's table."""
        return read_table(self.data_dir, f"{set_name}/contact_motion/anno.csv")

    def read_split(self, set_name: str) -> set[int]:
        """Row numbers the split file lists."""
        return read_row_numbers(self.data_dir, self._split_file(set_name))

    def all_files(self, samples):
        if self.config.use_openscene and self.point_feat_dim == AFFORDANCE_DIM:
            # Which of two files an item is read with depends on what is there.
            affordances = [self._item_file(sample, "affordance", "npy") for sample in samples]
            if isinstance(self.data_dir, RemotePath):
                self.data_dir.folder.states(affordances)
        return super().all_files(samples)

    def files(self, sample):
        names = [self._contact_file(sample)]
        if self._has_target(sample):
            names.append(self.target_mask_file(sample))
        if self.config.use_openscene:
            names.append(self._openscene_file(sample))
        return names

    def read_item(self, sample, reader):
        # The item's own arrays.
        num_points = self.config.num_points
        columns = 6 if self.config.use_color else (3, 6)
        shapes: dict[str, tuple] = {
            "points": (num_points, columns),
            "dist": (num_points, NUM_JOINTS),
        }
        openscene = self._openscene_file(sample) if self.config.use_openscene else ""
        if "/feat/" in openscene:
            shapes["mask"] = (num_points,)
        arrays = self.read_arrays(sample, reader, shapes)
        place = self._place(sample, reader)
        points = arrays["points"]
        check_points(points[:, :3], place)
        check_distances(arrays["dist"], place)

        # Point features: colours, then OpenScene columns or one of affordance.
        features = [points[:, :0]]
        if self.config.use_color:
            check_colors(points[:, 3:], place, -1, 1)
            features.append((points[:, 3:] + 1) / 2)  # [-1, 1] to [0, 1]
        if "mask" in shapes:
            features.append(self._scene_rows(reader, sample, openscene, arrays["mask"]))
        elif openscene:
            features.append(load_npy(reader, openscene, (num_points, 1)))

        mask = None
        if self._has_target(sample):
            name = self.target_mask_file(sample)
            mask = as_mask(load_npy(reader, name, (num_points,)), str(reader.path(name)))
        return Item(
            sample=sample,
            c_pc_xyz=points[:, :3],
            c_pc_feat=np.concatenate(features, axis=1, dtype=np.float32),
            distance=self._select(arrays["dist"]),
            info_scene_trans=translation(sample.scene_trans),
            info_scene_mesh=self._scene_mesh(sample),
            info_obj_mask=mask,
        )

    def read_distance(self, sample, reader):
        shapes = {"dist": (self.config.num_points, NUM_JOINTS)}
        distance = self.read_arrays(sample, reader, shapes)["dist"]
        check_distances(distance, self._place(sample, reader))
        return self._select(distance)

    def read_colors(self, sample, reader):
        shapes = {"points": (self.config.num_points, (3, 6))}
        points = self.read_arrays(sample, reader, shapes)["points"]
        return as_bytes((points[:, 3:] + 1) / 2)  # [-1, 1] to [0, 1]

    def read_arrays(self, sample, reader, shapes: dict) -> dict[str, np.ndarray]:
        """Arrays of these names and shapes of the item's contact file."""
        name = self._contact_file(sample)
        return load_npz(reader, name, shapes, missing=NO_TRUTH, indices=("mask",))

    def _place(self, sample, reader) -> str:
        """What messages call the item: its contact file."""
        return str(reader.path(self._contact_file(sample)))

    def target_mask_file(self, sample):
        return self._item_file(sample, "target_mask", "npy")

    def _scene_rows(self, reader, sample, relpath, mask) -> np.ndarray:
        """Rows of the scene's features that belong to the item's points."""
        features = reader.read_shared(relpath)
        if mask.min() < 0 or mask.max() >= len(features):
            raise BadItem(
                f"{self._place(sample, reader)}: 'mask' goes from {mask.min()} to {mask.max()}, "
                f"expected row numbers of {relpath} "
                f"({len(features)} rows); {REBUILD}"
            )
        return features[mask]

    def _split_file(self, set_name: str) -> str:
        unmirrored = set_name == "HumanML3D" and not self._option("use_mirror")
        return f"{set_name}/{self.config.phase}{'_without_mirror' if unmirrored else ''}.txt"

    def _item_file(self, sample: Sample, folder: str, suffix: str) -> str:
        return f"{sample.set}/contact_motion/{folder}/{int(sample.index):05d}.{suffix}"

    def _contact_file(self, sample: Sample) -> str:
        fur = sample.set == "HumanML3D" and self._option("use_fur")
        return self._item_file(sample, "contacts_fur" if fur else "contacts", "npz")

    def _has_target(self, sample: Sample) -> bool:
        return sample.set == "HUMANISE" and self.config.phase == "test"

    def _openscene_file(self, sample: Sample) -> str:
        """One affordance column where the model wants one and it exists, else scene features."""
        affordance = self._item_file(sample, "affordance", "npy")
        if self.point_feat_dim == AFFORDANCE_DIM and exists(self.data_dir / affordance):
            return affordance
        scene = sample.scene_id + ("_vh_clean_2" if sample.set == "HUMANISE" else "")
        return f"{sample.set}/feat/{scene}_openscene_feat_distill.npy"

    def _scene_mesh(self, sample: Sample) -> str:
        scene = sample.scene_id
        if sample.set == "HUMANISE":
            return f"HUMANISE/scenes/{scene}/{scene}_vh_clean_2.ply"
        return f"{sample.set}/scenes/{scene}.ply"
