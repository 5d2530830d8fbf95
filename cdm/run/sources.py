"""Where the values of a run's configuration come from, in words (no torch)."""

import json
from collections import Counter
from typing import Any

from cdm.config import DEMO, Config
from cdm.config.layers import value_at
from cdm.config.schema import all_keys
from cdm.errors import printable

# Sections whose values decide numbers; others tell how the work is done.
DECIDING = ("reference", "trust", "seed", "dataset", "model", "diffusion", "sampling")
# What a model must be sampled with as it was trained.
TRAINED = (
    *("diffusion.steps", "diffusion.noise_schedule", "dataset.data_repr", "dataset.sigma"),
    *("model.text_model.version", "model.text_model.max_length"),
    "model.scene_model.use_scene_model",
)
DEFAULT = "default"


def describe_sources(config: Config) -> str:
    """One line, for the run's start: which files told how many of the deciding values.

    A second line says what is taken for granted of the training. Both are empty where the places
    of the values are not known.
    """
    provenance = config.provenance
    if provenance is None or config.exp_dir == DEMO:
        return ""
    files = Counter(
        place.split(" line ")[0] for key, place in provenance.places.items() if _decides(key)
    )
    told = [f"{count} from {name}" for name, count in files.most_common()]
    said = f"settings        {', '.join([*told, 'the rest are defaults'])}\n"
    if assumed := _assumed(config):
        said += f"assumed         {assumed}\n"
    notes = "".join(f"warning         {note}\n" for note in provenance.notes)
    return printable(said + notes)


def _assumed(config: Config) -> str:
    """What had to be taken for granted, because neither the user nor the training told it."""
    assert config.provenance is not None, "only asked where it is known"
    places, values = config.provenance.places, config.as_dict()
    open_keys = [f"{key} {value_at(values, key)}" for key in TRAINED if key not in places]
    if not open_keys:
        return ""
    if config.provenance.training is not None:
        return f"{', '.join(open_keys)}: {config.provenance.training} does not tell"
    untold = (
        f"{config.exp_dir}/log/runtime.log does not tell" if config.exp_dir else "nothing tells"
    )
    return f"{', '.join(open_keys)}: {untold} how the model was trained"


def describe_values(config: Config) -> str:
    """A table for checkpoint_info.txt: every deciding value and where it comes from.

    Sizes that are null and not set are left out, because they are read off the weights.
    """
    if config.provenance is None:
        return ""
    places, values = config.provenance.places, config.as_dict()
    rows = [
        (key, _shown(value_at(values, key)), places.get(key, DEFAULT))
        for key in all_keys()
        if _decides(key) and (key in places or value_at(values, key) is not None)
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = (f"{key:{widths[0]}}  {value:{widths[1]}}  {place}\n" for key, value, place in rows)
    return printable("\nwhere each value comes from\n" + "".join(lines))


def _decides(key: str) -> bool:
    return key.split(".")[0] in DECIDING


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
