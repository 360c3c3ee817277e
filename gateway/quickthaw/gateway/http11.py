"""uvicorn's HTTP/1.1, with limits on callers that are slow on purpose.

uvicorn bounds idle connections and the size of headers. It bounds neither a caller that sends its
headers one byte at a time or connects and says nothing, nor one that does not read its answer.
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
    _header_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._header_timer = _stop(self._header_timer)
        elif self._header_timer is None:
            # uvicorn has stopped its idle timer: these are the first bytes of another request.
            self._expect_headers()

    def pause_writing(self) -> None:
        """The reader is a full buffer behind; if it takes none of it for long, it is cut off."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.stall_seconds, self._reader_stalled)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall_timer = _stop(self._stall_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_timer = _stop(self._header_timer)
        self._stall_timer = _stop(self._stall_timer)
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.header_seconds, self._headers_are_late)

    def _headers_are_late(self) -> None:
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
