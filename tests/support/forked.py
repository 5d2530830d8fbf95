"""Processes forked from one that has imported what they need, which saves each of them seconds.

Children of a fork server start without the threads of pytest, and without torch.
"""

import functools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

HERE = str(Path(__file__).parent)


@functools.cache
def server():
    """The context of the fork server, which runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    before = os.environ.get("PYTHONPATH", "")  # all that the server finds modules by
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, before]))
    try:
        forkserver.ensure_running()
    finally:
        os.environ["PYTHONPATH"] = before
    return context


def snakemake(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Snakemake's own `main`, as `snakemake ARGUMENTS` typed in a folder; its jobs are processes.

    Args:
        environment: what to add to this process's environment.
    Returns:
        The finished process, with all its output in `stdout`.
    """
    words = ["snakemake", *map(str, arguments)]
    with tempfile.NamedTemporaryFile("r", prefix="snakemake-") as output:
        variables = dict(os.environ) | (environment or {})
        process = server().Process(target=_main, args=(words, folder, variables, output.name))
        process.start()
        process.join()
        return subprocess.CompletedProcess(words, process.exitcode, output.read(), "")


def _main(words: list[str], folder: Path, environment: dict[str, str], output: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = words
    from snakemake.cli import main

    main()
