"""ContactMapCustomDataset: scenes of the user's own, without ground truth (z up)."""

import random

import numpy as np

from cdm.datasets.base import Dataset, as_bytes, translation
from cdm.datasets.files import load_npz
from cdm.datasets.reference_draws import Entry, shuffled
from cdm.datasets.samples import Item
from cdm.datasets.tables import read_table
from cdm.datasets.values import check_colors, check_points
from cdm.errors import DataError


class ContactMapCustomDataset(Dataset):
    """Every row of `custom/anno.csv`. This layout has no splits, and nothing is rotated.

    afford-motion fills x with the normalised contact 0; here x stays None.
    """

    has_ground_truth = False
    gives_openscene = False
    rotates = False

    def entries(self):
        if self.config.use_openscene:
            raise DataError(
                "dataset.use_openscene is true, but ContactMapCustomDataset has no OpenScene "
                "features; set it to false"
            )
        entries = [
            Entry("custom", str(index), row.captions(), [], row.scene_id, row.scene_trans)
            for index, row in enumerate(read_table(self.data_dir, "custom/anno.csv"))
        ]
        if not entries:
            raise DataError(f"{self.data_dir / 'custom/anno.csv'}: no row below the header")
        return entries

    def drawn_entries(self):
        """The items in afford-motion's order, each with its whole utterance.

        afford-motion shuffles them by the seed, in any phase, and draws no caption: `$$` does not
        separate captions there.
        """
        table = read_table(self.data_dir, "custom/anno.csv")
        entries = [
            entry._replace(captions=[(0, row.utterance)])
            for entry, row in zip(self.entries(), table, strict=True)
        ]
        return shuffled(entries, random.Random(self.seed), "test")

    def files(self, sample):
        return [f"custom/points/{int(sample.index):04d}.npz"]

    def target_mask_file(self, sample):
        return f"custom/target_mask/{int(sample.index):04d}.npy"

    def read_item(self, sample, reader):
        columns = 6 if self.config.use_color else (3, 6)
        shapes = {"points": (self.config.num_points, columns)}
        points = load_npz(reader, self.files(sample)[0], shapes)["points"]
        place = str(reader.path(self.files(sample)[0]))
        check_points(points[:, :3], place)
        features = points[:, :0]
        if self.config.use_color:
            check_colors(points[:, 3:], place, 0, 255)
            features = points[:, 3:] / np.float32(255)
        return Item(
            sample=sample,
            c_pc_xyz=points[:, :3],
            c_pc_feat=features,
            distance=None,
            info_scene_trans=translation([-offset for offset in sample.scene_trans]),
            info_scene_mesh=f"custom/scenes/{sample.scene_id}.ply",
        )

    def read_colors(self, sample, reader):
        shapes = {"points": (self.config.num_points, (3, 6))}
        points = load_npz(reader, self.files(sample)[0], shapes)["points"]
        return as_bytes(points[:, 3:] / np.float32(255))
