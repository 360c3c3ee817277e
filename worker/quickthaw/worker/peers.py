"""Lets other workers read this one's components: a store's layout over HTTP, read-only.

One thread serves one connection, as each only moves bytes: from a file by the kernel itself, from
the slab by a send that holds no lock of Python's. Everything is bounded: connections, streams at
once, the time that a piece may take to leave.

Who asks must show the token that this process made up and told the scheduler alone, which passes it
on with an Assign. Names are digests and nothing else, so no path leads out of the store. A reader
checks what it gets; nothing here needs to be believed.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO, Protocol

from quickthaw.wire.errors import QuickthawError
from quickthaw.wire.own_certificate import OwnCertificate
from quickthaw.wire.process import Address, address_in_use

logger = logging.getLogger(__name__)

PIECE_BYTES = 4 * 1024 * 1024
TOKEN_BYTES = 32
_NAMES = re.compile(
    r"/(?:(?P<kind>components|deltas)/(?P<weights>[0-9a-f]{64})\.safetensors"
    r"|(?P<blobs>blobs)/(?P<blob>[0-9a-f]{64})"
    r"|(?P<snapshots>snapshots)/(?P<snapshot>[0-9a-f]{64})/manifest\.json)\Z"
)
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})\Z")


class Shelf(Protocol):
    """What can be handed out."""

    def manifest(self, digest: str) -> bytes | None: ...

    def file(self, kind: str, digest: str) -> BinaryIO | None:
        """An open regular file of the store, for the caller to close."""
        ...

    def pinned(self, digest: str) -> tuple[bytes, int] | None:
        """A component in the slab: its file's header, and the size of its data. Never waits."""
        ...

    def pieces(self, digest: str, start: int, end: int) -> Generator[memoryview, None, None]:
        """Data bytes of a pinned component; each piece is valid until the next is asked for.
        Ends early if the component leaves the slab."""
        ...


class PeerServer:
    """Listens at once, and answers 503 until `shelf` is set. Raises AddressInUse."""

    def __init__(
        self,
        address: Address,
        *,
        url: str | None = None,
        streams_max: int = 16,
        timeout_seconds: float = 30.0,
        certificate: OwnCertificate | None = None,
    ) -> None:
        """`certificate` None is for plain text."""
        self.certificate = certificate
        self.shelf: Shelf | None = None
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        """What readers must show; new in each process."""
        self.streams = threading.BoundedSemaphore(streams_max)
        self.timeout_seconds = timeout_seconds
        self.on_sent: Callable[[int], None] = lambda _nbytes: None
        try:
            self._http = _Server(self, (address.host, address.port), 4 * streams_max)
        except OSError as error:
            raise address_in_use("the peers' server", address) from error
        self.address = Address(address.host, self._http.server_port)
        scheme = "http" if certificate is None else "https"
        self.url = url or f"{scheme}://{_reachable(self.address)}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, name="peers", args=(0.1,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """No new streams; those under way are cut by the end of the process."""
        self.shelf = None
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _reachable(address: Address) -> Address:
    """Who listens everywhere is reached by its host's name."""
    everywhere = address.host in ("0.0.0.0", "::")
    return Address(socket.getfqdn() if everywhere else address.host, address.port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, owner: PeerServer, address: tuple[str, int], connections_max: int) -> None:
        self.owner = owner
        self._connections = threading.BoundedSemaphore(connections_max)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        if (own := self.owner.certificate) is None:
            return connection, address
        own.refresh()
        # The handshake comes with the first read, in the connection's own thread and time.
        secure = own.context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return secure, address

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)  # who asks tries again later, or elsewhere
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads: it never comes to the end of one
            self._connections.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: object, client_address: object) -> None:
        logger.debug("a peer's connection broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "quickthaw"
    sys_version = ""

    @property
    def _owner(self) -> PeerServer:
        assert isinstance(self.server, _Server)
        return self.server.owner

    def setup(self) -> None:
        self.request.settimeout(self._owner.timeout_seconds)
        super().setup()

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)

    def do_GET(self) -> None:
        owner = self._owner
        shown = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(shown, f"Bearer {owner.token}".encode()):
            self._refuse(401)
        elif owner.shelf is None:
            self._refuse(503, ("Retry-After", "1"))
        elif (found := _NAMES.match(self.path)) is None:
            self._refuse(404)
        elif not owner.streams.acquire(blocking=False):
            self._refuse(503, ("Retry-After", "1"))
        else:
            try:
                self._answer(owner.shelf, found)
            except (OSError, QuickthawError):
                self.close_connection = True
                raise
            finally:
                owner.streams.release()

    def _answer(self, shelf: Shelf, found: re.Match[str]) -> None:
        if found["snapshots"]:
            encoded = shelf.manifest(found["snapshot"])
            if encoded is None:
                self._refuse(404)
            elif self._begin(len(encoded)) is not None:
                self.wfile.write(encoded)
            return
        kind, digest = found["kind"] or "blobs", found["weights"] or found["blob"]
        if kind == "components" and (held := shelf.pinned(digest)) is not None:
            self._send_pinned(shelf, digest, *held)
        elif (file := shelf.file(kind, digest)) is not None:
            with file:
                self._send_file(file)
        else:
            self._refuse(404)

    def _send_pinned(self, shelf: Shelf, digest: str, header: bytes, data_bytes: int) -> None:
        span = self._begin(len(header) + data_bytes)
        if span is None:
            return
        start, end = span
        first = header[start:end]
        self.wfile.write(first)
        left = end - start - len(first)
        data_start = max(start - len(header), 0)
        with contextlib.closing(shelf.pieces(digest, data_start, data_start + left)) as pieces:
            for piece in pieces:
                self.connection.sendall(piece)
                left -= piece.nbytes
                self._owner.on_sent(piece.nbytes)
        if left:
            self.close_connection = True  # it left the slab: the reader goes on elsewhere

    def _send_file(self, file: BinaryIO) -> None:
        span = self._begin(os.fstat(file.fileno()).st_size)
        if span is None:
            return
        start, end = span
        while start < end:
            sent = self.connection.sendfile(file, start, min(PIECE_BYTES, end - start))
            if sent == 0:
                self.close_connection = True  # the file was cut meanwhile
                return
            start += sent
            self._owner.on_sent(sent)

    def _begin(self, size: int) -> tuple[int, int] | None:
        """The head of the answer; the asked part of a file of `size` bytes, or None if refused."""
        asked = self.headers.get("Range")
        if asked is None:
            start, end = 0, size
        else:
            found = _RANGE.match(asked)
            start = int(found[1]) if found else size
            end = min(int(found[2]) + 1, size) if found and found[2] else size
            if start >= end:
                self._refuse(416, ("Content-Range", f"bytes */{size}"))
                return None
        self.send_response(200 if asked is None else 206)
        if asked is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.flush()
        return start, end

    def _refuse(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", "0")):
            self.send_header(name, value)
        self.end_headers()
