"""`cdm view`: look at the maps of a run in a browser, also while it goes on (no torch)."""

import contextlib
import getpass
import socket
from collections.abc import Iterator
from pathlib import Path

from cdm.commands.snakemake_line import started_in
from cdm.errors import ConfigError
from cdm.gallery.maps import RunMaps
from cdm.gallery.server import HOST, MapServer


@contextlib.contextmanager
def map_server(path: Path, port: int) -> Iterator[MapServer]:
    """A server of the maps of a run; it listens, and answers once `serve_forever` is called.

    The process works in the folder that the run was started in, because paths of its data are
    relative to that folder.

    Args:
        path: folder of the run, or an archive.
        port: 0 for any that is free.
    Raises:
        ArchiveError: there are no maps.
        ConfigError: the port is taken, or may not be used.
    """
    maps = RunMaps(Path(path).resolve())
    with contextlib.ExitStack() as stack:
        if maps.plan is not None:
            with contextlib.suppress(ConfigError):  # renamed: the maps are shown without the truth
                stack.enter_context(contextlib.chdir(started_in(maps.run, maps.plan.config)))
        try:
            server = MapServer(maps, port)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"--port {port}: {reason}; choose another one, or leave --port out for one that "
                "is free"
            ) from None
        yield stack.enter_context(server)


def describe_server(server: MapServer) -> str:
    """Where to look, as text."""
    found = server.maps.maps
    there = f"{len(found.samples)} of {found.num_rows} samples have maps"
    if not server.maps.complete:
        there += "; more appear as chunks are finished"
    return (
        f"{server.maps.run}: {there}\n\n"
        f"open        {server.url}\n"
        f"over ssh    {ssh_line(server.server_port)}\n"
        "            in a terminal on your own machine; then open the same address there\n\n"
        "Ctrl-C ends it."
    )


def as_json(server: MapServer) -> dict[str, str | int]:
    """Where to look, as JSON values."""
    return {"url": server.url, "ssh": ssh_line(server.server_port), "port": server.server_port}


def ssh_line(port: int) -> str:
    """The command that makes the port of this machine one of the reader's own."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        user = "USER"
    return f"ssh -N -L {port}:{HOST}:{port} {user}@{socket.gethostname()}"
