"""The configuration as it was typed, completed by what the training tells.

The workflow and the commands beside it read it here, so that both see the same.
"""

import functools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from cdm.config import DEMO, SCHEMA, Config, Provenance, is_demo, load_config
from cdm.config.layers import (
    DEFAULTS,
    DEMO_DEFAULTS,
    UserValues,
    difference,
    nested,
    overlay,
    read_file,
    read_user,
    set_keys,
    value_at,
)
from cdm.config.reference_keys import PATHS, is_true
from cdm.config.schema import schema
from cdm.config.training_log import OF_TRAINING_ONLY, Training, locate
from cdm.config.values import coerce
from cdm.errors import CDMError, ConfigError
from cdm.files import expand_path
from cdm.model.training_record import INSIST, read_trainings

FAST = SCHEMA.with_name("fast.yaml")
NOT_TOLD = (None, "null", "~", "", DEMO)


class Configured(NamedTuple):
    """A configuration before it is validated.

    Attributes:
        raw: nested values of every key.
        provenance: where they come from.
        trainings: what is known of the model's training.
        missing: our dotted key -> the path that a training names for it, where nothing is.
        refused: sentences on what cannot be sampled as it was trained.
    """

    raw: dict[str, Any]
    provenance: Provenance
    trainings: Sequence[Training] = ()
    missing: Mapping[str, str] = MappingProxyType({})
    refused: Sequence[str] = ()


def read_config(
    configfiles: Iterable[str | Path], assignments: Iterable[str], strict: bool = True
) -> Config:
    """The configuration that `snakemake --configfile ... --config ...` runs with.

    Args:
        configfiles: laid over config/config.yaml, in this order.
        assignments: `key=value`, laid over those; values are YAML.
        strict: as in `complete`; False to find a run that is there.
    Raises:
        ConfigError: no such file, not YAML, or not a valid configuration.
    """
    found = complete(read_user(configfiles, assignments), strict)
    return load_config(found.raw, found.provenance)


def configure(
    merged: Mapping[str, Any], configfiles: Iterable[str | Path], assignments: Iterable[str] | None
) -> Configured:
    """What Snakemake merged, as it was typed, and completed by what the training tells.

    Snakemake reads values before the workflow sees them: 007 arrives as 7, of a section that comes
    twice in one file only the last arrives, and a value that was set to its default cannot be told
    from one that was not set. So the user's files and `--config` are read again. What differs from
    the defaults and stands in neither was set by a workflow around this one.

    Args:
        merged: Snakemake's `config`. In a module it may hold a part of the keys; then all of them
            count as set.
        configfiles: of `--configfile`.
        assignments: of `--config`, as typed.
    Raises:
        ConfigError: a file or value is not YAML or holds a key twice, or the training cannot be
            read.
    """
    defaults = coerce(_defaults(merged), schema())
    around = coerce(merged, schema())
    if defaults.keys() <= merged.keys():
        around = difference(defaults, around)
    outer = UserValues(around, dict.fromkeys(set_keys(around), "the workflow's config"))
    return complete(read_user(configfiles, assignments or ()).over(outer))


def complete(user: UserValues, strict: bool = True) -> Configured:
    """Lay what the user set over what the training tells, and that over our defaults.

    Args:
        strict: refuse what cannot be sampled as it was trained, and paths that are not there.
    Raises:
        ConfigError: the training cannot be read, or is refused.
    """
    raw = overlay(_defaults(user.values), user.values)
    exp_dir, reference = _path(raw, "exp_dir"), _path(raw, "reference")
    if is_demo(raw) or str(raw.get("exp_dir")) == DEMO:
        return Configured(raw, Provenance(user.places))

    # What the training tells.
    insists = raw.get("trust") == "mine"
    folder = exp_dir or f"{raw.get('output_dir')}/{raw.get('exp_name')}"
    notes: list[str] = []
    try:
        trainings = read_trainings(folder, reference, logs=exp_dir is not None)
    except ConfigError as error:
        if strict and not insists:
            raise ConfigError(
                f"{error}\nIt should tell how the model was trained. Restore it; or give the "
                "configuration alone (--config reference=FILE); or set all that the training "
                f"decides, and {INSIST}"
            ) from None
        trainings = []
        notes.append(f"left out: {error}")

    # The user's word first, then each training's.
    places, all_refused = dict(user.places), []
    missing: dict[str, Any] = {}
    for training in trainings:
        refused = [text for text, settled_by in training.refused if settled_by not in places]
        all_refused += refused
        if refused and strict and not insists:
            listed = "".join(f"\n  {line}" for line in refused)
            raise ConfigError(
                f"{training.source}: the model cannot be sampled here as it was trained:{listed}\n"
                f"If you know that it can: {INSIST}"
            )
        notes += [f"in spite of {line}" for line in refused] + list(training.notes)
        if training.unknown:
            notes.append(f"unknown in {training.source}: {', '.join(training.unknown[:20])}")
        raw, not_there = _fill(raw, places, training, exp_dir)
        if not_there and strict:
            raise ConfigError(_not_there(*not_there.popitem(), places))
        missing |= {key: looked[0] for key, looked in not_there.items()}
    source = trainings[0].source if trainings else None
    return Configured(
        raw, Provenance(places, source, tuple(notes)), trainings, missing, all_refused
    )


