"""uvicorn's HTTP/1.1, with limits on callers that are slow on purpose.

uvicorn bounds idle connections and the size of headers. It bounds neither a caller that sends its
headers one byte at a time or connects and says nothing, nor one that goes on sending a body which
was answered without being read, nor one that does not read its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedHttp11(H11Protocol):
    header_seconds: ClassVar[float] = 10.0
    stall_seconds: ClassVar[float] = 30.0
    on_stall: Callable[[], None]
    _arrival_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_arrival()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn has stopped its idle timer: these bytes belong to another request's headers, or to
        # a body that nobody reads any more.
        if self.conn.their_state is h11.IDLE or self._answered_early():
            self._expect_arrival()
        else:
            self._arrival_timer = _stop(self._arrival_timer)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._answered_early():
            self._expect_arrival()

    def pause_writing(self) -> None:
        """The reader is a full buffer behind; if it takes none of it for long, it is cut off."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.stall_seconds, self._reader_stalled)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall_timer = _stop(self._stall_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrival_timer = _stop(self._arrival_timer)
        self._stall_timer = _stop(self._stall_timer)
        super().connection_lost(exc)

    def _answered_early(self) -> bool:
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _expect_arrival(self) -> None:
        """The whole of it within `header_seconds`, however often this is said meanwhile."""
        if self._arrival_timer is None:
            self._arrival_timer = self.loop.call_later(self.header_seconds, self._is_late)

    def _is_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _reader_stalled(self) -> None:
        self.on_stall()
        # Not close(): that would wait for the buffer to be read.
        self.transport.abort()


def _stop(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What the timer's attribute is to hold from now on."""
    if timer is not None:
        timer.cancel()
    return None


def protocol_with(
    *, header_seconds: float, stall_seconds: float, on_stall: Callable[[], None]
) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn's `http` setting, which takes no arguments of ours."""
    return type(
        "Http11",
        (BoundedHttp11,),
        {
            "header_seconds": header_seconds,
            "stall_seconds": stall_seconds,
            "on_stall": staticmethod(on_stall),
        },
    )
