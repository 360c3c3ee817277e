"""uvicorn's WebSocket connection, with limits on callers that are slow or hostile.

uvicorn and the `websockets` library bound a message's size, answer pings and check the protocol.
They bound neither the number of a message's fragments, nor what the messages of all connections may
hold while they arrive and how long that may take, nor how long a reader may take nothing, and they
log the query, where callers put tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

from starlette.websockets import WebSocketDisconnect
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from quickthaw.gateway.body_room import BodyRoom
from quickthaw.gateway.holders import HOLDER_EXTENSION, address_holder

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
FRAGMENTS_MAX = 16 * 1024
"""Of one message: empty fragments cost the sender next to nothing and would add up here."""
FRAGMENT_BYTES = 64
"""What keeping a fragment takes beside its data."""
logger = logging.getLogger(__name__)
# At level `info` uvicorn writes each connection's path with its query.
logger.setLevel(logging.WARNING)


class _Connection(ServerProtocol):
    reader_is_behind = False

    def send_frame(self, frame: Frame) -> None:
        """A ping is not answered to who takes no answers: they would add up here.

        A goodbye without a code is answered with 1000 and not with the like: fal's JavaScript
        client closes that way, and takes an answer without a code for an error."""
        if frame.opcode is Opcode.PONG and self.reader_is_behind:
            return
        if frame.opcode is Opcode.CLOSE and not frame.data:
            frame = Frame(Opcode.CLOSE, Close(CloseCode.NORMAL_CLOSURE, "").serialize())
        super().send_frame(frame)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """While the application does not receive, uvicorn stops reading, and pings with it: whoever
    runs something meanwhile has to keep receiving."""

    stall_seconds: ClassVar[float] = 30.0
    message_seconds: ClassVar[float] = 60.0
    on_stall: Callable[[], None]
    room: BodyRoom
    _stall_timer: asyncio.TimerHandle | None = None
    _message_timer: asyncio.TimerHandle | None = None

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = logger
        self.conn = self._connection = _Connection(max_size=config.ws_max_size, logger=logger)
        # The library's own debugging text has the request line, and with it the token.
        self.conn.debug = False
        self._fragments_bytes = 0
        self._queued: deque[int] = deque()
        """Sizes of the messages that the application has not received yet."""
        self._held_bytes = 0
        """What is taken of the room."""
        self._holder = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._holder = address_holder(self.client)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope.setdefault("extensions", {})[HOLDER_EXTENSION] = {"tell": self._belongs_to}

    def _belongs_to(self, holder: str) -> None:
        self.room.move(self._holder, holder, self._held_bytes)
        self._holder = holder

    def data_received(self, data: bytes) -> None:
        if not self._hold(self._held_bytes + len(data)):
            self._refuse("too much is arriving at this moment")
            return
        super().data_received(data)
        if not self.handshake_initiated:
            self._refuse_upgrade()
        self._account()

    def _refuse_upgrade(self) -> None:
        """uvicorn hands a whole head over, so that this is one which the library cannot read; it
        would keep the connection open and say nothing."""
        told = "this is no upgrade: GET, no body, 128 headers and 8192 bytes a line at most\n"
        self.transport.write(self.conn.reject(HTTPStatus.BAD_REQUEST, told).serialize())
        self.transport.close()

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if message["type"] == "websocket.receive" and self._queued:
            # It is the application's to count from here on.
            self._queued.popleft()
        self._account()
        return message

    def _account(self) -> None:
        """Holds what is here now: a message in the making, and those that wait."""
        making_bytes = len(self.conn.reader.buffer) + self._fragments_bytes
        if self.disconnected or self.close_sent:
            making_bytes = 0
            self._queued.clear()
        self._hold(making_bytes + sum(self._queued))
        # While nothing is read it is not the caller who is slow.
        if not making_bytes or self.read_paused:
            self._stop_message_timer()
        elif self._message_timer is None:
            self._message_timer = self.loop.call_later(self.message_seconds, self._message_is_late)

    def _hold(self, size_bytes: int) -> bool:
        """So much in place of what is held. False, and nothing changes, if there is no room."""
        if size_bytes > self._held_bytes:
            if not self.room.take(self._holder, size_bytes - self._held_bytes):
                return False
        elif size_bytes < self._held_bytes:
            self.room.give_back(self._holder, self._held_bytes - size_bytes)
        self._held_bytes = size_bytes
        return True

    def _message_is_late(self) -> None:
        self._message_timer = None
        self._refuse(f"a message took longer than {self.message_seconds:g} s to arrive")

    def _refuse(self, why: str) -> None:
        """Nothing more is read of this connection."""
        self.frames, self._fragments_bytes = [], 0
        if self.handshake_complete and not self.close_sent:
            self.conn.fail(CloseCode.TRY_AGAIN_LATER, why)
            self.handle_parser_exception()
        else:
            self.transport.abort()
        self._account()

    def pause_writing(self) -> None:
        """The reader is a full buffer behind; if it takes none of it for long, it is cut off."""
        super().pause_writing()
        self._connection.reader_is_behind = True
        self._stall_timer = self.loop.call_later(self.stall_seconds, self._reader_stalled)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connection.reader_is_behind = False
        self._stop_stall_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_stall_timer()
        super().connection_lost(exc)
        self._account()

    def handle_text(self, event: Frame) -> None:
        self._fragments_bytes = len(event.data) + FRAGMENT_BYTES
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._fragments_bytes = len(event.data) + FRAGMENT_BYTES
        super().handle_bytes(event)

    def send_receive_event_to_app(self) -> None:
        size_bytes, self._fragments_bytes = self._fragments_bytes, 0
        waiting = self.queue.qsize()
        super().send_receive_event_to_app()
        if self.queue.qsize() > waiting:
            self._queued.append(size_bytes)

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return  # More of the batch of frames in which the bound was met.
        if len(self.frames) >= FRAGMENTS_MAX:
            self.frames, self._fragments_bytes = [], 0
            self.conn.fail(1009, f"a message of more than {FRAGMENTS_MAX} fragments")
            self.handle_parser_exception()
            return
        self._fragments_bytes += len(event.data) + FRAGMENT_BYTES
        super().handle_cont(event)

    async def send(self, message: ASGISendEvent) -> None:
        try:
            await super().send(message)
        except ClientDisconnected as error:
            # Starlette takes it for that once the connection is accepted, and not before.
            raise WebSocketDisconnect(CloseCode.ABNORMAL_CLOSURE) from error
        if message["type"] == "websocket.http.response.body":
            # uvicorn takes a refusal for a handshake that was forgotten, and logs an error.
            self.handshake_complete = True

    def _reader_stalled(self) -> None:
        self.on_stall()
        # Not close(): that would wait for the buffer to be read.
        self.transport.abort()

    def _stop_message_timer(self) -> None:
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def websocket_protocol_with(
    *, stall_seconds: float, message_seconds: float, on_stall: Callable[[], None], room: BodyRoom
) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn's `ws` setting, which takes no arguments of ours.

    `room`: for messages on their way, each of which may take `message_seconds` to arrive.
    """
    return type(
        "WebSocket",
        (BoundedWebSocket,),
        {
            "stall_seconds": stall_seconds,
            "message_seconds": message_seconds,
            "on_stall": staticmethod(on_stall),
            "room": room,
        },
    )
