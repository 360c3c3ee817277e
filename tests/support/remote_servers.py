"""Servers on loopback that hold a store: a bucket, and a web server with faults on request."""

from __future__ import annotations

import http.client
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "models"


@dataclass(slots=True)
class Asked:
    """One request: what was asked for and how many bytes of it were sent."""

    path: str
    start: int
    sent: int = 0
    authorization: str = ""


@dataclass(slots=True)
class Faults:
    """What goes wrong. Paths are matched by their end; counters are for the whole server."""

    ranges: bool = True
    cut_after: dict[int, int] = field(default_factory=dict[int, int])
    """By number of request: bytes after which the connection breaks."""
    cut_all_after: int | None = None
    stall_requests: set[int] = field(default_factory=set[int])
    """Numbers of requests that are never answered."""
    flip: Callable[[Asked], bool] = lambda _asked: False
    """Whether one byte of this answer is wrong."""
    wrong_range: bool = False
    short: int = 0
    """How much shorter all files seem than they are."""
    status: int | None = None
    refuse_after: int | None = None
    """Requests after which every one is refused, as by a server that died."""


class WebServer:
    """A folder over HTTP/1.1. `asked` has every request, in order of arrival."""

    def __init__(self, root: Path, faults: Faults | None = None) -> None:
        self.root = root
        self.faults = faults or Faults()
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.let_go = threading.Event()
        """Set at the end, so that stalled requests do not outlive the test."""
        self.arrived = threading.Condition()
        server = self

        class Handler(_Handler):
            owner = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def sent_bytes(self) -> int:
        return sum(each.sent for each in self.asked)

    def ranges_of(self, path_end: str) -> list[int]:
        """First bytes asked for, of files whose path ends so."""
        return [each.start for each in self.asked if each.path.endswith(path_end)]

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: WebServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        owner, faults = self.owner, self.owner.faults
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        asked = Asked(self.path, int(found[1]) if found and faults.ranges else 0)
        asked.authorization = self.headers.get("Authorization", "")
        with owner.lock:
            number = len(owner.asked)
            owner.asked.append(asked)
        with owner.arrived:
            owner.arrived.notify_all()
        if number in faults.stall_requests:
            owner.let_go.wait(30)
            self.close_connection = True
            return
        path = owner.root / self.path.lstrip("/")
        refused = faults.refuse_after is not None and number >= faults.refuse_after
        if faults.status is not None or refused or not path.is_file():
            self.send_response(faults.status or (503 if refused else 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(path, asked, found if faults.ranges else None, number)

    def _send(self, path: Path, asked: Asked, found: re.Match[str] | None, number: int) -> None:
        faults = self.owner.faults
        size = path.stat().st_size - faults.short
        end = min(int(found[2]) + 1, size) if found else size
        if asked.start >= size:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with path.open("rb") as file:
            content = bytearray(os.pread(file.fileno(), end - asked.start, asked.start))
        if faults.flip(asked):
            content[len(content) // 2] ^= 1
        self.send_response(206 if found else 200)
        if found:
            claimed = asked.start + (4096 if faults.wrong_range else 0)
            self.send_header("Content-Range", f"bytes {claimed}-{end - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut = faults.cut_after.get(number, faults.cut_all_after)
        sent = content if cut is None else content[:cut]
        self.wfile.write(sent)
        asked.sent = len(sent)
        if cut is not None and cut < len(content):
            self.close_connection = True


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3-compatible server with the bucket `models`."""

    endpoint: str


@contextmanager
def s3_server() -> Iterator[S3Server]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        connection = http.client.HTTPConnection(host, port)
        connection.request("PUT", f"/{BUCKET}")
        assert connection.getresponse().status == 200
        connection.close()
        yield S3Server(endpoint)
    finally:
        server.stop()
