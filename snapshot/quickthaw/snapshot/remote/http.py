"""Reading a store from a web server or from another worker, straight into place.

The standard library's client, because its sockets read into memory that is ours: measured on
loopback that is the cost of a bare `recv` (0.22 CPU-seconds a GB; 0.42 through obstore's stream and
up to 0.8 through its ranges, which copy twice), and this is the path of a cold start.
"""

from __future__ import annotations

import functools
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote, urljoin, urlsplit

from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.remote.base import RangesUnsupported, RemoteSettings
from quickthaw.snapshot.remote.retrying import Transient, Tries
from quickthaw.wire.errors import NotFound, PermissionDenied, SettingsInvalid, StoreUnavailable

_REDIRECTS_MAX = 3
_READ_BYTES = 4 * 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")


class HttpRemote:
    """A folder on a web server, `http://` or `https://`. `token` is sent to that server alone.

    `tls` gives what a new connection to it trusts; None for the system's roots.
    """

    def __init__(
        self,
        url: str,
        settings: RemoteSettings,
        *,
        token: str = "",
        kind: str = "remote",
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise SettingsInvalid(
                f"{parts.scheme}://{parts.hostname}{parts.path} has credentials, a query or a "
                "fragment in it; give the plain address of a folder"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsInvalid(f"{url!r:.200} is no address of a web server")
        self.name = url.rstrip("/")
        self.kind = kind
        self._root = self.name + "/"
        self._place = _place(self._root)
        self._settings = settings
        self._token = token
        self._system_tls = functools.cache(lambda: ssl.create_default_context())
        self._tls = (tls or self._system_tls) if parts.scheme == "https" else None
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def __repr__(self) -> str:
        return f"HttpRemote({self.name!r})"

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # ---- reading -------------------------------------------------------------------------------

    def read_small(self, path: str, bytes_max: int) -> bytes:
        tries = Tries(self._settings, self.name)
        while True:
            try:
                with self._get(path, None) as (response, deadline):
                    content = bytearray()
                    while piece := response.read1(_READ_BYTES):
                        content += piece
                        if len(content) > bytes_max:
                            invalid(
                                Problem.MANIFEST,
                                f"{self.name}/{path}",
                                f"larger than the limit of {bytes_max} bytes",
                            )
                        _check(deadline)
                    wanted = response.headers.get("Content-Length", "")
                    if wanted.isdecimal() and len(content) != int(wanted):
                        raise Transient("the connection was cut")
                    return bytes(content)
            except Transient as error:
                tries.failed(error)

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        tries = Tries(self._settings, self.name)
        done = 0
        while done < target.nbytes:
            try:
                with self._get(path, (start + done, start + target.nbytes)) as (response, deadline):
                    wanted, last = self._span(response, path, start + done, target.nbytes - done)
                    until = done + wanted
                    while done < until:
                        done += _receive(response, target[done:until])
                        _check(deadline)
                    if last:
                        return done
            except Transient as error:
                tries.failed(error)
            except _PastTheEnd:
                return done
        return done

    def stream(self, path: str, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        """A whole file from its start in one request, for servers without ranges: fills each of
        `pieces` and yields it. A break ends it: there is no way to go on in the middle."""
        try:
            with self._get(path, None) as (response, _deadline):
                for piece in pieces:
                    done = 0
                    while done < piece.nbytes:
                        done += _receive(response, piece[done:])
                    yield piece
        except Transient as error:
            raise StoreUnavailable(
                f"{self.name}/{path}: {error}; the server sends whole files only, so repeating "
                "starts the file again",
                metadata={"remote": self.name},
            ) from error

    def _span(
        self, response: http.client.HTTPResponse, path: str, start: int, nbytes: int
    ) -> tuple[int, bool]:
        """How many bytes follow and whether the file ends there. Raises for an answer to some
        other question."""
        length = response.headers.get("Content-Length", "")
        if response.status == 200:
            if start == 0 and length.isdecimal() and int(length) <= nbytes:
                return int(length), True
            raise RangesUnsupported(f"{self.name} sends whole files only")
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start or not length.isdecimal():
            raise self._wrong(path, f"answered with another range than bytes from {start}")
        count = int(found[2]) + 1 - start
        if count != int(length) or not 0 < count <= nbytes:
            raise self._wrong(path, f"answered with {length} bytes where {nbytes} were asked for")
        return count, found[3] != "*" and int(found[3]) == start + count

    def _wrong(self, path: str, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.name}/{path}: the server {what}; it, or a proxy before it, is broken",
            metadata={"remote": self.name},
        )

    # ---- requests ------------------------------------------------------------------------------

    @contextmanager
    def _get(
        self, path: str, span: tuple[int, int] | None
    ) -> Iterator[tuple[http.client.HTTPResponse, float]]:
        """One answered request, with the moment by which it must be through. The connection is
        kept for the next one if the answer was read to its end."""
        deadline = time.monotonic() + self._settings.request_seconds
        url = self._root + quote(path)
        for _ in range(_REDIRECTS_MAX):
            connection, fresh = self._connection(url)
            kept = False
            try:
                response = self._ask(connection, url, span, fresh)
                if response.status in (301, 302, 303, 307, 308):
                    url = self._redirected(url, response)
                    continue
                self._check_status(response, path)
                yield response, deadline
                kept = not response.will_close and response.length == 0
                response.close()
                return
            except (OSError, http.client.HTTPException) as error:
                raise Transient(_described(error)) from error
            finally:
                self._give_back(connection, url, kept)
        raise self._wrong(path, f"redirected more than {_REDIRECTS_MAX} times")

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        url: str,
        span: tuple[int, int] | None,
        fresh: bool,
    ) -> http.client.HTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "quickthaw"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        if self._token and _place(url) == self._place:
            headers["Authorization"] = f"Bearer {self._token}"
        target = urlsplit(url)
        asked = target.path + (f"?{target.query}" if target.query else "")
        try:
            connection.request("GET", asked, headers=headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException):
            if fresh:
                raise
            # The server had closed an idle connection, which says nothing about the next one.
            connection.close()
            self._connect(connection)
            connection.request("GET", asked, headers=headers)
            return connection.getresponse()

    def _connection(self, url: str) -> tuple[http.client.HTTPConnection, bool]:
        scheme, host, port = _place(url)
        if (scheme, host, port) == self._place:
            with self._lock:
                if self._idle:
                    return self._idle.pop(), False
        connection: http.client.HTTPConnection
        if scheme == "https":
            own = self._tls if (scheme, host, port) == self._place else None
            context = (own or self._system_tls)()
            connection = http.client.HTTPSConnection(host, port, context=context)
        else:
            connection = http.client.HTTPConnection(host, port)
        try:
            self._connect(connection)
        except OSError as error:
            connection.close()
            raise Transient(_described(error)) from error
        return connection, True

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        connection.timeout = self._settings.connect_seconds
        connection.connect()
        connection.sock.settimeout(self._settings.read_seconds)

    def _give_back(self, connection: http.client.HTTPConnection, url: str, kept: bool) -> None:
        if kept and _place(url) == self._place:
            with self._lock:
                if len(self._idle) < self._settings.parallel:
                    self._idle.append(connection)
                    return
        connection.close()

    def _redirected(self, url: str, response: http.client.HTTPResponse) -> str:
        target = urljoin(url, response.headers.get("Location", ""))
        scheme = urlsplit(target).scheme
        if scheme not in ("http", "https") or (self._tls is not None and scheme != "https"):
            raise self._wrong(urlsplit(url).path, "redirected to where it is not safe to follow")
        return target

    def _check_status(self, response: http.client.HTTPResponse, path: str) -> None:
        status, where = response.status, f"{self.name}/{path}"
        if status in (200, 206):
            return
        if status == 416:
            raise _PastTheEnd
        if status in (401, 403):
            raise PermissionDenied(
                f"{where}: the server refused access (HTTP {status}); check what may be read there",
                metadata={"remote": self.name},
            )
        if status in (404, 410):
            raise NotFound(f"{where} does not exist", metadata={"remote": self.name})
        if status in (408, 425, 429) or status >= 500:
            delay = response.headers.get("Retry-After", "")
            raise Transient(f"HTTP {status}", float(delay) if delay.isdecimal() else None)
        raise self._wrong(path, f"answered with HTTP {status}")


class _PastTheEnd(Exception):
    """Nothing there from the asked byte on."""


def _receive(response: http.client.HTTPResponse, target: memoryview) -> int:
    """What one read from the socket brings, put into `target`."""
    count = response.fp.readinto1(target[:_READ_BYTES]) if response.fp is not None else 0
    if count == 0:
        raise Transient("the connection was cut")
    if response.length is not None:
        response.length -= count
    return count


def _check(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Transient("the server is too slow")


def _place(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
    )


def _described(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "nobody listens there"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
        case socket.gaierror():
            return "the host's name is unknown"
        case http.client.IncompleteRead() | http.client.RemoteDisconnected() | ConnectionError():
            return "the connection was cut"
        case _:
            return f"the network failed ({type(error).__name__})"
