"""Small results kept between runs in the user's cache, by all that decides them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdm.errors import ArchiveError
from cdm.files import write_json


def cache_folder() -> Path:
    """`~/.cache/contact-maps`; XDG_CACHE_HOME stands for `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "contact-maps"


def remembered(name: str, decided_by: Any, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """compute(), or what it gave when the same things last decided it.

    A cache that is damaged, or cannot be written to, costs the computation and no more.

    Args:
        name: what it is, the beginning of the file's name.
        decided_by: JSON value; only its digest is kept.
        compute: gives a JSON object; an exception of it passes, and nothing is kept.
    """
    key = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / f"{name}-{key[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_bytes())
        if content["key"] == key and isinstance(content["value"], dict):
            return content["value"]
    value = compute()
    with contextlib.suppress(ArchiveError):
        write_json(path, {"key": key, "value": value})
    return value
