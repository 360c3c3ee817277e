"""The guarded client against servers on loopback and resolvers that lie."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from quickthaw.gateway.addresses import is_public
from quickthaw.gateway.outbound import (
    Outbound,
    OutboundError,
    OutboundFailed,
    OutboundLimits,
    OutboundRefused,
    OutboundTooLarge,
)

LIMITS = OutboundLimits(body_bytes_max=1000, seconds=5.0, redirects_max=3)
PUBLIC = "93.184.216.34"


@asynccontextmanager
async def a_server(
    *answers: bytes, hang: bool = False, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Sends the n-th answer to the n-th connection; its URL, and the heads that it was sent."""
    heads: list[bytes] = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[min(len(heads), len(answers)) - 1])
        if hang:
            await done.wait()
        writer.close()

    server = await asyncio.start_server(serve, host, 0)
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}", heads
    finally:
        done.set()
        server.close()
        await server.wait_closed()


def an_answer(body: bytes, headers: str = "", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


async def get(outbound: Outbound, url: str, limits: OutboundLimits = LIMITS) -> bytes:
    try:
        return (await outbound.request("GET", url, limits)).body
    finally:
        await outbound.close()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "localhost", ""),
    ],
)
def test_an_address_that_is_not_of_the_public_internet_is_told_apart(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::1111", "64:ff9b::5db8:d822"])
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "169.254.169.254"),
    ],
)
async def test_no_spelling_of_a_local_address_is_asked(host: str) -> None:
    async with a_server(an_answer(b"secret")) as (url, heads):
        port = url.rpartition(":")[2]
        with pytest.raises(OutboundError) as caught:
            await get(Outbound(), f"http://{host}:{port}/")
        assert not heads
        # A spelling that the system's resolver does not know is no host at all.
        assert isinstance(caught.value, OutboundRefused | OutboundFailed)


async def test_private_addresses_are_asked_where_that_is_allowed() -> None:
    async with a_server(an_answer(b"inside")) as (url, heads):
        assert await get(Outbound(allow_private=True), f"{url}/a%20b?c=d e") == b"inside"
        assert heads[0].startswith(b"GET /a%20b?c=d%20e HTTP/1.1\r\n")
        assert b"accept-encoding: identity" in heads[0]


async def test_the_address_that_was_judged_is_the_one_connected_to() -> None:
    """Whoever resolves the name again, in whatever way, finds the server on 127.0.0.1. To this
    client 127.0.0.9 is the public internet."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.9"] if len(asked) == 1 else ["127.0.0.1"]

    async with a_server(an_answer(b"secret")) as (url, heads):
        port = url.rpartition(":")[2]
        outbound = Outbound(resolve=rebinding, judge=lambda address: address == "127.0.0.9")
        with pytest.raises(OutboundFailed):
            await get(outbound, f"http://localhost:{port}/")
        assert asked == ["localhost"]
        assert not heads


async def test_of_a_hosts_addresses_only_the_public_ones_are_tried() -> None:
    async def mixed(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "::1", "10.0.0.1"]

    with pytest.raises(OutboundRefused, match=r"mixed\.test is a private"):
        await get(Outbound(resolve=mixed), "http://mixed.test/")


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    """To this client 127.0.0.2 is the public internet, and all else is as it is."""
    async with a_server(an_answer(b"secret")) as (inner, heads):
        moved = an_answer(b"", f"location: {inner}/admin\r\n", "302 Found")
        async with a_server(moved, host="127.0.0.2") as (outer, outer_heads):
            outbound = Outbound(judge=lambda address: address == "127.0.0.2")
            with pytest.raises(OutboundRefused, match=r"127\.0\.0\.1 is a private"):
                await get(outbound, outer)
            assert len(outer_heads) == 1
        assert not heads


async def test_a_relative_redirect_is_followed_and_a_circle_is_not() -> None:
    moved = an_answer(b"", "location: ../b?x=1\r\n", "307 Moved")
    async with a_server(moved, an_answer(b"there")) as (url, heads):
        assert await get(Outbound(allow_private=True), f"{url}/a/c") == b"there"
        assert heads[1].startswith(b"GET /b?x=1 ")
    async with a_server(moved) as (url, heads):
        with pytest.raises(OutboundRefused, match="more than 3 redirects"):
            await get(Outbound(allow_private=True), url)
        assert len(heads) == 4


async def test_without_redirects_a_redirect_is_the_answer() -> None:
    async with a_server(an_answer(b"", "location: /b\r\n", "302 Found")) as (url, heads):
        outbound = Outbound(allow_private=True)
        limits = OutboundLimits(1000, 5.0)
        answer = await outbound.request("POST", url, limits, headers={"X-A": "b"}, body=b"{}")
        await outbound.close()
        assert (answer.status, answer.headers["location"]) == (302, "/b")
        assert heads[0].startswith(b"POST / ")
        assert b"x-a: b\r\n" in heads[0]
        assert b"content-length: 2\r\n" in heads[0]
        assert len(heads) == 1


async def test_an_answer_that_is_too_long_is_refused_whether_it_says_so_or_not() -> None:
    for head in (f"content-length: {10**12}\r\n", "connection: close\r\n"):
        answer = f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + bytes(2000)
        async with a_server(answer) as (url, _):
            with pytest.raises(OutboundTooLarge, match="over 1000 bytes"):
                await get(Outbound(allow_private=True), url)


async def test_only_the_start_of_a_long_answer_is_kept_where_that_is_enough() -> None:
    async with a_server(an_answer(b"x" * 2000)) as (url, _):
        limits = OutboundLimits(1000, 5.0, keep_start=True)
        assert await get(Outbound(allow_private=True), url, limits) == b"x" * 1000


async def test_an_answer_that_does_not_end_is_given_up() -> None:
    async with a_server(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", hang=True) as (url, _):
        with pytest.raises(OutboundFailed, match=r"within 0\.1 s"):
            await get(Outbound(allow_private=True), url, OutboundLimits(1000, 0.1))


async def test_a_compressed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(500_000))
    async with a_server(an_answer(bomb, "content-encoding: gzip\r\n")) as (url, _):
        with pytest.raises(OutboundRefused, match="compressed"):
            await get(Outbound(allow_private=True), url)


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "data:,x", "x"),
        *("http://", "http://a:99999/", "http://user:pw@example.com/", "http://[::1", "//x/y"),
        "http://example.com/" + "x" * 5000,
        "http://" + "ä" * 70 + ".com/",
    ],
)
async def test_what_is_no_plain_web_url_is_refused(url: str) -> None:
    with pytest.raises(OutboundRefused):
        await get(Outbound(allow_private=True), url)


async def test_a_server_that_talks_no_http_or_nobody_at_all_is_a_failure() -> None:
    async with a_server(b"220 mail ready\r\n") as (url, _):
        with pytest.raises(OutboundFailed):
            await get(Outbound(allow_private=True), url)
    with pytest.raises(OutboundFailed):
        await get(Outbound(allow_private=True), url)
