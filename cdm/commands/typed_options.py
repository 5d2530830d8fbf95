"""Settings that Snakemake would leave out without a word: of an option that comes twice, and of a
profile.

--configfile and --config take several values, and Snakemake keeps those of one place alone: of the
last option that is typed, else of the last profile. So a run could be of the demo in place of the
user's data.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cdm.commands.config_files import flow
from cdm.errors import ConfigError

# Every name of an option that counts here -> its usual one.
CONFIGFILE, CONFIG = "--configfile", "--config"
PROFILE, WORKFLOW_PROFILE = "--profile", "--workflow-profile"
NAMES = {
    "--configfile": CONFIGFILE,
    "--configfiles": CONFIGFILE,
    "--config": CONFIG,
    "-C": CONFIG,
    "--profile": PROFILE,
    "--workflow-profile": WORKFLOW_PROFILE,
}


def typed_options(words: Sequence[str]) -> dict[str, list[list[str]]]:
    """Usual name of an option -> the values of each time that it is typed.

    Args:
        words: typed to Snakemake or `cdm`, each word an entry.
    """
    typed: dict[str, list[list[str]]] = {option: [] for option in NAMES.values()}
    values: list[str] = []
    for word in words:
        if not word.startswith("-"):
            values.append(word)
            continue
        name, equals, value = word.partition("=")
        if word.startswith("-C") and name not in NAMES:  # -Cseed=7
            name, equals, value = "-C", "=", word[2:]
        values = [value] if equals else []  # of this option, and of no other
        if name in NAMES:
            typed[NAMES[name]].append(values)
    return typed


def check_typed_once(words: Sequence[str]) -> None:
    """Refuse --configfile or --config that is typed twice.

    Raises:
        ConfigError: with the one option that has all values.
    """
    typed = typed_options(words)
    for option in (CONFIGFILE, CONFIG):
        groups = typed[option]
        if len(groups) > 1:
            raise ConfigError(
                f"{option} is there {len(groups)} times, and only the last one would count. Type "
                f"it once, with all values behind it: {option} {_joined(groups)}"
            )


def check_profile(words: Sequence[str], workflow: Path) -> None:
    """Refuse a --workflow-profile that is not there.

    Snakemake then takes none, without a word: a run that is meant for a cluster would start on the
    machine where it was typed.

    Args:
        words: typed to Snakemake, each word an entry.
        workflow: the folder of the Snakefile.
    Raises:
        ConfigError: says where it was looked for, and what there is.
    """
    for name, *_ in filter(None, typed_options(words)[WORKFLOW_PROFILE]):
        if name in ("", "none") or any(place.exists() for place in _places(name, workflow)):
            continue
        there = sorted(str(path.parent) for path in workflow.glob("profiles/*/config.yaml"))
        raise ConfigError(
            f"{WORKFLOW_PROFILE} {name}: no such folder. There are {', '.join(there)}; cdm init "
            "--profile slurm writes one to edit"
        )


def check_settings_of_profiles(words: Sequence[str], workflow: Path) -> None:
    """Refuse a profile's `configfile` or `config` that is left out because of another's.

    Args:
        words: typed to Snakemake, each word an entry.
        workflow: the folder of the Snakefile.
    Raises:
        ConfigError: names the profile and what would be left out.
    """
    typed = typed_options(words)
    found = [(path, _settings(path)) for path in _profiles(typed, workflow)]
    for option in (CONFIGFILE, CONFIG):
        places = [(f"the profile {path}", s[option]) for path, s in found if s.get(option)]
        places += [("what is typed", values) for values in typed[option] if values]
        for place, values in places[:-1]:
            winner, winning = places[-1]
            lost = [value for value in values if not _is_among(value, winning, option)]
            if lost:
                raise ConfigError(
                    f"{place} has {option.lstrip('-')} {_joined([lost])}, which would be left out: "
                    f"Snakemake takes {option} from one place alone, here {winner}. "
                    f"{_advice(option, lost, winning)}"
                )


def _is_among(value: str, winning: Sequence[str], option: str) -> bool:
    """Whether the same file is named, or the same key is set as a whole."""
    if option == CONFIGFILE:
        return os.path.realpath(value) in map(os.path.realpath, winning)
    key = value.partition("=")[0]
    return any(
        name == key and not new.lstrip().startswith("{")
        for name, _, new in (each.partition("=") for each in winning)
    )


def _advice(option: str, lost: Sequence[str], winning: Sequence[str]) -> str:
    if option == CONFIGFILE:
        return f"Type {CONFIGFILE} {_joined([lost, winning])}, or take it out of the profile"
    return f"Move it to a file of {CONFIGFILE}: {CONFIG} is laid over that"


def _places(name: str, workflow: Path) -> list[Path]:
    """Where Snakemake looks for a workflow profile."""
    return [Path(name), Path("profiles", name), workflow / "profiles" / name]


def _profiles(typed: dict[str, list[list[str]]], workflow: Path) -> Iterator[Path]:
    """The files of the profiles that Snakemake reads; a later one wins."""
    from snakemake.cli import get_profile_dir

    names = [values[0] for values in typed[PROFILE] if values]
    names = names or list(filter(None, [os.environ.get("SNAKEMAKE_PROFILE")]))
    of_workflow = [values[0] for values in typed[WORKFLOW_PROFILE] if values] or ["default"]
    if of_workflow[-1] != "none":
        there = (place for place in _places(of_workflow[-1], workflow) if place.exists())
        names += [str(place) for place in there][:1]
    for name in names:
        found = get_profile_dir(name) if name not in ("", "none") else None
        if found is not None:
            yield Path(found[1])


def _settings(profile: Path) -> dict[str, list[str]]:
    """`configfile` and `config` of a profile, as they would be typed.

    Snakemake itself says what is wrong with a profile that cannot be read.
    """
    try:
        content: Any = yaml.safe_load(profile.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    found: dict[str, list[str]] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        option = NAMES.get(f"--{key}")
        if option in (CONFIGFILE, CONFIG) and value is not None:
            if isinstance(value, dict):
                value = [f"{name}={flow(each)}" for name, each in value.items()]
            values = [str(each) for each in (value if isinstance(value, list) else [value])]
            if option == CONFIGFILE:  # beside the profile, if it is there
                beside = [profile.parent / each for each in values]
                pairs = zip(values, beside, strict=True)
                values = [str(path) if path.exists() else each for each, path in pairs]
            found[option] = values
    return found


def _joined(groups: Sequence[Sequence[str]]) -> str:
    return shlex.join(value for group in groups for value in group)
