"""`cdm config`: an experiment's configuration in our keys, with the place of each value."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cdm.commands.config_files import Configured, complete, flow, typed
from cdm.config import load_config
from cdm.config.layers import UserValues, read_user, value_at
from cdm.config.schema import all_keys
from cdm.config.training_log import Training
from cdm.errors import ConfigError
from cdm.model.training_record import contradictions
from cdm.run.sources import DECIDING, DEFAULT

TYPED = "the command"
WIDTH = 44  # column of the comments


def read_experiment(
    path: Path | None, configfiles: Iterable[str], assignments: Iterable[str]
) -> Configured:
    """What is known of an experiment, and what the user set beside it.

    Args:
        path: an experiment folder, a log, or a composed configuration; None where `assignments`
            name it.
    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    user = read_user(configfiles, assignments)
    if path is not None:
        if not path.exists():
            raise ConfigError(f"{path}: no such folder or file; expected an experiment folder")
        key = "exp_dir" if path.is_dir() else "reference"
        user = UserValues({key: str(path)}, {key: TYPED}).over(user)
    return complete(user, strict=False)


def told_wrong(found: Configured) -> list[str]:
    """What could not be sampled with this configuration: refused, contradictory, or not there."""
    config = load_config(found.raw, found.provenance)
    wrong = [*found.refused]
    wrong += [line for training in found.trainings for line in contradictions(config, training)]
    return wrong + [
        f"{key}: nothing is at {text}; name it: --config {typed(key, '/path/to/it')}"
        for key, text in found.missing.items()
    ]


def describe_config(found: Configured) -> str:
    """YAML that `--configfile` takes: every deciding value, with its place as a comment."""
    config, places = load_config(found.raw, found.provenance), found.provenance.places
    values = config.as_dict()
    lines: list[str] = [f"# {_sources(found)}"]
    open_sections: list[str] = []
    for key in ("exp_name", "exp_dir", *(key for key in all_keys() if _decides(key))):
        value = value_at(values, key)
        if key not in places and (value is None or not _decides(key)):
            continue
        if key in found.missing:
            value = None
        *sections, name = key.split(".")
        common = 0
        while sections[: common + 1] == open_sections[: common + 1] and common < len(sections):
            common += 1
        for depth in range(common, len(sections)):
            lines.append(f"{'  ' * depth}{sections[depth]}:")
        open_sections = sections
        place = places.get(key, DEFAULT)
        if key in found.missing:
            place = f"{place} names {found.missing[key]}, and nothing is there"
        setting = f"{'  ' * len(sections)}{name}: {flow(value)}"
        lines.append(f"{setting:<{WIDTH}}  # {place}")
    lines += [line for training in found.trainings for line in _left_out(training)]
    lines += [f"# warning: {note}" for note in (*found.provenance.notes, *_no_model(found))]
    lines += [f"# error: {line}" for line in told_wrong(found)]
    return "\n".join(line.replace("\n", " ") for line in lines)


def _no_model(found: Configured) -> Iterable[str]:
    """That a folder without log and weights may be another one than was meant, such as a run's."""
    exp_dir = None if found.trainings else value_at(found.raw, "exp_dir")
    if exp_dir and Path(exp_dir).is_dir() and not Path(exp_dir, "ckpt").exists():
        yield f"{exp_dir} has no ckpt/: is it the folder that the training wrote?"


def _sources(found: Configured) -> str:
    if found.trainings:
        return f"told by {', '.join(training.source for training in found.trainings)}"
    return "no log and no record tells how the model was trained: all of this is taken for granted"


def _decides(key: str) -> bool:
    return key.split(".")[0] in DECIDING


def _left_out(training: Training) -> Iterable[str]:
    """Comments on the keys of afford-motion that are not among ours."""
    if training.no_meaning:
        yield f"# Keys of {training.source} without a meaning here:"
    width = max(map(len, training.no_meaning), default=0)
    for key, why in training.no_meaning.items():
        yield f"#   {key:{width}}  {why}"
    for key in training.unknown:
        yield f"#   {key:{width}}  not known here"


def as_json(found: Configured) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "config": load_config(found.raw, found.provenance).as_dict(),
        "places": found.provenance.places,
        "no_meaning": {
            key: why for each in found.trainings for key, why in each.no_meaning.items()
        },
        "unknown": [key for each in found.trainings for key in each.unknown],
        "notes": list(found.provenance.notes),
        "errors": told_wrong(found),
    }
