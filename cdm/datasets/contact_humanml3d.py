"""ContactHumanML3DDataset: HumanML3D clips on their own ground (set H3D, y up)."""

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cdm.datasets.base import NUM_JOINTS, Dataset, Item, Sample, translation
from cdm.datasets.files import load_npz, read_index
from cdm.errors import DataError
from cdm.files import write_bytes

FPS = 20


class ContactHumanML3DDataset(Dataset):
    """Clips of `H3D/{phase}.txt`, by length; a caption of a part of a clip is an item of its own.

    Dropped, as in the reference: clips with NaN, shorter than min_horizon or at least max_horizon
    frames, and clips without motion or caption file. `dropped` says which and why after `samples`.

    Args:
        facts_path: JSON file that remembers length and NaN of each motion by size and mtime, so
            that 25,000 motions are read once; None reads them every time.
    """

    gravity_dim = 1
    gives_color = False
    gives_openscene = False

    def __init__(self, config, data_dir, point_feat_dim=None, seed=0, facts_path=None):
        super().__init__(config, data_dir, point_feat_dim, seed)
        self.facts_path = facts_path
        self.dropped: dict[str, str] = {}

    def samples(self):
        names = self._names(self.config.phase)
        facts = motion_facts(self.data_dir, map(_motion_file, names), self.facts_path)
        clips, self.dropped = [], {}  # clips: (length in frames, name, captions)
        for name in names:
            reason = self._unusable(facts[_motion_file(name)])
            if not reason and not (self.data_dir / _text_file(name)).exists():
                reason = "no caption file"
            if reason:
                self.dropped[name] = reason
            else:
                clips += self._clips(name, facts[_motion_file(name)][0])
        if not clips:
            reasons = ", ".join(f"{name}: {why}" for name, why in list(self.dropped.items())[:3])
            raise DataError(
                f"{self.data_dir / self._split_file(self.config.phase)}: none of {len(names)} "
                f"clips can be used ({reasons or 'no name listed'}); check H3D/new_joint_vecs, "
                "H3D/texts, dataset.min_horizon and dataset.max_horizon"
            )
        clips.sort(key=lambda clip: clip[0])  # stable
        first = self.config.phase == "test" and self.config.captions == "random"
        how = "first" if first else self.config.captions
        return [
            Sample("H3D", name, caption_idx, text)
            for _, name, captions in clips
            for caption_idx, text in self.pick("H3D", name, captions, how)
        ]

    def statistics_samples(self):
        """Every clip of all.txt that has contacts, whatever its length and the phase."""
        samples = [Sample("H3D", name, 0, "") for name in self._names("all")]
        return [sample for sample in samples if (self.data_dir / self.files(sample)[0]).exists()]

    def statistics_name(self):
        return self._statistics_name("OriH3D")

    def files(self, sample):
        return [f"H3D/contacts/{sample.index}.npz"]

    def read_item(self, sample, reader):
        num_points = self.config.num_points
        shapes = {"points": (num_points, (3, 6)), "dist": (num_points, NUM_JOINTS)}
        arrays = load_npz(reader, self.files(sample)[0], shapes)
        points = arrays["points"].astype(np.float32, copy=False)
        return Item(
            sample=sample,
            c_pc_xyz=points[:, :3],
            c_pc_feat=points[:, :0],
            distance=self._select(arrays["dist"].astype(np.float32, copy=False)),
            info_scene_trans=translation((0, 0, 0)),
        )

    def _split_file(self, phase: str) -> str:
        return f"H3D/{phase}.txt"

    def _names(self, phase: str) -> list[str]:
        lines = read_index(self.data_dir, self._split_file(phase)).splitlines()
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))

    def _unusable(self, facts) -> str:
        if facts is None:
            return "no motion file"
        length, has_nan = facts
        if not self._fits(length):
            return f"{length} frames"
        return "NaN in the motion" if has_nan else ""

    def _fits(self, length: int) -> bool:
        return self.config.min_horizon <= length < self.config.max_horizon

    def _clips(self, name: str, length: int):
        """(length, name, captions) of the parts of a clip, then of the clip itself."""
        parts, whole = [], []
        path = self.data_dir / _text_file(name)
        for number, line in enumerate(read_index(self.data_dir, _text_file(name)).splitlines()):
            if not line.strip():
                continue
            try:
                text, _, *times = line.strip().split("#")
                # NaN stands for 0, and from = to = 0 for the whole clip
                begin, end = (0.0 if math.isnan(t) else t for t in map(float, times[:2]))
                frames = range(length)[int(begin * FPS) : int(end * FPS)]
            except (ValueError, OverflowError) as error:
                raise DataError(
                    f"{path}: line {number + 1} is {line.strip()!r}, expected "
                    "caption#tokens#from#to with times in seconds; correct the line"
                ) from error
            if begin == end == 0:
                whole.append((number, text))
            elif self._fits(len(frames)):
                parts.append((len(frames), name, [(number, text)]))
        return [*parts, (length, name, whole)] if whole else parts


def _motion_file(name: str) -> str:
    return f"H3D/new_joint_vecs/{name}.npy"


def _text_file(name: str) -> str:
    return f"H3D/texts/{name}.txt"


def motion_facts(data_dir: Path, relpaths, cache_path=None) -> dict[str, tuple[int, bool] | None]:
    """(frames, has_nan) of each motion, None where there is no file.

    With a warm cache every file is only stat'ed.
    """
    cache = _read_cache(cache_path)
    current, stale = {}, []  # relpath -> [size, mtime_ns, frames, has_nan]
    for relpath in relpaths:
        try:
            stat = os.stat(os.path.join(data_dir, relpath))  # pathlib is slower than the stat
        except FileNotFoundError:
            current[relpath] = None
            continue
        key = [stat.st_size, stat.st_mtime_ns]
        current[relpath] = cache.get(relpath)
        if current[relpath] is None or current[relpath][:2] != key:
            current[relpath] = key
            stale.append(relpath)
    if stale:
        with ThreadPoolExecutor(16) as pool:
            for relpath, facts in zip(
                stale, pool.map(lambda name: _read_motion(data_dir / name), stale), strict=True
            ):
                current[relpath] = [*current[relpath], *facts]
        if cache_path:
            known = {relpath: entry for relpath, entry in current.items() if entry is not None}
            write_bytes(cache_path, json.dumps({**cache, **known}).encode())
    return {name: entry and (entry[2], bool(entry[3])) for name, entry in current.items()}


def _read_motion(path: Path) -> tuple[int, int]:
    try:
        motion = np.load(path, allow_pickle=False)
        return len(motion), int(np.isnan(motion).any())
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as a motion (frames, 263) ({error}); restore the file, or "
            "take its name out of the split file"
        ) from error


def _read_cache(cache_path) -> dict:
    try:
        return json.loads(Path(cache_path).read_text()) if cache_path else {}
    except (OSError, ValueError):
        return {}  # only a cache: what it does not know is read again
