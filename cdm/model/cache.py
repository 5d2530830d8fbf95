"""Small results kept between runs in the user's cache, each under all that decides it."""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdm.errors import ArchiveError
from cdm.files import digest, seal, unseal, write_bytes


def cache_folder() -> Path:
    """`~/.cache/contact-maps`; XDG_CACHE_HOME stands for `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "contact-maps"


def remembered(
    name: str,
    decided_by: Any,
    compute: Callable[[], dict[str, Any]],
    holds: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    """The result of compute(), or the one that was kept when the same things decided it.

    Files are sealed with a checksum. One that was damaged or edited, or cannot be written, costs
    the computation and nothing else.

    Args:
        name: what the result is; the file's name begins with it.
        decided_by: JSON value; only its digest is kept.
        compute: gives a JSON object. Its exceptions pass through, and nothing is kept then.
        holds: whether a kept result agrees with what is known without computing it.
    """
    key = digest(decided_by)
    try:
        path = cache_folder() / f"{name}-{key}.json"
    except RuntimeError:  # a user without a home folder
        return compute()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        content = unseal(_read(path))
        if content["key"] == key and holds(content["value"]):
            return content["value"]
    value = compute()
    with contextlib.suppress(ArchiveError):
        write_bytes(path, seal({"key": key, "value": value}))
    return value


def _read(path: Path) -> bytes:
    """The bytes of a file. A pipe of that name is not waited for: it raises an OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is not a file")
    return path.read_bytes()
