"""Connections that mean no good: each is cut within its limit, others are served meanwhile, and a
thousand of them leave a process as it was."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from support.fake_inference import ALICE_KEY
from support.gateway_process import GatewayProcess, a_gateway_process

MIB = 1024 * 1024
SLOW_SECONDS = 1.0
"""The gateway's limit for heads, bodies and stalls in these tests."""
CUT_SECONDS_MAX = 30.0
"""By when even a busy machine has cut one; far below the ordinary limits' sum."""
WAVES, WAVE = 10, 100
LIMITS = ("--header-seconds", "--body-seconds", "--stall-seconds", "--websocket-ping-seconds")

RUN = b"POST /run/quickthaw/shapes HTTP/1.1\r\nHost: x\r\n"
KEY = f"Authorization: Key {ALICE_KEY}\r\n".encode()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    flags = [word for limit in LIMITS for word in (limit, str(SLOW_SECONDS))]
    async with a_gateway_process(tmp_path, *flags) as process:
        yield process


# ---- those that are slow -------------------------------------------------------------------------


def handshake() -> bytes:
    nonce = base64.b64encode(os.urandom(16))
    return (
        b"GET /run/quickthaw/shapes/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + nonce
    ) + (b"\r\n" + KEY + b"\r\n")


CONNECT = b"CONNECT fal.run:443 HTTP/1.1\r\nHost: fal.run:443\r\n"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)
SLOW: dict[str, tuple[bytes, bytes]] = {
    "says nothing": (b"", b""),
    "a request line": (b"GET /hea", b"a"),
    "headers": (RUN, b"X: y\r\n"),
    "one header": (RUN + b"X: ", b"y"),
    "a body": (RUN + KEY + b"Content-Length: 100000\r\n\r\n{", b" "),
    "chunks": (RUN + KEY + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a chunk's extension": (RUN + KEY + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "an upload": (
        b"POST /cdn/files/upload HTTP/1.1\r\nHost: x\r\n" + KEY + b"Content-Length: 100000\r\n\r\n",
        b"",
    ),
    "an upload that drips": (
        b"POST /cdn/files/upload HTTP/1.1\r\nHost: x\r\n" + KEY + b"Content-Length: 100000\r\n\r\n",
        b"x",
    ),
    "a body after its answer": (
        b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
    ),
    "a CONNECT": (b"CONNECT fal.run:443", b""),
    "a CONNECT's headers": (CONNECT, b"X: y\r\n"),
    "nothing in a tunnel": (CONNECT + b"\r\n", b""),
    "a hello": (HELLO, b"\0"),
    "a hello in a tunnel": (CONNECT + b"\r\n" + HELLO, b"\0"),
    "an upgrade": (handshake()[:-2], b"X: y\r\n"),
    "a websocket without pongs": (handshake(), b""),
    "a frame": (handshake() + b"\x81\xfe\xff\xff" + bytes(4), b""),
    "an endless message": (handshake() + b"\x01\x80" + bytes(4), b""),
    "an HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"),
}
"""What comes at once, and then again and again."""


async def seconds_until_cut(gateway: GatewayProcess, first: bytes, again: bytes) -> float:
    reader, writer = await asyncio.open_connection(gateway.address.host, gateway.address.port)
    begun = time.monotonic()
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(first)
        ended = asyncio.ensure_future(reader.read())
        while not ended.done() and time.monotonic() - begun < 2 * CUT_SECONDS_MAX:
            await asyncio.wait({ended}, timeout=SLOW_SECONDS / 5)
            if again and not ended.done():
                writer.write(again)
        ended.cancel()
    seconds = time.monotonic() - begun
    writer.transport.abort()
    return seconds


async def test_who_is_slow_is_cut_in_time_while_others_are_served(gateway: GatewayProcess) -> None:
    cut = {
        name: asyncio.create_task(seconds_until_cut(gateway, *sent)) for name, sent in SLOW.items()
    }
    while not all(task.done() for task in cut.values()):
        asked = time.monotonic()
        assert (await gateway.http.get("/health")).status_code == 200
        assert time.monotonic() - asked < CUT_SECONDS_MAX, "others waited"
        await asyncio.wait(cut.values(), timeout=SLOW_SECONDS / 2)
    late = {name: task.result() for name, task in cut.items() if task.result() > CUT_SECONDS_MAX}
    assert late == {}


# ---- those that are wrong ------------------------------------------------------------------------


def frame(first: int, data: bytes, *, masked: bool = True, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    mask = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, size | mask])
    elif size < 2**16:
        head = bytes([first, 126 | mask]) + struct.pack(">H", size)
    else:
        head = bytes([first, 127 | mask]) + struct.pack(">Q", size)
    return head + (bytes(4) if masked else b"") + data


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


