"""A web server on loopback: a folder over http, with ranges and ETag, and trouble on request.

To s3fs it is an S3 whose buckets are the folder's folders: it lists them, too.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Trouble = Callable[[str, str, int], str | int | None]  # method, path, how many asked for it before


class WebServer(ThreadingHTTPServer):
    """Serves `folder`.

    Attributes:
        url: of the folder.
        requests: (method, path) of each request, in order.
        trouble: tells for a request whether to answer with a status (503), to close the connection
            ("drop"), to send half a file ("half"); None for a right answer.
        headers: of each answer: which of ETag and Last-Modified.
        tells_length: whether answers have a Content-Length. Without one, the end of the connection
            is that of the file.
        password: "user:word" that is asked for, or None.
        salt: part of each ETag, so that another one gives the same file another ETag.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.requests = folder, []
        self.trouble: Trouble = lambda method, path, before: None
        self.headers = ("ETag", "Last-Modified")
        self.tells_length = True
        self.password: str | None = None
        self.salt = b""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, method: str, path: str = "") -> int:
        """How many requests of this kind there were, for paths that hold these words."""
        return sum(m == method and path in p for m, p in self.requests)

    def handle_error(self, request, client_address):
        pass  # a client that hangs up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer("HEAD")

    def do_GET(self):
        self.answer("GET")

    def answer(self, method: str) -> None:
        path, query = unquote(urlsplit(self.path).path).lstrip("/"), urlsplit(self.path).query
        before = self.server.requests.count((method, path))
        self.server.requests.append((method, path))
        wrong = self.server.trouble(method, path, before)
        if wrong == "drop":
            self.close_connection = True
            return
        if isinstance(wrong, int):
            self.send(wrong, {}, b"", method)
        elif self.server.password and not self.allowed():
            self.send(401, {"WWW-Authenticate": "Basic"}, b"", method)
        elif "list-type=2" in query:
            self.send(200, {"Content-Type": "application/xml"}, self.listing(path, query), method)
        elif not (self.server.folder / path).is_file():
            self.send(404, {}, b"", method)
        else:
            self.send_file((self.server.folder / path).read_bytes(), method, wrong == "half")

    def allowed(self) -> bool:
        import base64

        word = base64.b64encode(self.server.password.encode()).decode()
        return self.headers.get("Authorization") == f"Basic {word}"

    def listing(self, bucket: str, query: str) -> bytes:
        """S3's answer ListObjectsV2 for one folder of a bucket."""
        prefix = parse_qs(query).get("prefix", [""])[0]
        files, folders = "", ""
        for path in sorted((self.server.folder / bucket / prefix).glob("*")):
            key = escape(prefix + path.name)
            if path.is_dir():
                folders += f"<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>"
                continue
            etag = hashlib.md5(self.server.salt + path.read_bytes()).hexdigest()
            files += (
                f"<Contents><Key>{key}</Key><LastModified>2026-11-28T04:00:00.000Z</LastModified>"
                f"<ETag>&quot;{etag}&quot;</ETag><Size>{path.stat().st_size}</Size></Contents>"
            )
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>false</IsTruncated>{files}{folders}</ListBucketResult>"
        ).encode()

    def send_file(self, data: bytes, method: str, half: bool) -> None:
        """The bytes, or the range that is asked for."""
        told = {
            "ETag": f'"{hashlib.md5(self.server.salt + data).hexdigest()}"',
            "Last-Modified": "Sat, 28 Nov 2026 04:00:00 GMT",
        }
        headers = {key: told[key] for key in self.server.headers} | {"Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found:
            self.send(200, headers, data, method, half)
            return
        first, last = found.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= stop:
            self.send(416, {"Content-Range": f"bytes */{len(data)}"}, b"", method)
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.send(206, headers, data[start:stop], method, half)

    def send(self, status: int, headers: dict, data: bytes, method: str, half: bool = False):
        self.send_response(status)
        length = {"Content-Length": str(len(data))} if self.server.tells_length else {}
        self.close_connection = self.close_connection or not self.server.tells_length
        for key, value in {**headers, **length}.items():
            self.send_header(key, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if method == "GET":
            self.wfile.write(data[: len(data) // 2] if half else data)
            self.close_connection = self.close_connection or half


@contextmanager
def serve(folder: Path) -> Iterator[WebServer]:
    """A server of a folder, stopped at the end."""
    server = WebServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
