"""`cdm init`: a configuration file to begin with, and a cluster's profile (no torch)."""

from pathlib import Path

from cdm import WORKFLOW
from cdm.config.layers import DEFAULTS
from cdm.errors import ConfigError
from cdm.files import write_bytes

MINE = "mine.yaml"
HEAD = """\
# Settings of a run. Each line shows a key with its default: remove the "# " before what you set,
# and before the section that it stands in. As it is, this file runs the built-in demo.
#   check it:  cdm run {name} -- -n
#   run it:    cdm run {name}
# Most runs set exp_dir and dataset.data_dir, sets and phase. Where exp_dir has a log of its
# training, the log tells all settings of the training.

"""


def settings_to_begin_with(name: str) -> str:
    """The text of a configuration file: all keys of config/config.yaml as comments.

    Args:
        name: of the file, for the commands in its head.
    """
    _, _, keys = DEFAULTS.read_text("utf-8").partition("\n\n")  # the head is about that file
    lines = []
    for line in keys.splitlines():
        if line.startswith("exp_name:"):
            lines.append(line.replace("exp_name: cdm ", "exp_name: mine", 1))
        else:
            lines.append(f"# {line}" if line else "")
    return HEAD.format(name=name) + "\n".join(lines) + "\n"


def write_settings(path: Path) -> None:
    """Write a configuration file to begin with.

    Raises:
        ConfigError: something is there already.
    """
    _write_new(path, settings_to_begin_with(str(path)))


def profiles() -> list[str]:
    """Names of the clusters' profiles that the workflow carries."""
    names = (path.parent.name for path in WORKFLOW.glob("profiles/*/config.yaml"))
    return sorted(name for name in names if name != "default")


def write_profile(name: str) -> Path:
    """Copy a cluster's profile to profiles/NAME/config.yaml, where it can be edited.

    Raises:
        ConfigError: something is there already.
    """
    path = Path("profiles", name, "config.yaml")
    _write_new(path, (WORKFLOW / path).read_text("utf-8"))
    return path


def _write_new(path: Path, text: str) -> None:
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: is there already; remove it first, or give another name")
    write_bytes(path, text.encode())
