"""The page of `cdm view`, served to this machine alone by the standard library (no torch).

Three things can be asked for: the page, the list of maps, and the numbers of one map by its row.
No path from an address ever names a file. A page of another site cannot ask either: the name in
the address must be this machine's loopback, whatever a name server says of other names.
"""

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cdm.datasets.actions import action_of
from cdm.errors import ArchiveError, CDMError
from cdm.gallery.fragment import fragment_of, gallery_head, script_hash
from cdm.gallery.gather import ItemReader
from cdm.gallery.items import UNMEASURED, item_key
from cdm.gallery.maps import ArchivedMaps, RunMaps
from cdm.gallery.measures import find_measured
from cdm.gallery.packing import describe, pack_item
from cdm.pages import render

HOST = "127.0.0.1"
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_MAP = re.compile(r"/map/(\d{1,9})\.json", re.ASCII)


class MapServer(ThreadingHTTPServer):
    """Serves the maps of a run on the loopback address.

    Args:
        maps: what is shown.
        port: to listen at; 0 for any that is free.
    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, maps: RunMaps, port: int = 0):
        self.maps = maps
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: MapServer
    server_version, sys_version = "cdm", ""
    timeout = 60  # seconds that a silent client may hold a thread

    def do_GET(self) -> None:
        """The page, the list, or one map."""
        if not _LOOPBACK.fullmatch(self.headers.get("Host", "")):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"Open the address cdm view printed.")
            return
        map_asked = _MAP.fullmatch(self.path)
        if self.path == "/":
            self._answer(HTTPStatus.OK, "text/html", page_of(self.server.maps).encode())
        elif self.path == "/index.json":
            self._answer_json(lambda: index_of(self.server.maps))
        elif map_asked:
            self._answer_json(lambda: map_of(self.server.maps, int(map_asked[1])))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"There is nothing here.")

    do_HEAD = do_GET

    def _answer_json(self, make: Callable[[], Any]) -> None:
        try:
            content = json.dumps(make(), allow_nan=False, separators=(",", ":")).encode()
        except CDMError as error:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", str(error).encode())
        else:
            self._answer(HTTPStatus.OK, "application/json", content)

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Content-Security-Policy": (
                f"default-src 'none'; script-src {script_hash()}; style-src 'unsafe-inline'; "
                "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'"
            ),
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal shows where the page is."""


def page_of(maps: RunMaps) -> str:
    """The page; it asks for the list itself."""
    name = str(maps.run)
    return render("view.html", title=name, gallery=fragment_of({"remote": True}))


def index_of(maps: RunMaps) -> dict[str, Any]:
    """The list of all maps that are there, without their numbers."""
    found = maps.look()
    reader = ItemReader(found.config, found.point_feat_dim)
    plan = found.maps.attributes["plan"] if isinstance(found, ArchivedMaps) else ""
    measured = find_measured(maps.run, plan) if plan else {}
    items = []
    for row, sample in found.samples.items():
        key = (sample.set, sample.index, sample.caption_idx)
        told = describe(
            item_key(*key),
            sample.set,
            sample.index,
            sample.text,
            action_of(sample.text),
            measured.get(key, UNMEASURED),
        )
        items.append(told | {"row": row})
    return gallery_head(reader.joints, found.config.dataset.sigma) | {
        "items": items,
        "truth": reader.dataset.has_ground_truth,
        "complete": maps.complete,
        "rows": found.num_rows,
    }


def map_of(maps: RunMaps, row: int) -> dict[str, Any]:
    """The numbers of one map.

    Raises:
        ArchiveError: there is no such map, or it is damaged.
    """
    found = maps.maps
    if row not in found.samples:
        raise ArchiveError(f"no map in row {row}: it is not finished yet, or was skipped")
    sample = found.samples[row]
    reader = ItemReader(found.config, found.point_feat_dim)
    arrays, statistics = found.read(row, ItemReader.ARRAYS)
    note = ""
    try:
        item = reader.item(sample, arrays, statistics)
    except (CDMError, OSError) as error:  # the archive may have been copied without its data
        item = reader.maps_alone(sample, arrays, statistics)
        note = f"Without the truth, because the data cannot be read: {error}"
    return pack_item(item, found.config.dataset.sigma, reader.up) | {"key": item.key, "note": note}
