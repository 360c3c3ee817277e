"""Pictures that are small on the wire and large in memory, by every way in which one arrives."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image

from support.fake_inference import MODEL_ID
from support.gateway_process import GatewayProcess, a_gateway_process
from support.internet import an_answer
from support.web_pages import a_web_server

MIB = 1024 * 1024
GROWTH_BYTES_MAX = 120 * MIB
"""What one picture of the largest size that is taken costs, and room; a bomb would be gigabytes."""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    flags = ("--input-allow-private", "--input-pixels-max", str(4 * MIB))
    async with a_gateway_process(tmp_path, *flags) as process:
        yield process


# ---- what is sent --------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, width: int = 64, height: int = 64, rows: bytes | None = None) -> bytes:
    """A grey picture with more chunks before its data."""
    plain = zlib.compress(bytes((width + 1) * height)) if rows is None else rows
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = (chunk(b"IHDR", head), *chunks, chunk(b"IDAT", plain), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def zeros(size_bytes: int) -> bytes:
    """Packed, a two hundredth of it."""
    packer = zlib.compressobj(1)
    part = bytes(MIB)
    packed = b"".join(packer.compress(part) for _ in range(size_bytes // MIB))
    return packed + packer.flush()


def animated(frames: int, kind: str) -> bytes:
    data = io.BytesIO()
    pictures = [Image.new("P", (1_000, 1_000), number % 2) for number in range(frames)]
    pictures[0].save(data, kind, save_all=True, append_images=pictures[1:], duration=10)
    return data.getvalue()


def tiff_of_many_pages() -> bytes:
    data = io.BytesIO()
    page = Image.new("1", (1_000, 1_000))
    page.save(data, "TIFF", save_all=True, append_images=[page] * 100, compression="group4")
    return data.getvalue()


def large_and_empty(kind: str, **how: object) -> bytes:
    data = io.BytesIO()
    Image.new("L", (12_000, 12_000)).save(data, kind, **how)
    return data.getvalue()


def gif_with_a_large_screen() -> bytes:
    """The frame is small; what it is drawn upon is not."""
    small = io.BytesIO()
    Image.new("P", (64, 64)).save(small, "GIF")
    return small.getvalue()[:6] + struct.pack("<HH", 65_535, 65_535) + small.getvalue()[10:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "100,000 by 100,000": lambda: png(width=100_000, height=100_000, rows=zeros(64 * MIB)),
    "2,147,483,647 by 1": lambda: png(width=2**31 - 1, height=8, rows=zeros(MIB)),
    "more rows than it says": lambda: png(rows=zeros(256 * MIB)),
    "text of 256 mebibytes": lambda: png(chunk(b"zTXt", b"a\0\0" + zeros(256 * MIB))),
    "five hundred texts": lambda: png(*[chunk(b"zTXt", b"a\0\0" + zeros(MIB))] * 500),
    "international text": lambda: png(chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(256 * MIB))),
    "a colour profile of 256 mebibytes": lambda: png(chunk(b"iCCP", b"a\0\0" + zeros(256 * MIB))),
    "a zip in a text": lambda: png(chunk(b"tEXt", b"a\0PK\x03\x04" + bytes(100_000))),
    "a gif of many frames": lambda: animated(60, "GIF"),
    "a png of many frames": lambda: animated(60, "PNG"),
    "a webp of many frames": lambda: animated(30, "WEBP"),
    "a tiff of many pages": tiff_of_many_pages,
    "a gif with a large screen": gif_with_a_large_screen,
    "a large png": lambda: large_and_empty("PNG"),
    "a large jpeg": lambda: large_and_empty("JPEG"),
    "a large webp": lambda: large_and_empty("WEBP", lossless=True, method=0, quality=0),
    "gzip": lambda: gzip.compress(png()),
}
HARMLESS = {
    *("a zip in a text", "a gif of many frames", "a png of many frames", "a webp of many frames"),
    *("a tiff of many pages", "more rows than it says"),
}
"""Whose first picture is one like any other; the rest is never looked at."""


async def test_pictures_that_grow_are_refused_before_they_have_grown(
    gateway: GatewayProcess,
) -> None:
    assert await status_of(gateway, data_uri(png())) == 200
    for name, make in BOMBS.items():
        data = make()
        assert len(data) < 4 * MIB, f"{name} is no bomb"
        gateway.forget_peak()
        before = gateway.rss_bytes()
        async with a_web_server({"/a.png": data}) as web:
            for url in (data_uri(data), f"{web}/a.png", await uploaded(gateway, data)):
                expected = 200 if name in HARMLESS else 422
                assert await status_of(gateway, url) == expected, (name, url[:40])
        assert gateway.peak_rss_bytes() - before < GROWTH_BYTES_MAX, name


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


async def status_of(gateway: GatewayProcess, url: str) -> int:
    arguments = {"prompt": "x", "image_url": url}
    answer = await gateway.http.post(f"/run/{MODEL_ID}", json=arguments)
    return answer.status_code


async def uploaded(gateway: GatewayProcess, data: bytes) -> str:
    answer = await gateway.http.post("/cdn/files/upload", content=data)
    return str(answer.json()["access_url"])


async def test_an_answer_that_is_packed_is_not_unpacked(gateway: GatewayProcess) -> None:
    packed = gzip.compress(bytes(128 * MIB), 1)
    for coding in ("gzip", "deflate", "br"):
        answer = an_answer(packed, "200 OK", f"content-encoding: {coding}")
        async with a_web_server({}, whole=answer) as web:
            gateway.forget_peak()
            before = gateway.rss_bytes()
            assert await status_of(gateway, f"{web}/a.png") == 422
            assert gateway.peak_rss_bytes() - before < 20 * MIB