BAD: dict[str, Callable[[random.Random], bytes]] = {
    "noise": lambda chance: chance.randbytes(chance.randint(1, 4_000)),
    "noise after a hello's start": lambda chance: b"\x16\x03\x01" + chance.randbytes(2_000),
    "noise after CONNECT": lambda chance: b"CONNECT " + chance.randbytes(9_000),
    "noise in a tunnel": lambda chance: CONNECT + b"\r\n\x16" + chance.randbytes(500),
    "headers beyond the bound": lambda _: RUN + b"X: " + b"y" * 100_000,
    "many headers": lambda _: RUN + b"X: y\r\n" * 20_000,
    "two framings": lambda _: (
        RUN + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /"
    ),
    "a chunk of any length": lambda _: (
        RUN + KEY + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + bytes(1_000)
    ),
    "half a body": lambda _: RUN + KEY + b"Content-Length: 16000000\r\n\r\n" + bytes(200_000),
    "another protocol": lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) * 50,
    "an opcode of nobody": lambda chance: handshake() + frame(0x83 + chance.randint(0, 4), b"x"),
    "reserved bits": lambda chance: handshake() + frame(0xF1, chance.randbytes(20)),
    "no mask": lambda _: handshake() + frame(0x81, b'{"prompt":"x"}', masked=False),
    "a lie about the length": lambda _: handshake() + frame(0x82, b"x", length=2**62),
    "more than a message may have": lambda _: handshake() + frame(0x82, b"x", length=65 * MIB),
    "no UTF-8": lambda _: handshake() + frame(0x81, b"\xff\xfe\xc0\x80"),
    "half a character": lambda _: handshake() + frame(0x01, b"\xe2\x82") + frame(0x80, b""),
    "a flood of fragments": lambda _: handshake() + frame(0x01, b"") + frame(0x00, b"") * 20_000,
    "a flood of pings": lambda _: handshake() + frame(0x89, bytes(125)) * 2_000,
    "a long ping": lambda _: handshake() + frame(0x89, bytes(126)),
    "a close that is none": lambda _: handshake() + frame(0x88, b"\x00"),
    "a continuation of nothing": lambda _: handshake() + frame(0x80, b"x"),
    "arrays within arrays": lambda _: handshake() + frame(0x82, nested(100_000)),
    "a map of any length": lambda _: handshake() + frame(0x82, b"\xdf\xff\xff\xff\xff"),
    "bytes of any length": lambda _: handshake() + frame(0x82, b"\xc6\xff\xff\xff\xff"),
    "empty maps": lambda _: (
        handshake() + frame(0x82, b"\xdd\x00\x0f\xff\xff" + b"\x80" * 1_048_575)
    ),
    "JSON within JSON": lambda _: handshake() + frame(0x81, b"[" * 100_000),
    "wrong arguments": lambda _: handshake() + frame(0x82, b"\x81\xa1a\x91\xc4\x02\0\0"),
}


async def one_bad_connection(gateway: GatewayProcess, data: bytes, *, patient: bool) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(gateway.address.host, gateway.address.port)
        try:
            writer.write(data)
            if patient:
                writer.write_eof()
                async with asyncio.timeout(CUT_SECONDS_MAX):
                    await reader.read()
        finally:
            writer.transport.abort()


async def wave(gateway: GatewayProcess, chance: random.Random) -> None:
    kinds = [list(BAD)[number % len(BAD)] for number in range(WAVE)]
    await asyncio.gather(
        *(
            one_bad_connection(gateway, BAD[kind](chance), patient=chance.random() < 0.7)
            for kind in kinds
        )
    )
    answer = await gateway.http.post("/run/quickthaw/shapes", json={"prompt": "x"})
    assert answer.status_code == 200, answer.text


async def test_a_thousand_bad_connections_leave_no_trace(gateway: GatewayProcess) -> None:
    chance = random.Random(20261123)
    for _ in range(2):  # Buffers, caches and arenas are as large as they will be.
        await wave(gateway, chance)
    files, rss_bytes = gateway.open_files(), gateway.rss_bytes()
    for _ in range(WAVES):
        await wave(gateway, chance)
    await gateway.until(lambda: gateway.open_files() <= files, "closing all connections")
    assert gateway.rss_bytes() - rss_bytes < 16 * MIB
    metrics = (await gateway.http.get(gateway.metrics_url)).text
    assert 'status="500"' not in metrics
    assert 'quickthaw_gateway_errors_total{reason="INTERNAL"} 0.0' in metrics
