"""Which version of this program is at work."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path

import cdm
from cdm import __version__

GIT_TIMEOUT_S = 10  # on a slow network disk; without an answer the commit counts as unknown


@lru_cache(1)
def workflow_version() -> dict[str, str | None]:
    """Name, version and git commit of this program.

    Returns:
        `commit` is the full hash, with "-dirty" behind it where files differ from the commit. It
        is None in an installed package, and where git does not answer.
    """
    return {"name": "contact-map-diffusion", "version": __version__, "commit": _commit()}


def _commit() -> str | None:
    root = Path(cdm.__file__).parents[1]
    if not (root / ".git").exists():  # else git would look in the folders around it
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # looking changes nothing
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # those of a hook or of a user
        environment.pop(name, None)
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def version_text(version: dict[str, str | None]) -> str:
    """A version as people write it: "0.1.0", or "0.1.0 (3f2a9c1)" where the commit is known."""
    commit, dash, dirty = (version.get("commit") or "").partition("-")
    return f"{version.get('version')}" + (f" ({commit[:7]}{dash}{dirty})" if commit else "")
