"""What checkpoint_info.txt says of a plan beyond its settings: what was assumed and what left out.

Nothing here changes a number. It is what a user would otherwise learn from wrong maps, or never.
"""

import html

import numpy as np

from cdm.config import Config
from cdm.datasets import ContactHumanML3DDataset, Dataset, Sample
from cdm.datasets.reference_draws import H3D_HORIZON, REFERENCE
from cdm.model.architecture import Architecture

HEADS = {
    "HybridMamba": ("num_heads",),
    "Perceiver": ("encoder_num_heads", "decoder_num_heads"),
}

OFFSET_STEP_M = 0.001  # of float32 from 16 km on

HORIZON_OF_A_LOG = (
    f"clips of {H3D_HORIZON} frames and more are left out. max_horizon in afford-motion's log has "
    "no effect there, so it is not taken over"
)


def plan_notes(
    config: Config,
    architecture: Architecture,
    dataset: Dataset,
    samples: list[Sample],
    left_by_training: bool,
) -> dict[str, str]:
    """Label -> note, for each thing that is to be told of this plan.

    Args:
        dataset: after its `samples`.
        left_by_training: whether mean and std come from a file beside the checkpoint.
    """
    notes = {
        "heads": _assumed_heads(config, architecture),
        "mean and std": "" if left_by_training else _assumed_statistics(config, dataset),
        "items": _chosen_items(config, dataset),
        "captions": _drawn_captions(config),
        "shortened": _long_captions(config, samples),
        "horizon": _horizon(config, dataset),
        "scene_trans": _rounded_offsets(samples),
    }
    return {label: note for label, note in notes.items() if note}


def _assumed_heads(config: Config, architecture: Architecture) -> str:
    """Numbers of attention heads, which weights do not tell, where nobody set them."""
    section = f"arch_{architecture.arch.lower()}"
    assumed = [
        f"model.{section}.{key} {architecture.sizes[key]}"
        for key in HEADS.get(architecture.arch, ())
        if key in architecture.sizes and getattr(getattr(config.model, section), key) is None
    ]
    if not assumed:
        return ""
    return f"{', '.join(assumed)}: afford-motion's default, assumed, as weights do not tell"


def _assumed_statistics(config: Config, dataset: Dataset) -> str:
    """Whose mean and std are taken, where nothing tells what the model was trained on."""
    if isinstance(dataset, ContactHumanML3DDataset):
        told = bool(config.provenance and config.provenance.training)
    else:
        told = config.dataset.statistics_sets is not None
    if told or config.dataset.statistics is not None:
        return ""
    return (
        f"{dataset.statistics_name()}, assumed, as nothing tells what the model was trained on. If "
        "it was other data, name its file in dataset.statistics, or its sets in "
        "dataset.statistics_sets"
    )


def _chosen_items(config: Config, dataset: Dataset) -> str:
    """Which items `dataset.max_items` takes."""
    most = config.dataset.max_items
    if most is None:
        return ""
    if most >= dataset.num_items:
        return f"all {dataset.num_items} (dataset.max_items is {most})"
    first = f"the first {most} of {dataset.num_items}"
    if config.dataset.captions == REFERENCE:
        return f"{first} in afford-motion's order"
    return (
        f"{first} in the order of the data's own lists; afford-motion's test takes the first of "
        "its shuffled order, for which set dataset.captions: reference"
    )


def _drawn_captions(config: Config) -> str:
    if config.dataset.captions != REFERENCE:
        return ""
    return (
        f"as afford-motion draws them with seed {config.seed} and without worker processes; the "
        "items come in its order"
    )


def _long_captions(config: Config, samples: list[Sample]) -> str:
    """How many captions have more words than the text model reads tokens: at least so many are cut.

    A word is one token or more. The jobs, which have the tokenizer, count exactly.
    """
    text_model = config.model.text_model
    if text_model.version == "hashing" or text_model.max_length is None:
        return ""
    special = 2 if text_model.version.startswith("bert") else 0  # [CLS] and [SEP] count
    most = text_model.max_length - special
    # Few captions are long, and only for those the words are told from signs.
    long = sum(
        ("&" in sample.text or len(sample.text.split()) > most) and _num_words(sample.text) > most
        for sample in samples
    )
    if not long:
        return ""
    return (
        f"at least {long} of {len(samples)} captions: they have more than the {most} words that "
        f"the text model can read (model.text_model.max_length {text_model.max_length}), and their "
        "ends are cut off, as in afford-motion"
    )


def _num_words(text: str) -> int:
    """Words that any tokenizer gives a token to."""
    words = html.unescape(html.unescape(text)).split()
    return sum(any(c.isascii() and c.isalnum() for c in word) for word in words)


def _horizon(config: Config, dataset: Dataset) -> str:
    """What `max_horizon` means: of afford-motion's log nothing, and of the user's a smaller one."""
    limit = config.dataset.max_horizon
    if config.dataset.name != "ContactHumanML3DDataset" or limit > H3D_HORIZON:
        return ""
    if limit == H3D_HORIZON:
        training = config.provenance and config.provenance.training
        return HORIZON_OF_A_LOG if training and training.endswith(".log") else ""
    because = f"max_horizon ({limit}) or longer: "
    frames = [
        int(reason.removeprefix(because).split()[0])
        for reason in dataset.dropped.values()
        if reason.startswith(because)
    ]
    missed = sum(length < H3D_HORIZON for length in frames)
    if not missed:
        return ""
    return (
        f"{missed} clip(s) or parts of {limit} to {H3D_HORIZON - 1} frames are left out, of which "
        f"afford-motion's stage 2 wants maps: it leaves out {H3D_HORIZON} frames and more, "
        f"whatever its max_horizon says. To have them, set dataset.max_horizon: {H3D_HORIZON}"
    )


def _rounded_offsets(samples: list[Sample]) -> str:
    """Offsets so large that float32, which the archive keeps them in, moves them by millimetres."""
    offsets = np.array([sample.scene_trans for sample in samples], np.float32)
    steps = np.spacing(np.abs(offsets).max(axis=1))
    rounded = np.count_nonzero(steps > OFFSET_STEP_M)
    if not rounded:
        return ""
    return (
        f"{rounded} of {len(samples)} samples have an offset so large that float32 keeps it in "
        f"steps of up to {steps.max() * 1000:.4g} mm. Maps and points are as they should be; to "
        "place them in the whole scan, take the offsets from the table"
    )
