"""What happens to every request before and after its handler, whatever the surface.

Routing by host and prefix, a request id, CORS, errors turned into answers, one access log line, and
metrics. The handlers behind it raise; nobody else turns an exception into bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from quickthaw.gateway.answers import NO_ROUTE, ClientGone, ErrorAnswer, HttpError
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.cors import preflight
from quickthaw.gateway.errors import CLIENT_CLOSED_REQUEST, error_answer
from quickthaw.gateway.respond import REQUEST_ID_HEADER, answer_and_linger, error_response
from quickthaw.gateway.surfaces import route_path, surface_of
from quickthaw.wire.errors import QuickthawError, Unavailable
from quickthaw.wire.status import translate

logger = logging.getLogger("quickthaw.gateway.access")

SWITCHING_PROTOCOLS = 101

_PATH_CHARS_MAX = 300
_SECRET_PATHS = frozenset({"files", "cdn", "v1"})
_BEGINNINGS = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    surface: str
    method: str
    path: str
    client: str
    request_id: str
    """For the answer's header; handlers replace it by the platform's request id once they know."""
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    """0 until the answer began."""
    first_byte_seconds: float = 0.0
    sent_bytes: int = 0


def exchange_of(request: HTTPConnection) -> Exchange:
    exchange = request.state.exchange
    assert isinstance(exchange, Exchange)
    return exchange


class Front:
    """The gateway's ASGI application."""

    def __init__(
        self,
        router: Router,
        gateway: Gateway,
        dialects: Mapping[str, Callable[[ErrorAnswer], Response]],
    ) -> None:
        """`dialects`: how a surface says errors, where that is not fal's way."""
        self._router = router
        self._gateway = gateway
        self._dialects = dialects
        self._open_websockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] in ("http", "websocket"), "the server offers no lifespan"
        headers = Headers(scope=scope)
        path = route_path(headers.get("host", ""), scope["path"])
        exchange = _exchange(scope, path)
        inner: Scope = {
            **scope,
            "path": path,
            "app": self,  # Makes the router raise its 404 and 405, which become answers here.
            "state": {"gateway": self._gateway, "exchange": exchange},
        }
        cors = self._gateway.cors.answer_headers(headers.get("origin"))
        is_websocket = scope["type"] == "websocket"
        self._open_websockets += is_websocket
        with self._gateway.metrics.open_requests.labels(exchange.surface).track_inprogress():
            try:
                await self._answer(inner, headers, receive, _observed(send, exchange, cors))
            finally:
                self._open_websockets -= is_websocket
                self._record(exchange)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["state"]["exchange"]
        try:
            if scope["type"] == "websocket":
                self._check_room()
                self._check_origin(headers)
            else:
                _check_framing(headers)
            if exchange.method == "OPTIONS":
                await preflight(headers)(scope, receive, send)
            else:
                await self._router(scope, receive, send)
        except ClientGone:
            exchange.status = CLIENT_CLOSED_REQUEST
        except WebSocketDisconnect:
            exchange.status = exchange.status or CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            if exchange.status or not self._gateway.draining:
                raise
            await self._said(exchange, error_answer(_going_away()))(scope, receive, send)
        except Exception as error:
            answer = self._error_answer(error)
            if exchange.status:
                # Too late for a status: ending without the last chunk tells the reader.
                logger.warning("answer to %s broke off: %s", exchange.request_id, answer.text)
                if exchange.status == SWITCHING_PROTOCOLS:
                    await send({"type": "websocket.close", "code": 1011})
                return
            said = self._said(exchange, answer)
            if scope["type"] == "http" and said.headers.get("connection") == "close":
                await answer_and_linger(said, scope, receive, send)
            else:
                await said(scope, receive, send)

    def _check_room(self) -> None:
        limit = self._gateway.limits.websockets_max
        if self._open_websockets > limit:
            raise Unavailable(
                f"{limit} WebSockets are open here; try again later", retry_delay_seconds=5.0
            )

    def _check_origin(self, headers: Headers) -> None:
        """Browsers ask no leave for a WebSocket, so that nothing else keeps a page from one."""
        if not self._gateway.cors.admits(headers.get("origin")):
            raise HttpError(403, "pages of this origin may not call here", "auth_error")

    def _said(self, exchange: Exchange, answer: ErrorAnswer) -> Response:
        if (dialect := self._dialects.get(exchange.surface)) is not None:
            return dialect(answer)
        return error_response(answer, self._gateway.public_url)

    def _error_answer(self, error: Exception) -> ErrorAnswer:
        match error:
            case HttpError():
                reason, answer = error.answer.error_type or "INVALID_INPUT", error.answer
            case HTTPException():
                reason, answer = "ROUTE", _route_answer(error)
            case QuickthawError():
                reason, answer = error.reason, error_answer(error)
            case _:
                ours = translate(error)
                reason, answer = ours.reason, error_answer(ours)
        self._gateway.metrics.errors.labels(reason.upper()).inc()
        return answer

    def _record(self, exchange: Exchange) -> None:
        metrics = self._gateway.metrics
        seconds = time.perf_counter() - exchange.started
        status = exchange.status or CLIENT_CLOSED_REQUEST
        metrics.requests.labels(exchange.surface, str(status)).inc()
        metrics.request_seconds.labels(exchange.surface).observe(seconds)
        metrics.first_byte_seconds.labels(exchange.surface).observe(
            exchange.first_byte_seconds or seconds
        )
        metrics.sent_bytes.labels(exchange.surface).inc(exchange.sent_bytes)
        fields: dict[str, object] = {
            "client": exchange.client,
            "method": exchange.method,
            "path": exchange.path,
            "surface": exchange.surface,
            "status": status,
            "seconds": round(seconds, 6),
            "first_byte_seconds": round(exchange.first_byte_seconds, 6),
            "sent_bytes": exchange.sent_bytes,
            "request_id": exchange.request_id,
        }
        logger.info(
            " ".join(f"{name}={value}" for name, value in fields.items()), extra={"fields": fields}
        )


