"""Reading what a caller sends, within bounds of size and time, and noticing that it left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Receive

from quickthaw.gateway.answers import ClientGone, HttpError
from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.json_text import JsonObject, parse_object
from quickthaw.gateway.settings import Limits

T = TypeVar("T")


async def read_arguments(request: Request, limits: Limits) -> JsonObject:
    """The body as a JSON object, whatever its declared type. Raises HttpError, ClientGone."""
    return parse_object(await read_body(request, limits))


async def read_body(request: Request, limits: Limits) -> bytes:
    """Raises HttpError 408, 413 or 503, ClientGone."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.body_bytes_max:
        raise _too_large(limits)
    gateway = gateway_of(request)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            with gateway.body_room.arriving(gateway.holders.of(request)) as take:
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    piece = message.get("body", b"")
                    take(len(piece))
                    body += piece
                    if len(body) > limits.body_bytes_max:
                        raise _too_large(limits)
                    if not message.get("more_body", False):
                        return bytes(body)
    except TimeoutError as error:
        raise HttpError(
            408,
            f"the body did not arrive within {limits.body_seconds:g} s; send it again",
            "request_timeout",
            # What is left of the body would be read as the next request.
            {"connection": "close"},
        ) from error


def declared_bytes(request: Request, bytes_max: int) -> int | None:
    """The length that the body says it has. Raises HttpError 413 if that is too much."""
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal():
        return None
    if int(declared) > bytes_max:
        raise _file_too_large(bytes_max)
    return int(declared)


async def body_pieces(request: Request, limits: Limits, bytes_max: int) -> AsyncIterator[bytes]:
    """A body of any length up to `bytes_max` as it comes. Raises HttpError, ClientGone.

    HttpError 408 for silence, and for a sender who is only ever just not silent. What the reader of
    the pieces takes for each is not the sender's time.
    """
    now = asyncio.get_running_loop().time
    seen_bytes, waited_seconds = 0, 0.0
    while True:
        earned_seconds = seen_bytes / limits.upload_bytes_per_second_min
        left_seconds = limits.body_seconds + min(0.0, earned_seconds - waited_seconds)
        asked_at = now()
        try:
            async with asyncio.timeout(max(0.0, left_seconds)):
                message = await request.receive()
        except TimeoutError as error:
            raise HttpError(
                408,
                f"nothing came for {limits.body_seconds:g} s, or less than "
                f"{limits.upload_bytes_per_second_min} bytes a second; send the file again",
                "request_timeout",
                {"connection": "close"},
            ) from error
        waited_seconds += now() - asked_at
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        seen_bytes += len(piece)
        if seen_bytes > bytes_max:
            raise _file_too_large(bytes_max)
        if piece:
            yield piece
        if not message.get("more_body", False):
            return


def _file_too_large(bytes_max: int) -> HttpError:
    return HttpError(
        413,
        f"this is over {bytes_max} bytes, the most that is taken at once",
        "file_too_large",
        {"connection": "close"},
    )


def _too_large(limits: Limits) -> HttpError:
    return HttpError(
        413,
        f"the body is over {limits.body_bytes_max} bytes; send files by URL instead",
        "bad_request",
        {"connection": "close"},
    )


async def until_gone(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """Runs `work` for as long as the caller listens. Raises ClientGone, with `work` cancelled.

    Only after the whole body was read: from then on `receive` has nothing to say but goodbye.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for pending in (task, gone):
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pending


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
