"""What afford-motion draws with Python's `random`: the order of its items, and their captions.

Its scripts seed `random` with `seed` before they make a dataset. The dataset shuffles its items,
and draws a caption whenever an item is read. Its tests read without worker processes, item after
item in this order, so that all draws of a split follow from the seed. They are repeated here for
`dataset.captions: reference`. With workers, or in another order, afford-motion draws others.
"""

import random
from typing import NamedTuple, TypeVar

from cdm.errors import DataError

REFERENCE = "reference"  # the value of dataset.captions
H3D_HORIZON = 200  # frames; longer H3D clips are left out there, whatever max_horizon says
H3D_TEST_SEED = 2023  # for the order of H3D's phase test, the seed less this is seeded
PART_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVW"

Captions = list[tuple[int, str]]  # (caption_idx, text)


class Entry(NamedTuple):
    """An item of a split before a caption is picked.

    Args:
        set, index, scene_id, scene_trans: as in `cdm.datasets.Sample`.
        captions: what it has.
        parts: what afford-motion draws one of (blank ones too); empty where it draws none.
    """

    set: str
    index: str  # type: ignore[assignment]  # hides tuple.index, which nothing asks for
    captions: Captions
    parts: Captions
    scene_id: str = ""
    scene_trans: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Clip(NamedTuple):
    """A clip of H3D or a part of one, with the captions it has."""

    num_frames: int
    name: str
    captions: Captions
    is_part: bool = False


T = TypeVar("T", Entry, Clip)


def shuffled(items: list[T], rng: random.Random, phase: str) -> list[T]:
    """The items in the order of a phase; val keeps its own."""
    items = list(items)
    if phase != "val":
        rng.shuffle(items)
    return items


def draw_entries(entries: list[Entry], seed: int, phase: str) -> list[Entry]:
    """The items of the scene sets, each with the one caption that is drawn for it.

    Args:
        entries: in the order of sets and tables.
        seed: afford-motion's `seed`, which its `shuffle_seed` equals.
    Returns:
        them in afford-motion's order; without a caption where there is none to draw.
    """
    rng = random.Random(seed)
    return [
        entry._replace(captions=[rng.choice(entry.parts)] if entry.parts else [])
        for entry in shuffled(entries, rng, phase)
    ]


def draw_clips(clips: list[Clip], seed: int, phase: str) -> list[Clip]:
    """The clips of H3D and their parts, each with the one caption that is drawn for it.

    Phase test seeds anew before its shuffle, and has the first caption of each clip.

    Args:
        clips: in the order of the split, parts before their clip, all below H3D_HORIZON.
        seed: afford-motion's `seed`, which its `shuffle_seed` equals.
    """
    rng = random.Random(seed)
    _draw_part_letters(clips, rng)
    by_length = sorted(clips, key=lambda clip: clip.num_frames)  # stable
    if phase == "test":
        rng.seed(seed - H3D_TEST_SEED)
        return [
            clip._replace(captions=clip.captions[:1]) for clip in shuffled(by_length, rng, phase)
        ]
    return [
        clip._replace(captions=[rng.choice(clip.captions)])
        for clip in shuffled(by_length, rng, phase)
    ]


def _draw_part_letters(clips: list[Clip], rng: random.Random) -> None:
    """Draw a letter for each part of a clip, and again while the clip has a part of this letter.

    afford-motion names parts so. The names are not needed here, but drawing them advances `rng`.

    Raises:
        DataError: a clip has more parts than there are letters.
    """
    used: dict[str, set[str]] = {}
    for clip in clips:
        if not clip.is_part:
            continue
        letters = used.setdefault(clip.name, set())
        if len(letters) == len(PART_LETTERS):
            raise DataError(
                f"H3D/{clip.name}: has captions of more than {len(PART_LETTERS)} parts, for which "
                "afford-motion has no names; set dataset.captions to first, random or all"
            )
        letter = rng.choice(PART_LETTERS)
        while letter in letters:
            letter = rng.choice(PART_LETTERS)
        letters.add(letter)
