"""ContactHumanML3DDataset: HumanML3D clips on their own ground (set H3D, y up)."""

from collections import Counter

import numpy as np

from cdm.datasets.base import NUM_JOINTS, Dataset, translation
from cdm.datasets.files import find_states, load_npy, load_npz, safe_path, without_skip
from cdm.datasets.motion_facts import MotionFacts, motion_facts, motion_file
from cdm.datasets.reference_draws import H3D_HORIZON, REFERENCE, Clip, Entry, draw_clips
from cdm.datasets.samples import Item, Sample
from cdm.datasets.tables import NUMBER, NoIndex, read_lines
from cdm.datasets.values import check_distances, check_points
from cdm.errors import BadItem, DataError, listed
from cdm.files import RemotePath, map_files

FPS = 20
VECTOR_DIM = 263  # columns of HumanML3D's motion vectors
NOT_THERE = "no "  # begins the reasons of clips that afford-motion, too, leaves out without a draw


class ContactHumanML3DDataset(Dataset):
    """Clips of `H3D/{phase}.txt`, by length; a caption of a part of a clip is an item of its own.

    As in afford-motion, clips with NaN are left out, and clips and parts of clips shorter than
    min_horizon or of max_horizon frames and more. (There it is 200 frames and more, whatever its
    max_horizon says.) A clip whose motion or caption file is missing or
    damaged is an error, unless on_bad_item is skip. After `samples`, `dropped` names each of them
    with the reason.

    Args:
        facts_path: sealed file in which a run keeps `motions`; None where there is none.
    Attributes:
        motions: clip -> state of its motion file, length, NaN; filled by `samples`. A run keeps
            them (`seal_motions`), so that 25,000 motions are read once.
    """

    gravity_dim = 1
    gives_color = False
    gives_openscene = False
    statistics_split = "all"

    def __init__(self, config, data_dir, point_feat_dim=None, seed=0, facts_path=None):
        super().__init__(config, data_dir, point_feat_dim, seed)
        self.facts_path = facts_path

    @property
    def how(self):
        """Phase test has the first caption for the random one, as in afford-motion."""
        first = self.config.phase == "test" and self.config.captions == "random"
        return "first" if first else self.config.captions

    def entries(self):
        """The shortest first; parts of a clip before the clip of the same length."""
        clips = self._usable_clips(self._read_facts(), self.config.max_horizon)
        return [_entry(clip) for clip in sorted(clips, key=lambda clip: clip.num_frames)]

    def drawn_entries(self):
        """The clips in afford-motion's order, each with the one caption that it draws.

        It draws for all clips below 200 frames. So what a smaller `max_horizon` leaves out here is
        left out after the draws.

        Raises:
            DataError: as `samples`; or a file is not as expected, so that afford-motion draws for
                other clips than these.
        """
        self._refuse_twins()
        facts = self._read_facts()
        drawn = draw_clips(self._usable_clips(facts, H3D_HORIZON), self.seed, self.config.phase)
        if self.config.max_horizon < H3D_HORIZON:
            kept = {_key(clip) for clip in self._usable_clips(facts, self.config.max_horizon)}
            drawn = [clip for clip in drawn if _key(clip) in kept]
        return [_entry(clip) for clip in drawn]

    def _read_facts(self) -> "dict[str, MotionFacts | BadItem]":
        names = self._names(self.config.phase)
        facts, self.motions = motion_facts(self.data_dir, names, self.facts_path)
        return facts

    def _usable_clips(
        self, facts: "dict[str, MotionFacts | BadItem]", max_horizon: int
    ) -> list[Clip]:
        """Clips and parts of clips in the order of the split; fills `dropped`."""
        place = self.data_dir / self._split_file(self.config.phase)

        # Clips and parts of clips, with the reasons of those that are left out.
        clips: list[Clip] = []
        unusable: dict[str, str] = {}
        self.dropped = {}
        lines = self._caption_files(facts, max_horizon)
        for name, found in facts.items():
            try:
                reason = self._reason(found, max_horizon)
                if reason:
                    self.dropped[f"H3D/{name}"] = reason
                elif isinstance(found, MotionFacts):
                    clips += self._clips(name, found.num_frames, max_horizon, lines[name])
            except BadItem as error:
                why = without_skip(error)
                unusable[f"H3D/{name}"] = why if why.startswith(NOT_THERE) else f"damaged: {why}"
        self.dropped |= unusable

        # Clips that cannot be used, and a split without any that can.
        if unusable and self.config.on_bad_item == "fail":
            raise DataError(
                f"{place}: {len(unusable)} of {len(facts)} clips cannot be used:\n  "
                f"{listed(unusable.values(), 5)}\nRestore the files, take the names out of the "
                "split file, or set dataset.on_bad_item: skip to leave those clips out"
            )
        if self.config.captions == REFERENCE:
            damaged = [why for why in unusable.values() if not why.startswith(NOT_THERE)]
            self._refuse_to_draw(damaged)
        if not clips:
            reasons = (f"{name}: {why}" for name, why in self.dropped.items())
            raise DataError(
                f"{place}: none of {len(facts)} clips can be used "
                f"({listed(reasons, 3, ', ') or 'no name listed'}); check H3D/new_joint_vecs, "
                "H3D/texts, dataset.min_horizon and dataset.max_horizon"
            )
        return clips

    def _refuse_to_draw(self, reasons: list[str]) -> None:
        """Refuse `captions: reference` where afford-motion's draws would be of other clips."""
        if reasons:
            place = self.data_dir / self._split_file(self.config.phase)
            raise DataError(
                f"{place}: dataset.captions is reference, but afford-motion draws for other "
                f"clips than are used here, so that all captions after them would differ:\n  "
                f"{listed(reasons, 5)}\nCorrect these files, or set dataset.captions to first, "
                "random or all"
            )

    def _refuse_twins(self) -> None:
        """afford-motion draws anew for a name that comes twice, and loses clips at the end."""
        lines = read_lines(self.data_dir, self._split_file(self.config.phase))
        counts = Counter(line.strip() for line in lines if line.strip())
        twice = [f"{name} comes {count} times" for name, count in counts.items() if count > 1]
        self._refuse_to_draw(twice)

    def statistics_samples(self):
        """Every clip of the split that has contacts, whatever its length.

        afford-motion takes those of all.txt whatever the phase.
        """
        samples = [Sample("H3D", name, 0, "") for name in self._names(self.statistics_phase)]
        names = [self.files(sample)[0] for sample in samples]
        states = find_states(self.data_dir, [name for name in names if self._is_safe(name)])
        pairs = zip(samples, names, strict=True)
        return [sample for sample, name in pairs if states.get(name) is not None]

    def _is_safe(self, relpath: str) -> bool:
        try:
            return bool(safe_path(self.data_dir, relpath))
        except BadItem:
            return False

    def statistics_origin(self):
        if self.statistics_phase == self.statistics_split:
            return "computed"
        return f"computed from {self.statistics_phase}"

    def statistics_name(self):
        return self._statistics_name("OriH3D")

    def files(self, sample):
        return [f"H3D/contacts/{sample.index}.npz"]

    def read_item(self, sample, reader):
        num_points = self.config.num_points
        shapes = {"points": (num_points, (3, 6)), "dist": (num_points, NUM_JOINTS)}
        arrays = load_npz(reader, self.files(sample)[0], shapes)
        place = str(reader.path(self.files(sample)[0]))
        xyz = arrays["points"][:, :3]
        check_points(xyz, place)
        check_distances(arrays["dist"], place)
        return Item(
            sample=sample,
            c_pc_xyz=xyz,
            c_pc_feat=xyz[:, :0],
            distance=self._select(arrays["dist"]),
            info_scene_trans=translation((0, 0, 0)),
        )

    def read_motion(self, sample, reader):
        joints = f"H3D/new_joints/{sample.index}.npy"
        if (self.data_dir / joints).exists():
            return load_npy(reader, joints, (None, NUM_JOINTS, 3))
        vectors = motion_file(sample.index)
        if not (self.data_dir / vectors).exists():
            return None
        return joints_of_vectors(load_npy(reader, vectors, (None, VECTOR_DIM)))

    def _split_file(self, phase: str) -> str:
        return f"H3D/{phase}.txt"

    def _names(self, phase: str) -> list[str]:
        lines = read_lines(self.data_dir, self._split_file(phase))
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))

    def _reason(self, facts: "MotionFacts | BadItem", max_horizon: int) -> str:
        """Why a clip is left out, or ""; raises what is wrong with its motion file."""
        if isinstance(facts, BadItem):
            raise facts
        length_reason = self._length_reason(facts.num_frames, max_horizon)
        return length_reason or ("NaN in the motion" * facts.has_nan)

    def _length_reason(self, num_frames: int, max_horizon: int) -> str:
        if num_frames < self.config.min_horizon:
            return f"shorter than min_horizon ({self.config.min_horizon}): {num_frames} frames"
        if num_frames >= max_horizon:
            return f"max_horizon ({max_horizon}) or longer: {num_frames} frames"
        return ""

    def _clips(
        self, name: str, num_frames: int, max_horizon: int, lines: list[str] | BadItem
    ) -> "list[Clip]":
        """The parts of a clip that captions are about, then the clip itself."""
        if isinstance(lines, BadItem):
            raise lines
        parts, whole = [], []
        for number, text, begin, end in self._captions(name, lines):
            if begin == end == 0:
                whole.append((number, text))
                continue
            length = len(range(num_frames)[int(begin * FPS) : int(end * FPS)])
            reason = self._length_reason(length, max_horizon)
            if reason:
                self.dropped[f"H3D/{name} caption {number}"] = reason
            else:
                parts.append(Clip(length, name, [(number, text)], is_part=True))
        return [*parts, Clip(num_frames, name, whole)] if whole else parts

    def _caption_files(
        self, facts: "dict[str, MotionFacts | BadItem]", max_horizon: int
    ) -> dict[str, list[str] | BadItem]:
        """The lines of each caption file whose clip is not left out, or what is wrong with it."""
        names = [
            name
            for name, found in facts.items()
            if isinstance(found, MotionFacts) and not self._reason(found, max_horizon)
        ]
        on_server = isinstance(self.data_dir, RemotePath)
        return dict(zip(names, map_files(self._read_lines, names, on_server), strict=True))

    def _read_lines(self, name: str) -> list[str] | BadItem:
        try:
            return read_lines(self.data_dir, _text_file(name))
        except NoIndex:
            return BadItem(f"no caption file: {self.data_dir}/{_text_file(name)}")
        except DataError as error:
            return BadItem(str(error))

    def _captions(self, name: str, lines: list[str]) -> list[tuple[int, str, float, float]]:
        """(line number from 0, caption, from, to) of a clip's caption file; times in seconds."""
        path = f"{self.data_dir}/{_text_file(name)}"
        captions: list[tuple[int, str, float, float]] = []
        for number, line in enumerate(lines):
            if not line.strip():
                if self.config.captions == REFERENCE and (line or number < len(lines) - 1):
                    raise BadItem(
                        f"{path}: line {number + 1} is blank; afford-motion stops at it and leaves "
                        "the clip out, but keeps the parts above it; take the line out"
                    )
                continue
            fields = line.strip().split("#")
            times = [seconds for field in fields[2:] if (seconds := _seconds(field)) is not None]
            if len(fields) != 4 or len(times) != 2:
                raise BadItem(
                    f"{path}: line {number + 1} is {line.strip()!r}, expected "
                    "caption#tokens#from#to with times in seconds; correct the line"
                )
            captions.append((number, fields[0], times[0], times[1]))
        if not captions:
            raise BadItem(f"no caption: {path} is empty")
        return captions


