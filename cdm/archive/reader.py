"""The finished archive, read by sample (no torch)."""

from functools import cached_property
from pathlib import Path

import numpy as np
import zarr

from cdm.contact import denormalise
from cdm.errors import ArchiveError


class ContactMaps:
    """Read a chunk's store or a merged archive; samples are found by (set, index, caption_idx).

    Args:
        path: `contact_maps.zarr`.
    Raises:
        ArchiveError: no archive there, or no such sample in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.group = zarr.open_group(self.path, mode="r")
        except (FileNotFoundError, ValueError) as error:
            raise ArchiveError(
                f"{path}: no archive here ({error}); expected outputs/EXP_NAME/contact_maps.zarr, "
                "which `snakemake --cores 1 --resources gpu=1` makes"
            ) from None
        self.attributes = dict(self.group.attrs)

    def __len__(self) -> int:
        return self.group["sample"].shape[0]

    @cached_property
    def keys(self) -> list[tuple[str, str, int]]:
        """(set, index, caption_idx) of every row."""
        columns = (self.group[name][:].tolist() for name in ("set", "index", "caption_idx"))
        return list(zip(*columns, strict=True))

    @cached_property
    def _rows(self) -> dict[tuple[str, str, int], int]:
        return {key: row for row, key in enumerate(self.keys)}

    def row(self, set: str, index: int | str, caption_idx: int = 0) -> int:
        """Row of a sample; a set's index may be given as a number."""
        key = (set, str(index), caption_idx)
        if key not in self._rows:
            raise ArchiveError(f"{self.path}: no sample {key}; it has {len(self)} others")
        return self._rows[key]

    def sample(self, set: str, index: int | str, caption_idx: int = 0) -> np.ndarray:
        """The normalised model output, (k, num_points, contact_dim)."""
        return self.group["sample"][self.row(set, index, caption_idx)]

    def distance(self, set: str, index: int | str, caption_idx: int = 0) -> np.ndarray:
        """Distances to each joint in metres, (k, num_points, contact_dim)."""
        return self.group["distance"][self.row(set, index, caption_idx)]

    def points(self, set: str, index: int | str, caption_idx: int = 0) -> np.ndarray:
        """The points as the model saw them, (num_points, 3) in metres."""
        return self.group["points"][self.row(set, index, caption_idx)]

    def contact(self, set: str, index: int | str, caption_idx: int = 0) -> np.ndarray:
        """Contact values, (k, num_points, contact_dim): 1 on the surface, 0 far away."""
        statistics = self.attributes["statistics"]
        return denormalise(
            self.sample(set, index, caption_idx).astype(np.float32),
            np.asarray(statistics["mean"], np.float32),
            np.asarray(statistics["std"], np.float32),
            use_raw_dist=self.attributes["config"]["dataset"]["use_raw_dist"],
        )
