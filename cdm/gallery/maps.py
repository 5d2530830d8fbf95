"""The maps of a run that are there: of its archive, or of its finished chunks (no torch)."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cdm.archive.checks import lost_files
from cdm.archive.layout import OK
from cdm.archive.reader import ContactMaps
from cdm.archive.records import ChunkRecord, read_record, rebuild, store_path
from cdm.config import load_config
from cdm.datasets import Sample
from cdm.errors import ArchiveError
from cdm.files import list_names
from cdm.run.plan import ARCHIVE, CHUNKS, Chunk, Plan
from cdm.run.plan_files import read_plan

Arrays = Mapping[str, np.ndarray]


class ArchivedMaps:
    """A merged archive, wherever it lies: it tells its own configuration.

    Attributes:
        config, point_feat_dim: of the run.
        samples: row -> sample of every row with maps.
        num_rows: of the whole archive, those without maps among them.

    Raises:
        ArchiveError: there is no archive, or it is damaged.
    """

    def __init__(self, path: Path):
        self.maps = ContactMaps(path)
        settings = self.maps.attributes.get("settings", {})
        self.point_feat_dim = (settings.get("point_feat") or [0])[0]
        self.config = load_config(self.maps.attributes["config"])
        texts, scenes = (self.maps.column(name).tolist() for name in ("text", "scene_id"))
        self.samples = {
            row: Sample(*self.maps.keys[row], texts[row], scenes[row])
            for row in self.maps.rows_with_maps()
        }
        self.num_rows = len(self.maps)

    def read(self, row: int, names: tuple[str, ...]) -> tuple[Arrays, Mapping[str, Any]]:
        """Arrays of one row, and the statistics that its maps are normalised by."""
        return {name: self.maps.read(name, row) for name in names}, self.statistics

    @property
    def statistics(self) -> Mapping[str, Any]:
        """Mean and std, (1, contact_dim) each."""
        return self.maps.attributes["statistics"]


class FinishedChunks:
    """The finished chunks of a run that goes on.

    Attributes: as of `ArchivedMaps`.

    Args:
        run: the run's folder.
        plan: that lies in it.
        known: records that were read before, by name; new ones are added.
    """

    def __init__(self, run: Path, plan: Plan, known: dict[str, ChunkRecord]):
        self.config, self.point_feat_dim = plan.config, plan.architecture.point_feat_dim
        self.num_rows = plan.num_samples
        self.folder = run / CHUNKS
        self.records: list[tuple[Chunk, ChunkRecord]] = []
        self.samples: dict[int, Sample] = {}
        names = list_names(self.folder)
        for chunk in plan.chunks:
            if not {f"{chunk.name}.json", f"{chunk.name}.zarr"} <= names:
                continue
            try:
                record = known.get(chunk.name) or read_record(self.folder / f"{chunk.name}.json")
            except ArchiveError:
                continue  # just removed, or damaged: `cdm status` names it
            known[chunk.name] = record
            self.records.append((chunk, record))
            for row, told in enumerate(record.samples, start=chunk.start):
                if told["status"] == OK:
                    columns = ("set", "index", "caption_idx", "text", "scene_id")
                    self.samples[row] = Sample(*(told[column] for column in columns))

    def read(self, row: int, names: tuple[str, ...]) -> tuple[Arrays, Mapping[str, Any]]:
        """Arrays of one row, and the statistics that its maps are normalised by.

        Raises:
            ArchiveError: the chunk lost a file, or a value is not finite.
        """
        chunk, record = next(pair for pair in self.records if pair[0].start <= row < pair[0].stop)
        path = self.folder / f"{chunk.name}.json"
        store = store_path(path)
        problems = lost_files(store, record.files)
        if not problems:
            try:
                group = zarr.open_group(store, mode="r")
                arrays = {name: np.asarray(group[name][row - chunk.start]) for name in names}
                if all(np.isfinite(values).all() for values in arrays.values()):
                    return arrays, record.provenance["statistics"]
                problems = [f"{store}: row {row} holds NaN or infinity"]
            except Exception as error:  # zarr and its codecs raise many kinds
                problems = [f"{store}: cannot be read ({type(error).__name__}: {error})"]
        raise ArchiveError(f"{problems[0]}; {rebuild(path)}")


class RunMaps:
    """What `cdm view` shows: looked up anew whenever the list is asked for.

    Args:
        path: the folder of a run, or an archive `contact_maps.zarr`.
    Attributes:
        plan: of the run; None for an archive alone.

    Raises:
        ArchiveError: neither is there.
    """

    def __init__(self, path: Path):
        self.run = path.parent if path.suffix == ".zarr" else path
        self.archive = path if path.suffix == ".zarr" else path / ARCHIVE
        self.plan: Plan | None = None
        self._known: dict[str, ChunkRecord] = {}
        self._lock = threading.Lock()
        self.look()

    def look(self) -> "ArchivedMaps | FinishedChunks":
        """What is there now; kept until the next look."""
        with self._lock:
            self.plan = self._read_plan()
            merged = self.plan is None or self._record(self.plan).exists()
            if merged and self._is_same(self.plan):
                return self.maps
            self.maps: ArchivedMaps | FinishedChunks = (
                ArchivedMaps(self.archive)
                if merged or self.plan is None
                else FinishedChunks(self.run, self.plan, self._known)
            )
            return self.maps

    @property
    def complete(self) -> bool:
        """Whether there will be no more maps."""
        return isinstance(self.maps, ArchivedMaps)

    def _record(self, plan: Plan) -> Path:
        return self.run / Path(plan.archive_record).name

    def _read_plan(self) -> Plan | None:
        """The run's plan; None where an archive lies alone.

        Raises:
            ArchiveError: there is neither a plan nor an archive.
        """
        try:
            return read_plan(self.run)
        except ArchiveError:
            if self.archive.is_dir():
                return None
            raise

    def _is_same(self, plan: Plan | None) -> bool:
        """Whether the archive that is open is the one that is there."""
        maps = getattr(self, "maps", None)
        if not isinstance(maps, ArchivedMaps):
            return False
        try:
            maps.maps.read("scene_trans", next(iter(maps.samples), 0))  # raises if it was replaced
        except ArchiveError:
            return False
        return plan is None or maps.maps.attributes["plan"] == plan.fingerprint
