"""The one client for URLs that callers name: input files to fetch, webhooks to deliver to.

A URL is somebody else's choice of where this process connects to. So a host is resolved here, each
of its addresses is judged, and the connection goes to the very address that was judged: what the
name means a moment later (DNS rebinding), how it was spelled (decimal, octal, IPv4 in IPv6) and
what proxies the environment names make no difference. Redirects are followed one by one, each
judged anew. Nothing is decompressed, so that a few bytes cannot become many.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import certifi
import httpcore

from quickthaw.gateway.addresses import is_public

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses in text form, best first; raises OSError for an unknown host."""

Judge = Callable[[str], bool]
"""Whether an address may be connected to."""

URL_CHARS_MAX: Final = 4096
_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TARGET_SAFE: Final = "/%:@!$&'()*+,;=~-._[]"


class OutboundError(Exception):
    """What went wrong, in words that may be shown to whoever named the URL."""


class OutboundRefused(OutboundError):
    """This URL is not one that may be asked: its scheme, its host's address, where it redirects."""


class OutboundFailed(OutboundError):
    """It may be asked, but there was no complete answer in time."""


class OutboundTooLarge(OutboundError):
    pass


@dataclass(frozen=True, slots=True)
class OutboundLimits:
    body_bytes_max: int
    """Of the answer. A longer one raises OutboundTooLarge, or is cut where `keep_start` is set."""
    seconds: float
    """For everything: resolving, connecting, redirects and the whole answer."""
    redirects_max: int = 0
    """0: a redirect is the answer."""
    keep_start: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    url: str
    """That of the last redirect."""
    status: int
    headers: Mapping[str, str]
    """Names in lower case; of several with one name the last."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer whose body is still on its way."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of several with one name the last."""
    pieces: AsyncIterator[bytes]


