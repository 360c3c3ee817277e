"""Bytes that two readers of one connection could understand differently, and bodies that grow."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from pathlib import Path

import pytest

from quickthaw.gateway.settings import Limits
from support.fake_inference import ALICE_KEY
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS

RUN = "/run/quickthaw/shapes"
START = f"POST {RUN} HTTP/1.1\r\nHost: x\r\nAuthorization: Key {ALICE_KEY}\r\n".encode()
SMUGGLED = b"GET /ca.pem HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


async def said_to(rig: Rig, data: bytes) -> bytes:
    """Everything that the gateway answers until it closes."""
    address = rig.listening.http
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(data)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read()
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """Of all answers; our own bodies hold no such line."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


AMBIGUOUS: dict[str, bytes] = {
    "two-lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a-list-of-lengths": b"Content-Length: 2, 3\r\n\r\n{}",
    "a-signed-length": b"Content-Length: +2\r\n\r\n{}",
    "a-negative-length": b"Content-Length: -2\r\n\r\n{}",
    "a-hexadecimal-length": b"Content-Length: 0x2\r\n\r\n{}",
    "an-underscore": b"Content-Length: 1_0\r\n\r\n{}",
    "an-endless-length": b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "a-space-before-the-colon": b"Content-Length : 2\r\n\r\n{}",
    "both-framings": b"Content-Length: 6\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "both-the-other-way": CHUNKED + b"Content-Length: 6\r\n\r\n0\r\n\r\n",
    "chunked-twice": CHUNKED * 2 + b"\r\n0\r\n\r\n",
    "unknown-coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two-codings": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a-bare-return": b"X: a\rContent-Length: 2\r\n\r\n{}",
    "a-nul": b"X: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "two-hosts": b"Host: y\r\nContent-Length: 2\r\n\r\n{}",
    "chunk-size-0x": CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "chunk-size-negative": CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
    "chunk-size-endless": CHUNKED + b"\r\n" + b"f" * 40 + b"\r\n{}",
    "line-in-an-extension": CHUNKED + b"\r\n2;a=\nb\r\n{}\r\n0\r\n\r\n",
    "chunk-without-its-end": CHUNKED + b"\r\n2\r\n{}XX0\r\n\r\n",
}


async def test_ambiguous_framing_is_refused_and_nothing_behind_it_is_served(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        for name, rest in AMBIGUOUS.items():
            answer = await said_to(rig, START + rest + SMUGGLED)
            assert statuses(answer) == [400], name
        assert not rig.platform.requests, "one was taken for a call"


async def test_a_folded_line_belongs_to_the_header_above(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        folded = b"X: 1\r\n Content-Length: 40\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        # Had the fold been a header, two lengths would differ: 400. The arguments lack a prompt.
        assert statuses(await said_to(rig, START + folded)) == [422]


async def test_chunks_with_single_newlines_are_no_chunks(tmp_path: Path) -> None:
    limits = Limits(drain_seconds=1, body_seconds=0.3)
    async with a_gateway(tmp_path, limits=limits) as rig:
        answer = await said_to(rig, START + CHUNKED + b"\r\n2\n{}\n0\n\n" + SMUGGLED)
        assert statuses(answer)[0] in (400, 408)
        assert len(statuses(answer)) == 1


async def test_a_body_that_was_not_read_is_not_the_next_request(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        length = f"Content-Length: {len(SMUGGLED)}\r\n\r\n".encode()
        head = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + length
        assert statuses(await said_to(rig, head + SMUGGLED)) == [200]


async def test_another_protocol_is_not_switched_to(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        preface = await said_to(rig, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert all(status >= 400 for status in statuses(preface))
        upgrade = b"Upgrade: h2c\r\nConnection: Upgrade, close\r\nHTTP2-Settings: AAA\r\n\r\n"
        answer = await said_to(rig, b"GET /health HTTP/1.1\r\nHost: x\r\n" + upgrade)
        assert statuses(answer) == [200]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip", "zstd", "x-unknown"])
async def test_a_packed_body_is_refused_unread(tmp_path: Path, coding: str) -> None:
    bombs = {"gzip": gzip.compress(bytes(50_000_000)), "deflate": zlib.compress(bytes(50_000_000))}
    bomb = bombs.get(coding, b"whatever")
    async with a_gateway(tmp_path) as rig:
        for path in (RUN, "/queue/quickthaw/shapes", "/replicate/v1/files", "/cdn/files/upload"):
            answer = await rig.http.post(path, content=bomb, headers={"content-encoding": coding})
            assert answer.status_code == 415, path
        plain = {"content-encoding": "identity"}
        assert (await rig.http.post(RUN, json={"prompt": "x"}, headers=plain)).status_code == 200


async def test_the_proxy_does_not_lead_to_itself(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        for target in ("https://fal.ai/api/fal/proxy", "https://fal.ai/api%2ffal/proxy/"):
            headers = {"x-fal-target-url": target}
            answer = await rig.http.post("/api/fal/proxy", json={}, headers=headers)
            assert answer.status_code == 412, answer.text
