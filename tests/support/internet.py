"""A public internet on this machine: to the gateways of a test 127.0.0.2 is public, and all other
addresses are what they are. Names mean what the test says, as often as it says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import pytest

from quickthaw.gateway import addresses

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"


@dataclass
class Site:
    """A web server that answers everything alike, and what it was asked."""

    address: str
    answer: bytes
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    """Of every connection, also of those that said nothing."""

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        self.heads.append(head)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.heads[-1] = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
        writer.close()


@dataclass
class Internet:
    names: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    """What each look-up of a name finds, one after the other, the last one from then on."""
    looked_up: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def site(self, address: str, answer: bytes) -> AsyncIterator[Site]:
        site = Site(address, answer)
        server = await asyncio.start_server(site.serve, address, 0)
        site.port = server.sockets[0].getsockname()[1]
        try:
            yield site
        finally:
            server.close()
            await server.wait_closed()


def an_answer(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.contextmanager
def an_internet() -> Iterator[Internet]:
    internet = Internet()
    judge, resolve = addresses._is_public, socket.getaddrinfo  # pyright: ignore[reportPrivateUsage] # the one place

    def is_public(address: IPv4Address | IPv6Address) -> bool:
        return str(address) == PUBLIC or judge(address)

    def getaddrinfo(
        host: bytes | str | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> object:
        if not isinstance(host, str) or host not in internet.names:
            return resolve(host, port, family, type, proto, flags)
        internet.looked_up.append(host)
        found = internet.names[host]
        now = found.pop(0) if len(found) > 1 else found[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in now]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(addresses, "_is_public", is_public)
        patched.setattr(socket, "getaddrinfo", getaddrinfo)
        yield internet
