"""A web server on loopback, in a process of its own: what a remote tier is measured against.

The network between is the machine's own memory, and the files are in the page cache: what is
measured is the client. Not `sendfile`, which costs less: pages that wait in a socket for a client
that lost interest could not be dropped for the next cold row.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

STORE, FOLDER = "store", "folder"
"""The first part of a path: the snapshot store, or the folder with what peers read."""

START_SECONDS_MAX = 60.0
_SEND_BYTES = 1 << 20
_HEAD_BYTES = 4096
_HEAD_ENDS = b"\r\n\r\n"
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})\Z")


@contextmanager
def serving(roots: Mapping[str, Path]) -> Iterator[str]:
    """The server's URL; it ends with the block."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, dict(roots)), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(START_SECONDS_MAX):
            raise OSError("the loopback web server did not start")
        port: int = ours.recv()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.join()
        ours.close()


class RangeReader:
    """Reads ranges of files over one connection, by a plain socket: as little work as there can be.

    Not thread-safe. Raises `OSError` when the server answers with anything but the range.
    """

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        host, _, port = self._host.partition(":")
        self._socket = socket.create_connection((host, int(port)))

    def read_into(self, path: str, start: int, target: memoryview) -> None:
        """Fills `target` from byte `start` of a file."""
        last = start + target.nbytes - 1
        asked = f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nRange: bytes={start}-{last}\r\n\r\n"
        self._socket.sendall(asked.encode())
        done = self._skip_head(target)
        while done < target.nbytes:
            if not (count := self._socket.recv_into(target[done:], 0, socket.MSG_WAITALL)):
                raise OSError("the web server hung up")
            done += count

    def close(self) -> None:
        self._socket.close()

    def _skip_head(self, target: memoryview) -> int:
        """Puts what came along with the answer's head into `target`; returns how much that is."""
        head = b""
        while _HEAD_ENDS not in head:
            if not (more := self._socket.recv(_HEAD_BYTES)):
                raise OSError("the web server hung up")
            head += more
        head, _, body = head.partition(_HEAD_ENDS)
        status, *fields = head.split(b"\r\n")
        if not status.startswith(b"HTTP/1.1 206 "):
            raise OSError(f"the web server answered {status.decode()!r}")
        if f"Content-Length: {target.nbytes}".encode() not in fields:
            raise OSError("a download came back short; this floor would be too good")
        target[: len(body)] = body
        return len(body)


def _serve(pipe: Connection[int, None], roots: dict[str, Path]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process

    class Handler(_Handler):
        folders = roots

    server = _Server(("127.0.0.1", 0), Handler)
    pipe.send(server.server_port)
    pipe.close()
    server.serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nobody's business; what it missed, it will say itself."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    folders: ClassVar[Mapping[str, Path]] = {}

    def do_GET(self) -> None:  # the base class's name for it
        root, _, rest = self.path.lstrip("/").partition("/")
        folder = self.folders.get(root)
        path = None if folder is None else (folder / rest).resolve()
        if folder is None or path is None or not path.is_relative_to(folder.resolve()):
            self.send_error(404)
            return
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            self.send_error(404)
            return
        try:
            self._send(descriptor)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # whoever asked has had enough
        finally:
            os.close(descriptor)

    def _send(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        found = _RANGE.match(self.headers.get("Range", ""))
        start, end = 0, size
        if found is not None:
            start = int(found[1])
            end = min(int(found[2]) + 1, size) if found[2] else size
        if start >= end and size:
            self.send_error(416)
            return
        self.send_response(200 if found is None else 206)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if found is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        self.wfile.flush()
        buffer = memoryview(bytearray(_SEND_BYTES))
        while start < end:
            count = os.preadv(descriptor, [buffer[: min(_SEND_BYTES, end - start)]], start)
            if count == 0:
                self.close_connection = True  # the file was cut; let the client notice
                return
            self.connection.sendall(buffer[:count])
            start += count

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""
