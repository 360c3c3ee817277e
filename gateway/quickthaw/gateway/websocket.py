"""uvicorn's WebSocket connection, with limits on callers that are slow or hostile.

uvicorn and the `websockets` library bound a message's size, answer pings and check the protocol.
They bound neither the number of a message's fragments nor how long a reader may take nothing, and
they log the query, where callers put tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, ClassVar

from starlette.websockets import WebSocketDisconnect
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.server import ServerProtocol

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
FRAGMENTS_MAX = 16 * 1024
"""Of one message: empty fragments cost the sender next to nothing and would add up here."""
logger = logging.getLogger(__name__)
# At level `info` uvicorn writes each connection's path with its query.
logger.setLevel(logging.WARNING)


class _Connection(ServerProtocol):
    def send_frame(self, frame: Frame) -> None:
        """A goodbye without a code is answered with 1000 and not with the like: fal's JavaScript
        client closes that way, and takes an answer without a code for an error."""
        if frame.opcode is Opcode.CLOSE and not frame.data:
            frame = Frame(Opcode.CLOSE, Close(CloseCode.NORMAL_CLOSURE, "").serialize())
        super().send_frame(frame)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """While the application does not receive, uvicorn stops reading, and pings with it: whoever
    runs something meanwhile has to keep receiving."""

    stall_seconds: ClassVar[float] = 30.0
    on_stall: Callable[[], None]
    _stall_timer: asyncio.TimerHandle | None = None

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = logger
        self.conn = _Connection(max_size=config.ws_max_size, logger=logger)
        # The library's own debugging text has the request line, and with it the token.
        self.conn.debug = False

    def pause_writing(self) -> None:
        """The reader is a full buffer behind; if it takes none of it for long, it is cut off."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.stall_seconds, self._reader_stalled)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_stall_timer()
        super().connection_lost(exc)

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return  # More of the batch of frames in which the bound was met.
        if len(self.frames) >= FRAGMENTS_MAX:
            self.frames = []
            self.conn.fail(1009, f"a message of more than {FRAGMENTS_MAX} fragments")
            self.handle_parser_exception()
            return
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

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def websocket_protocol_with(
    *, stall_seconds: float, on_stall: Callable[[], None]
) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn's `ws` setting, which takes no arguments of ours."""
    return type(
        "WebSocket",
        (BoundedWebSocket,),
        {"stall_seconds": stall_seconds, "on_stall": staticmethod(on_stall)},
    )