def _going_away() -> Unavailable:
    return Unavailable("the gateway is shutting down; try again", retry_delay_seconds=1.0)


def _exchange(scope: Scope, path: str) -> Exchange:
    surface = surface_of(path)
    client = scope.get("client")
    return Exchange(
        surface=surface,
        method=scope.get("method", "WEBSOCKET"),
        path=_path_for_log(surface, path),
        client=client[0] if client else "-",
        request_id=str(uuid.uuid4()),
    )


def _path_for_log(surface: str, path: str) -> str:
    """A link to a file, or to upload one, is a capability, whose id may stand behind other prefixes
    as well; a query may hold a token. Neither is for a log."""
    if surface in _SECRET_PATHS:
        return f"/{surface}/..."
    before, files, _ = path.partition("/files/")
    return quote(before + files)[:_PATH_CHARS_MAX]


def _check_framing(headers: Headers) -> None:
    """Raises HttpError for a body that two readers could see the end of in two places, and for one
    that is small here and large when unpacked."""
    if "transfer-encoding" in headers and "content-length" in headers:
        raise HttpError(
            400,
            "send Content-Length or Transfer-Encoding and not both",
            "bad_request",
            {"connection": "close"},
        )
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise HttpError(
            415,
            "bodies are taken as they are: send it without Content-Encoding",
            "bad_request",
            {"connection": "close"},
        )


_FAL_REQUEST_ID = (REQUEST_ID_HEADER.encode(),)
_REQUEST_ID_HEADERS = {"openai": (*_FAL_REQUEST_ID, b"x-request-id")}
"""By surface: what OpenAI's client tells its user to quote is not what fal's does."""


def _observed(send: Send, exchange: Exchange, cors: Sequence[tuple[bytes, bytes]]) -> Send:
    async def observe(message: Message) -> None:
        if message["type"] in _BEGINNINGS:
            exchange.status = message.get("status", SWITCHING_PROTOCOLS)
            exchange.first_byte_seconds = time.perf_counter() - exchange.started
            headers = [*message.get("headers", []), *cors]
            given = {name for name, _ in headers}
            headers += [
                (name, exchange.request_id.encode())
                for name in _REQUEST_ID_HEADERS.get(exchange.surface, _FAL_REQUEST_ID)
                if name not in given
            ]
            message = {**message, "headers": headers}
        else:
            sent = message.get("body") or message.get("bytes") or message.get("text") or b""
            exchange.sent_bytes += len(sent)
        await send(message)

    return observe


def _route_answer(error: HTTPException) -> ErrorAnswer:
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return ErrorAnswer(404, NO_ROUTE, "not_found", headers)
        case 405:
            allowed = headers.get("Allow", "another method")
            return ErrorAnswer(405, f"this path answers {allowed} only", "bad_request", headers)
        case status:
            return ErrorAnswer(status, error.detail, "bad_request", headers)