def _fill(
    raw: dict[str, Any], places: dict[str, str], training: Training, exp_dir: str | None
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The values with a training's where no other place is known; adds their places.

    Returns:
        The values; and of each path that the training names and that is not there, where it was
        looked for.
    """
    missing: dict[str, list[str]] = {}
    for key, value in training.values.items():
        if key in places or _is_of_another_dataset(key, raw, training):
            continue
        if key in PATHS and isinstance(value, str):
            if key != "dataset.data_dir" and _features_are_read(raw, training):
                continue  # no scene model runs
            value, looked = locate(value, exp_dir)
            if value is None:
                missing[key] = looked
        raw = overlay(raw, nested(key, value))
        places[key] = training.places[key]
    return raw, missing


def _is_of_another_dataset(key: str, raw: Mapping[str, Any], training: Training) -> bool:
    """Whether the user samples another dataset than the trained one, which has no such value."""
    name, trained = value_at(raw, "dataset.name"), training.values.get("dataset.name")
    return name != trained and (
        key == "dataset.transforms"
        or (key in OF_TRAINING_ONLY and name == "ContactHumanML3DDataset")
    )


def _features_are_read(raw: Mapping[str, Any], training: Training) -> bool:
    """Whether point features come from files, so that no scene model makes them."""
    return any(
        is_true(training.values.get(key, value_at(raw, key)))
        for key in ("model.scene_model.use_openscene", "dataset.use_openscene")
    )


def _not_there(key: str, looked: list[str], places: Mapping[str, str]) -> str:
    listed = "".join(f"\n  {path}" for path in looked)
    return (
        f"{key}: {places[key]} names {looked[0]}, relative to the folder that the training ran in. "
        f"Nothing is at\n  {listed.strip()}\nName it: --config {typed(key, '/path/to/it')}"
    )


def typed(key: str, value: str) -> str:
    """A key of a section with its value, as it is typed behind --config."""
    section, *between, last = key.split(".")
    opened = "".join(f"{name}: {{" for name in between)
    return f"{section}='{{{opened}{last}: {value}{'}' * (len(between) + 1)}'"


def _path(raw: Mapping[str, Any], key: str) -> str | None:
    """A path at the top level; None where none is named."""
    value = raw.get(key)
    return None if value in NOT_TOLD else expand_path(str(value), key)


def fast_config(config: Config) -> Config:
    """The configuration with config/fast.yaml laid over it."""
    return load_config(overlay(config.as_dict(), read_file(FAST)[0]))


def config_arguments(config: Config) -> str:
    """`--config ...` that makes Snakemake run with this configuration, quoted for a shell."""
    found = config.as_dict()
    around = {
        key: found[key] for key in ("exp_name", "output_dir", "exp_dir", "reference", "trust")
    }
    around["dataset"] = {"data_dir": found["dataset"]["data_dir"]}
    usual = load_config(_defaults(found)).as_dict()
    try:
        told = load_config(complete(UserValues(around)).raw).as_dict()
    except CDMError:  # what told of the training is gone
        told = usual
    changes = overlay(difference(told, found), difference(usual, around))
    words = [f"{key}={flow(changes[key])}" for key in found if changes.get(key, {}) != {}]
    return "--config " + " ".join(map(shlex.quote, words)) if words else ""


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**20)
    return text.removesuffix("\n").removesuffix("\n...")


def _defaults(user: Mapping[str, Any]) -> dict[str, Any]:
    defaults = _read_defaults(DEFAULTS)
    demo = is_demo(overlay(defaults, user))
    return overlay(defaults, _read_defaults(DEMO_DEFAULTS)) if demo else dict(defaults)


@functools.cache
def _read_defaults(path: Path) -> Mapping[str, Any]:
    return read_file(path)[0]
