"""One listening port for three kinds of connection, told apart by their first bytes.

A TLS ClientHello begins with 0x16; `CONNECT host:443` asks for a tunnel, which ends right here and
in which TLS or plain HTTP follows; everything else is plain HTTP. The first bytes are only peeked
at, so the HTTP server gets the socket as if it had accepted it: nothing is copied between sockets,
and the caller's address is the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from quickthaw.gateway.door.names import CONNECT_NAMES

logger = logging.getLogger(__name__)

HEAD_BYTES_MAX: Final = 8 * 1024
"""Of a CONNECT request. A user agent and a proxy authorization fit many times."""
DISMISS_READS_MAX: Final = 16
UNSENT_BYTES_MAX: Final = 128 * 1024
"""Of one connection, in the kernel: what is under way to its reader does not count."""
_TLS_HANDSHAKE: Final = 0x16
_NO_HANDSHAKE: Final = b"\x15\x03\x01\x00\x02\x02\x28"
"""A TLS alert, fatal, handshake_failure: what a TLS client understands where TLS is not offered."""
_CONNECT: Final = b"CONNECT "
_ACCEPT_PAUSE_SECONDS: Final = 0.1
_OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ITS_OWN: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPERM),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENONET),
    }
)
"""What Linux says of one connection where it says it of the listening socket: see accept(2)."""


class Refused(Exception):
    """The connection cannot be served; `answer` is the last that it gets."""

    def __init__(self, answer: bytes = b"") -> None:
        super().__init__()
        self.answer = answer


class Port:
    """Serves `listener` until closed.

    `make_protocol` makes the HTTP server's protocol for one connection. `tls`: None where TLS is
    not offered. At most `undecided_max` connections may be looked at at once, each for at most
    `head_seconds`; what is admitted the HTTP server bounds itself, but for a peer that takes none
    of the last bytes, or has vanished: the kernel gives that up after `stall_seconds`, or after
    three times as long in which there was nothing to say.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        *,
        head_seconds: float,
        stall_seconds: float,
        undecided_max: int,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._tls = tls
        self._head_seconds = head_seconds
        self._stall_seconds = stall_seconds
        self._undecided = asyncio.Semaphore(undecided_max)
        self._admitting: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accepts for as long as it is not cancelled; then what is undecided is closed."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._undecided.acquire()
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    self._undecided.release()
                    await self._bear(error)
                    continue
                except BaseException:
                    self._undecided.release()
                    raise
                task = loop.create_task(self._admit(connection))
                self._admitting.add(task)
                task.add_done_callback(self._decided)
        finally:
            for task in self._admitting:
                task.cancel()
            await asyncio.gather(*self._admitting, return_exceptions=True)

    def _decided(self, task: asyncio.Task[None]) -> None:
        self._admitting.discard(task)
        self._undecided.release()

    async def _bear(self, error: OSError) -> None:
        """A connection that broke before it was accepted is nothing; no more files is a pause."""
        if error.errno in _OUT_OF_FILES:
            logger.warning("cannot accept connections: %s", error)
            await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
        elif error.errno not in _ITS_OWN:
            raise error

    async def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            async with asyncio.timeout(self._head_seconds):
                tls = await self._decide(connection, tunnelled=False)
            # The loop owns the socket from here on, also if the handshake fails.
            connection = await self._hand_over(connection, tls)
        except Refused as refused:
            _dismiss(connection, refused.answer)
        except (OSError, TimeoutError):
            connection.close()
        except BaseException:
            connection.close()
            raise

    async def _hand_over(
        self, connection: socket.socket, tls: ssl.SSLContext | None
    ) -> socket.socket:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            _bound(connection, self._stall_seconds)
        await loop.connect_accepted_socket(
            self._make_protocol,
            connection,
            ssl=tls,
            ssl_handshake_timeout=self._head_seconds if tls is not None else None,
        )
        return connection

    async def _decide(self, connection: socket.socket, *, tunnelled: bool) -> ssl.SSLContext | None:
        """The context of a TLS connection, None for plain HTTP; a CONNECT is answered on the way.

        Raises Refused, and OSError for a connection that ends meanwhile.
        """
        first = await _peek(connection, 1)
        if not first:
            raise Refused
        if first[0] == _TLS_HANDSHAKE:
            if self._tls is None:
                raise Refused(_NO_HANDSHAKE)
            return self._tls
        if first[:1] == _CONNECT[:1]:
            first = await _peek(connection, len(_CONNECT))
        if not first.startswith(_CONNECT):
            return None
        if tunnelled:
            raise Refused(_answer(400, "Bad Request", "a tunnel within a tunnel leads nowhere"))
        await self._open_tunnel(connection)
        return await self._decide(connection, tunnelled=True)

    async def _open_tunnel(self, connection: socket.socket) -> None:
        head = await _peek(connection, len(_CONNECT) + 1)
        while (end := head.find(b"\r\n\r\n")) < 0:
            if len(head) >= HEAD_BYTES_MAX:
                raise Refused(_answer(431, "Request Header Fields Too Large", "CONNECT"))
            longer = await _peek(connection, len(head) + 1)
            if len(longer) <= len(head):
                raise Refused  # it closed its side
            head = longer
        target = head.split(b" ", 2)[1].split(b"\r", 1)[0].decode("latin-1")
        connection.recv(end + len(b"\r\n\r\n"))
        host, _, port = target.rpartition(":")
        if host.lower().rstrip(".") not in CONNECT_NAMES or port not in ("443", "80"):
            told = (
                f"{target[:200]} is not one of the names that this gateway answers for "
                f"({', '.join(sorted(CONNECT_NAMES))}); it is no proxy for anything else"
            )
            raise Refused(_answer(403, "Forbidden", told))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, b"HTTP/1.1 200 Connection established\r\n\r\n")


def _bound(connection: socket.socket, stall_seconds: float) -> None:
    """What the kernel keeps for a reader that does not read, and for how long.

    Nobody else ends a connection that is closed on our side and whose last bytes fit a buffer, or
    whose peer vanished without a word while it waits for a run to end.
    """
    seconds = max(1, round(stall_seconds))
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX),
        (socket.TCP_USER_TIMEOUT, 1000 * seconds),
        (socket.TCP_KEEPIDLE, 2 * seconds),
        (socket.TCP_KEEPINTVL, seconds),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def _peek(connection: socket.socket, at_least: int) -> bytes:
    """What has arrived, as soon as that is `at_least` bytes; less only if the other side ended.

    The bytes stay where they are. The low-water mark keeps the loop from being woken for bytes that
    were seen already.
    """
    loop = asyncio.get_running_loop()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, at_least)
    readable: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, ready)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    try:
        return connection.recv(HEAD_BYTES_MAX, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def _dismiss(connection: socket.socket, answer: bytes) -> None:
    """Says a last word and closes. Unread bytes would reset the connection under that word."""
    with contextlib.suppress(OSError):
        for _ in range(DISMISS_READS_MAX):
            if not connection.recv(HEAD_BYTES_MAX):
                break
    with contextlib.suppress(OSError):
        connection.send(answer)
    connection.close()


def _answer(status: int, phrase: str, text: str) -> bytes:
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
