"""What many tests build in their folders: built once in each process, copied from then on."""

import contextlib
import functools
import pickle
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """make(folder, ...), where only the first call with the same arguments does the work.

    The others copy its folder, times and hard links included, and get an equal result.

    Args:
        make: fills a folder, which is the working directory, and writes no absolute path. Its
            arguments and its result can be pickled. A folder that is not empty is left to it.
    """
    known: dict[bytes, tuple[tempfile.TemporaryDirectory, bytes]] = {}

    @functools.wraps(make)
    def copy_or_make(folder: Path, *args: Any, **kwargs: Any) -> Any:
        if any(folder.iterdir()):
            return make(folder, *args, **kwargs)
        key = pickle.dumps((args, sorted(kwargs.items())))
        if key not in known:
            kept = tempfile.TemporaryDirectory(prefix="remembered-")
            with contextlib.chdir(kept.name):
                known[key] = kept, pickle.dumps(make(Path(kept.name), *args, **kwargs))
        kept, result = known[key]
        subprocess.run(["cp", "-a", f"{kept.name}/.", folder], check=True)
        return pickle.loads(result)

    return copy_or_make
