"""Whether a text encoder is that of the training, told by what it makes of a caption (no torch).

Encoders of one name and width may have other weights: fine-tuned ones, or another model whose files
were put into the folder. A model sampled with another one gives wrong maps without an error. Files
are not compared, because the same weights have other bytes in each of their formats.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdm.config import Config
from cdm.errors import CheckpointError
from cdm.model.training_record import INSIST, SETTINGS, read_training_record

PROBE = "a person sits down on the chair next to the table"
NUM_VALUES = 64  # of its vector that are recorded
LARGEST = 0.1  # relative difference; half precision makes one of 0.001


def probe_of(vector: Any) -> list[float]:
    """What a training records: the first values of PROBE's vector, which is scaled to length 1."""
    values = np.asarray(vector, np.float64)
    return np.round((values / np.linalg.norm(values))[:NUM_VALUES], 6).tolist()


def probe_difference(then: Sequence[float] | None, now: Sequence[float] | None) -> str:
    """In words, how much the vectors of PROBE differ; "" if not, or if one was not recorded."""
    if then is None or now is None:
        return ""
    apart = 2.0  # of vectors of other lengths
    if len(then) == len(now):
        apart = float(np.linalg.norm(np.subtract(then, now)) / (np.linalg.norm(then) or 1))
    if apart <= LARGEST:
        return ""
    return f"the vector of {PROBE!r} differs by {apart:.0%} from the one of the training"


def recorded_probe(config: Config, folder: Path) -> list[float] | None:
    """What a training in `folder`, which holds ckpt/, recorded; None if nothing is compared.

    Raises:
        CheckpointError: its record is damaged.
    """
    if config.trust == "mine" or config.model.text_model.version == "hashing":
        return None
    record = read_training_record(folder)
    return record.text_probe if record else None


def check_encoder_as_trained(
    config: Config, folder: Path, then: Sequence[float] | None, now: Sequence[float]
) -> None:
    """Compare the text encoder with that of the training.

    Args:
        folder: that holds ckpt/.
        then, now: of the training (`recorded_probe`) and of the present encoder.
    Raises:
        CheckpointError: it is another one.
    """
    problem = probe_difference(then, now)
    if problem:
        text_model = config.model.text_model
        where = f"the weights in {text_model.path}" if text_model.path else "those in the hub cache"
        raise CheckpointError(
            f"{folder / SETTINGS}: the model was trained with another text encoder "
            f"{text_model.version} than {where}: {problem}. Name the folder with the weights of "
            f"the training in model.text_model.path. If yours are right: {INSIST}"
        )