def _entry(clip: Clip) -> Entry:
    return Entry("H3D", clip.name, clip.captions, clip.captions)


def _key(clip: Clip) -> tuple[str, int | None]:
    """Tells the clips and parts of a split apart, whichever captions they have left."""
    return clip.name, clip.captions[0][0] if clip.is_part else None


def joints_of_vectors(vectors: np.ndarray) -> np.ndarray:
    """The joints that HumanML3D's motion vectors tell: its `recover_from_ric`.

    A vector begins with the turn of the body to the next frame (radians, half of the angle), the
    way of the pelvis on the floor to the next frame (x and z, as the body sees it), the height of
    the pelvis, and the other 21 joints around the pelvis (as the body sees them).

    Args:
        vectors: (frames, 263), y up.
    Returns:
        (frames, 22, 3) float32 metres; the pelvis begins above the origin.
    """
    # What moves from one frame to the next counts from the next frame on.
    vectors = vectors.astype(np.float64)
    turn, way = np.zeros(len(vectors)), np.zeros((len(vectors), 3))
    turn[1:] = vectors[:-1, 0].cumsum()
    way[1:, [0, 2]] = vectors[:-1, 1:3]

    # From the body's view to the scene: a rotation about y, by the turn so far.
    c, s = np.cos(2 * turn)[:, None], np.sin(2 * turn)[:, None]

    def to_scene(xyz):
        x, y, z = np.moveaxis(xyz, -1, 0)
        return np.stack([x * c - z * s, y, x * s + z * c], axis=-1)

    pelvis = to_scene(way[:, None]).cumsum(axis=0)
    joints = to_scene(vectors[:, 4:67].reshape(-1, NUM_JOINTS - 1, 3)) + pelvis
    pelvis[:, 0, 1] = vectors[:, 3]
    return np.concatenate([pelvis, joints], axis=1).astype(np.float32)


def _seconds(text: str) -> float | None:
    """A time in a caption file, where NaN stands for 0; None for what is no time."""
    if text.strip().lower() == "nan":
        return 0.0
    seconds = float(text) if NUMBER.fullmatch(text.strip()) else -1.0
    return seconds if 0 <= seconds < 1e6 else None


def _text_file(name: str) -> str:
    return f"H3D/texts/{name}.txt"
