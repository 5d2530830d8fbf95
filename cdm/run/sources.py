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
DEFAULT = "default"


def describe_sources(config: Config) -> str:
    """One line, for the run's start: which files told how many of the deciding values.

    Where no training tells how the model was trained, it says what is taken for granted. It is
    empty where the places of the values are not known.
    """
    provenance = config.provenance
    if provenance is None or config.exp_dir == DEMO:
        return ""
    files = Counter(
        place.split(" line ")[0] for key, place in provenance.places.items() if _decides(key)
    )
    told = [f"{count} from {name}" for name, count in files.most_common()]
    said = f"settings        {', '.join([*told, 'the rest are defaults'])}\n"
    if provenance.training is None:
        said += f"assumed         {_assumed(config)}\n"
    notes = "".join(f"warning         {note}\n" for note in provenance.notes)
    return printable(said + notes)


def _assumed(config: Config) -> str:
    """What had to be taken for granted of a training that nothing tells of."""
    text, diffusion, dataset = config.model.text_model, config.diffusion, config.dataset
    where = f"{config.exp_dir}/log/runtime.log tells" if config.exp_dir else "no record tells"
    negated = where.replace("tells", "does not tell") if config.exp_dir else where
    scene = "with" if config.model.scene_model.use_scene_model else "without"
    return (
        f"{negated} how the model was trained; taken for granted, unless you set it: "
        f"{diffusion.steps} steps ({diffusion.noise_schedule}), sigma {dataset.sigma}, "
        f"{dataset.data_repr}, {text.version} with max_length {text.max_length}, {scene} point "
        "features"
    )


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