async def resolve_host(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Outbound:
    """`allow_private`: connect to any address, which is for development and closed networks."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        open_max: int = 64,
        resolve: Resolver = resolve_host,
        judge: Judge = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._slots = asyncio.Semaphore(open_max)
        # No connection is kept: the next request for a host judges its addresses anew.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or _tls_context(),
            max_connections=open_max,
            max_keepalive_connections=0,
            network_backend=_JudgingBackend(_anything if allow_private else judge, resolve),
        )

    async def close(self) -> None:
        await self._pool.aclose()

    async def request(
        self,
        method: str,
        url: str,
        limits: OutboundLimits,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """The whole answer, whatever its status. Raises the OutboundErrors and nothing else."""
        try:
            async with asyncio.timeout(limits.seconds), self._slots:
                for _ in range(limits.redirects_max):
                    answer = await self._ask(method, url, limits, headers or {}, body)
                    location = answer.headers.get("location")
                    if answer.status not in _REDIRECTS or location is None:
                        return answer
                    url = urljoin(url, location)
                answer = await self._ask(method, url, limits, headers or {}, body)
        except TimeoutError as error:
            raise OutboundFailed(f"no complete answer within {limits.seconds:g} s") from error
        if limits.redirects_max and answer.status in _REDIRECTS:
            raise OutboundRefused(f"more than {limits.redirects_max} redirects")
        return answer

    @contextlib.asynccontextmanager
    async def stream(
        self, url: str, limits: OutboundLimits, *, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Streamed, None]:
        """The answer to a GET, whatever its status, its body as it arrives.

        Raises the OutboundErrors, also while the body is read, and what its reader raises.
        """
        try:
            async with asyncio.timeout(limits.seconds), self._slots:
                for _ in range(limits.redirects_max + 1):
                    async with self._asking("GET", url, limits, headers or {}, b"") as response:
                        received = _received(response.headers)
                        location = received.get("location")
                        if response.status not in _REDIRECTS or location is None:
                            pieces = _pieces(response, received, limits)
                            yield Streamed(response.status, received, pieces)
                            return
                    url = urljoin(url, location)
                raise OutboundRefused(f"more than {limits.redirects_max} redirects")
        except TimeoutError as error:
            raise OutboundFailed(f"no complete answer within {limits.seconds:g} s") from error

    async def _ask(
        self,
        method: str,
        url: str,
        limits: OutboundLimits,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        async with self._asking(method, url, limits, headers, body) as response:
            received = _received(response.headers)
            return Answer(url, response.status, received, await _body(response, limits))

    @contextlib.asynccontextmanager
    async def _asking(
        self,
        method: str,
        url: str,
        limits: OutboundLimits,
        headers: Mapping[str, str],
        body: bytes,
    ) -> AsyncGenerator[httpcore.Response, None]:
        target = _parsed(url)
        sent = _headers(target, headers, body)
        # The request's own deadline ends it; these end a connection that it left behind.
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), limits.seconds)
        try:
            async with self._pool.stream(
                method.encode(),
                _core_url(target),
                headers=sent,
                content=body,
                extensions={"timeout": timeout},
            ) as response:
                yield response
        except _Refused as error:
            raise OutboundRefused(str(error)) from error
        except (
            *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException),
            *(OSError, UnicodeError),
        ) as error:
            reason = str(error) or type(error).__name__
            raise OutboundFailed(f"{target.hostname} did not answer: {reason[:200]}") from error


class _Refused(Exception):
    pass


class _JudgingBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, judge: Judge, resolve: Resolver) -> None:
        self._judge = judge
        self._resolve = resolve
        # Without anyio the name stands for a class that only complains; starlette brings it.
        self._inner = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it by this name
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = OSError("the host has no address")
        for address in await self._judged(host, port):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it by this name
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise _Refused("a socket of this machine is no address of a URL")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def _judged(self, host: str, port: int) -> Sequence[str]:
        addresses = await self._resolve(host, port)
        allowed = [address for address in addresses if self._judge(address)]
        if addresses and not allowed:
            # Which address it is would tell a stranger about the network inside.
            raise _Refused(
                f"{host} is a private, local or reserved address, which is not asked on behalf of "
                "others"
            )
        return allowed


def _anything(address: str) -> bool:
    return True


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    # A container may have no roots of its own.
    context.load_verify_locations(certifi.where())
    return context


def _parsed(url: str) -> SplitResult:
    """Raises OutboundRefused, and then nothing was asked of anybody."""
    if len(url) > URL_CHARS_MAX:
        raise OutboundRefused(f"the URL is over {URL_CHARS_MAX} characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise OutboundRefused(f"that is no URL: {error}") from error
    if parts.scheme not in _PORTS:
        raise OutboundRefused(f"its scheme is {parts.scheme[:20]!r}: only http and https are asked")
    if not host or port == 0:
        raise OutboundRefused("that is no URL: it names no host, or port 0")
    if parts.username is not None:
        raise OutboundRefused("the URL holds a user name: sign the URL instead")
    return parts


def _core_url(target: SplitResult) -> httpcore.URL:
    """From the very parts that were judged, so that no second parser can see another host."""
    path = quote(target.path or "/", safe=_TARGET_SAFE)
    query = "?" + quote(target.query, safe=_TARGET_SAFE + "?") if target.query else ""
    return httpcore.URL(
        scheme=target.scheme.encode(),
        host=_ascii_host(target),
        port=target.port,
        target=(path + query).encode(),
    )


def _ascii_host(target: SplitResult) -> bytes:
    assert target.hostname is not None, "checked when parsed"
    try:
        return target.hostname.encode("ascii" if target.hostname.isascii() else "idna")
    except UnicodeError as error:
        raise OutboundRefused(f"that is no host name: {error}") from error


def _headers(
    target: SplitResult, headers: Mapping[str, str], body: bytes
) -> list[tuple[bytes, bytes]]:
    host = _ascii_host(target)
    host = b"[" + host + b"]" if b":" in host else host
    port = b"" if target.port is None else b":%d" % target.port
    own = {b"host": host + port, b"accept-encoding": b"identity", b"user-agent": b"quickthaw"}
    if body:
        own[b"content-length"] = b"%d" % len(body)
    own |= {name.lower().encode("ascii"): value.encode() for name, value in headers.items()}
    return list(own.items())


def _received(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


async def _pieces(
    response: httpcore.Response, received: Mapping[str, str], limits: OutboundLimits
) -> AsyncIterator[bytes]:
    if received.get("content-encoding", "identity").lower() != "identity":
        raise OutboundRefused("the answer is compressed, which was not asked for")
    declared = received.get("content-length", "")
    told = f"the answer is over {limits.body_bytes_max} bytes"
    if declared.isdecimal() and int(declared) > limits.body_bytes_max:
        raise OutboundTooLarge(told)
    size = 0
    async for piece in response.aiter_stream():
        size += len(piece)
        if size > limits.body_bytes_max:
            raise OutboundTooLarge(told)
        yield piece


async def _body(response: httpcore.Response, limits: OutboundLimits) -> bytes:
    received = _received(response.headers)
    if received.get("content-encoding", "identity").lower() != "identity":
        if limits.keep_start:
            return b""
        raise OutboundRefused("the answer is compressed, which was not asked for")
    declared = received.get("content-length", "")
    told = f"the answer is over {limits.body_bytes_max} bytes"
    if declared.isdecimal() and int(declared) > limits.body_bytes_max and not limits.keep_start:
        raise OutboundTooLarge(told)
    body = bytearray()
    async for piece in response.aiter_stream():
        body += piece
        if len(body) > limits.body_bytes_max:
            if not limits.keep_start:
                raise OutboundTooLarge(told)
            return bytes(body[: limits.body_bytes_max])
    return bytes(body)
