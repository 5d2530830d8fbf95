"""Maps of an archive as a PyTorch dataset: what stage 2 trains on, without exported files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from cdm.archive.reader import ContactMaps
from cdm.errors import ArchiveError
from cdm.noise import choice, stream_key

VALUES = ("distance", "contact")
RANDOM, ALL = "random", "all"


class ContactMapsDataset(Dataset):
    """One entry for each sample that has a map; skipped samples are left out.

    An entry is a dict, which the default `collate_fn` of a DataLoader makes a batch of:

        key: "{set}/{index}/{caption_idx}", such as "HUMANISE/12/0".
        text: the caption.
        points: (num_points, 3), metres.
        distance or contact: (num_points, joints). Distances are metres, the numbers of the
            files that `export_pred_contact` writes. Contact is exp(-d^2 / (2 sigma^2)) of them, as
            afford-motion's stage 2 computes it. With k "all": (k, num_points, joints).

    Every map is checked when it is read, as by `ContactMaps`. An object may be given to worker
    processes of any start method. Which map `k="random"` takes depends on the seed, the epoch and
    the key alone: neither on the order of the samples nor on the number of workers.

    Attributes:
        maps: the open archive.
        rows: row in the archive of each entry.

    Args:
        archive: path or address of `contact_maps.zarr`, or an open `ContactMaps`.
        values: "distance" or "contact".
        k: which of the k maps of a sample: its number, "random" (one, drawn anew for each epoch),
            or "all".
        seed: of "random".
        sigma: width of the contact function in metres; None for the one of stage 1.
        points: whether entries have points; without them, reading is faster.
        rotated: points as the model saw them. If false, the random rotation of a training split is
            undone, so that they lie in the frame of the data's own points and motions.
        dtype: of points and maps. torch.float16 halves what workers hand over; an archive of
            `workflow.dtype: float16` loses nothing by it, but contact is computed in float32.
        transform: called with each entry; what it returns is the entry. To be given to processes
            that are spawned, it must be a function of a module.
    Raises:
        ArchiveError: there is no such archive, or it has no such map; or what is asked for is no
            map (`values`, `sigma`, `dtype`).
    """

    def __init__(
        self,
        archive: str | Path | ContactMaps,
        values: str = "distance",
        k: int | Any = 0,
        seed: int = 0,
        sigma: float | None = None,
        points: bool = True,
        rotated: bool = True,
        dtype: torch.dtype = torch.float32,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ):
        self.maps = archive if isinstance(archive, ContactMaps) else ContactMaps(archive)
        self.rows = self.maps.rows_with_maps()
        self._texts = self.maps.column("text")
        self.num_maps = self.maps.num_maps
        if values not in VALUES:
            raise ArchiveError(f"values is {values!r}, expected one of {', '.join(VALUES)}")
        if sigma is not None and not 0 < sigma < math.inf:
            raise ArchiveError(
                f"sigma is {sigma!r}, expected metres above 0, or None for stage 1's"
            )
        if not dtype.is_floating_point:
            raise ArchiveError(f"dtype is {dtype}, expected a floating-point type")
        right = k in (RANDOM, ALL) or (type(k) is int and 0 <= k < self.num_maps)
        if not right:
            raise ArchiveError(
                f"{self.maps.path}: k is {k!r}; the archive has {self.num_maps} map(s) of each "
                f"sample, so expected 0 to {self.num_maps - 1}, {RANDOM!r} or {ALL!r}"
            )
        self.values, self.k, self.seed = values, k, seed
        self.sigma = self._sigma() if sigma is None and values == "contact" else sigma
        self.points, self.rotated = points, rotated
        self.dtype, self.transform = dtype, transform
        # In shared memory: workers that live through several epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _sigma(self) -> float:
        try:
            return float(self.maps.attributes["statistics"]["sigma"])
        except (KeyError, TypeError, ValueError):
            raise ArchiveError(
                f"{self.maps.path}: does not tell sigma; give the one of stage 2 as `sigma`"
            ) from None

    def set_epoch(self, epoch: int) -> None:
        """Choose the maps of an epoch, for `k="random"`; workers that run already see it."""
        self._epoch.fill_(epoch)

    @property
    def keys(self) -> list[tuple[str, str, int]]:
        """(set, index, caption_idx) of each entry."""
        return [self.maps.keys[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        """The entry `number`; see the class.

        Raises:
            ArchiveError: its map is missing or damaged, with the name of the file.
            IndexError: there is no such entry.
        """
        row = self.rows[number]
        set, index, caption_idx = self.maps.keys[row]
        entry: dict[str, Any] = {
            "key": f"{set}/{index}/{caption_idx}",
            "text": str(self._texts[row]),
        }
        if self.points:
            entry["points"] = self._points(row)
        # Of the k maps, only those that are asked for are converted.
        maps = torch.from_numpy(self.maps.read("distance", row))
        distance = maps if self.k == ALL else maps[self._draw(row)]
        if self.values == "contact":
            assert self.sigma is not None, "read off the archive"
            # `contact_from_distance`, which is slower in numpy.
            contact = torch.exp(-0.5 * distance.float().square() / self.sigma**2)
            entry["contact"] = contact.to(self.dtype)
        else:
            entry["distance"] = distance.to(self.dtype)
        return entry if self.transform is None else self.transform(entry)

    def _draw(self, row: int) -> int:
        """Which map of a sample."""
        if self.k != RANDOM:
            return self.k
        key = stream_key(self.seed, "map of an epoch", *self.maps.keys[row], k=int(self._epoch))
        return choice(key, self.num_maps)

    def _points(self, row: int) -> torch.Tensor:
        points = torch.from_numpy(self.maps.read("points", row))
        if self.rotated:
            return points.to(self.dtype)
        rotation = torch.from_numpy(self.maps.read("aug_trans", row))[:3, :3]
        # Points are rows: to multiply by R from the right undoes x -> R x.
        return (points.float() @ rotation).to(self.dtype)
