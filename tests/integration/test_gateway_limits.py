from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from quickthaw.gateway.settings import Limits
from quickthaw.wire.limits import INPUT_BYTES_MAX
from support.fake_inference import ALICE_KEY
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS

RUN = "/run/quickthaw/shapes"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def dialled(rig: Rig) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    address = rig.listening.http
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What is still to be read until the gateway closes."""
    return await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)


def limits(**changed: float) -> Limits:
    return Limits(**{"drain_seconds": 1, **changed})  # type: ignore[arg-type]  # by name


async def test_a_body_over_the_limit_is_refused_by_its_declared_length(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=limits(body_bytes_max=100)) as rig:
        response = await rig.http.post(RUN, content=b"x" * 101)
        assert response.status_code == 413
        assert "100 bytes" in response.json()["detail"]


async def test_a_body_over_the_limit_is_refused_while_it_arrives(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 10

    async with a_gateway(tmp_path, limits=limits(body_bytes_max=100)) as rig:
        response = await rig.http.post(RUN, content=chunks())
        assert response.status_code == 413


async def test_bodies_of_many_callers_together_have_a_limit_and_make_room_again(
    tmp_path: Path,
) -> None:
    """None of them has shown a key that is any good."""
    head = b"POST /run/quickthaw/shapes HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n"
    head += b"Authorization: Key qt_nobody_secret\r\n\r\n"
    async with (
        a_gateway(tmp_path, limits=limits(bodies_bytes_max=100_000, share_of_free=100)) as rig,
        dialled(rig) as one,
        dialled(rig) as other,
    ):
        readers: dict[asyncio.Task[bytes], asyncio.StreamWriter] = {}
        for reader, writer in (one, other):
            writer.write(head + b" " * 59_990)
            readers[asyncio.create_task(reader.readuntil(b"}"))] = writer
        refused, waiting = await asyncio.wait(
            readers, return_when="FIRST_COMPLETED", timeout=PATIENCE_SECONDS
        )
        ((told,), (fits,)) = (refused, waiting)
        assert told.result().startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 2" in told.result()
        readers[fits].write(b" " * 10)
        assert (await fits).startswith(b"HTTP/1.1 401 ")
        body = json.dumps({"prompt": "x" * 100, "none": "y" * 90_000})
        assert (await rig.http.post(RUN, content=body)).status_code == 200


async def test_arguments_over_the_platforms_limit_are_refused(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        body = json.dumps({"prompt": "x" * INPUT_BYTES_MAX})
        response = await rig.http.post(RUN, content=body)
        assert response.status_code == 413
        assert not rig.platform.requests


async def test_a_body_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    async with (
        a_gateway(tmp_path, limits=limits(body_seconds=0.1)) as rig,
        dialled(rig) as (reader, writer),
    ):
        writer.write(
            b"POST /run/quickthaw/shapes HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
            b"Authorization: Key " + ALICE_KEY.encode() + b"\r\n\r\n{"
        )
        answer = await closed(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_headers_over_the_limit_are_refused(tmp_path: Path) -> None:
    async with (
        a_gateway(tmp_path, limits=limits(header_bytes_max=2000)) as rig,
        dialled(rig) as (reader, writer),
    ):
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 3000)
        assert (await closed(reader)).startswith(b"HTTP/1.1 400 ")


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    async with (
        a_gateway(tmp_path, limits=limits(header_seconds=0.1)) as rig,
        dialled(rig) as (reader, _writer),
    ):
        assert await closed(reader) == b""


async def test_headers_that_trickle_in_are_given_up_also_on_a_used_connection(
    tmp_path: Path,
) -> None:
    async with (
        a_gateway(tmp_path, limits=limits(header_seconds=0.2)) as rig,
        dialled(rig) as (reader, writer),
    ):
        writer.write(HEALTH)
        assert await reader.readuntil(b'{"status":"ok"}')
        writer.write(b"GET /hea")
        assert await closed(reader) == b""


@pytest.mark.parametrize("asked", ["GET /health", "POST /nowhere", "OPTIONS /run/a/b"])
async def test_a_body_that_trickles_in_after_its_answer_is_given_up(
    tmp_path: Path, asked: str
) -> None:
    async with (
        a_gateway(tmp_path, limits=limits(header_seconds=0.2)) as rig,
        dialled(rig) as (reader, writer),
    ):
        writer.write(f"{asked} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        trickling = asyncio.create_task(trickle(writer))
        told = await asyncio.wait_for(reader.readline(), PATIENCE_SECONDS)
        assert told.startswith(b"HTTP/1.1 ")
        with contextlib.suppress(ConnectionResetError):  # What trickles in meets a closed port.
            await closed(reader)
        trickling.cancel()


async def trickle(writer: asyncio.StreamWriter) -> None:
    """More often than any bound on silence would notice."""
    while True:
        writer.write(b"1\r\nx\r\n")
        await asyncio.sleep(0.02)


async def test_a_connection_outlives_a_body_that_came_late_and_whole(tmp_path: Path) -> None:
    async with (
        a_gateway(tmp_path, limits=limits(header_seconds=60)) as rig,
        dialled(rig) as (reader, writer),
    ):
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 404 ")
        writer.write(b"hello" + HEALTH)
        assert await reader.readuntil(b'{"status":"ok"}')


async def test_headers_in_several_pieces_are_fine(tmp_path: Path) -> None:
    async with (
        a_gateway(tmp_path) as rig,
        dialled(rig) as (reader, writer),
    ):
        for piece in (b"GET /hea", b"lth HTTP/1.1\r\nHo", b"st: x\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
        assert await reader.readuntil(b'{"status":"ok"}')


async def test_a_reader_that_takes_nothing_is_cut_and_others_are_not(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=limits(stall_seconds=0.3), with_metrics=True) as rig:
        rig.platform.hold()
        slow = a_socket_with_a_small_window(rig)
        stream = f"{RUN}/stream"
        body = json.dumps({"prompt": "x"}).encode()
        slow.sendall(
            f"POST {stream} HTTP/1.1\r\nHost: x\r\nAuthorization: Key {ALICE_KEY}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        request = await rig.platform.submitted()
        for step in range(1, 41):
            await request.preview(step, b"x" * 200_000)
        await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)
        assert (await rig.http.get("/health")).status_code == 200
        assert (await rig.metrics())["quickthaw_gateway_stalled_readers_total"] == 1
        slow.close()


async def test_the_last_bytes_of_an_answer_are_not_kept_for_ever(tmp_path: Path) -> None:
    """They fit the buffers of a connection that the gateway has closed, so that only the kernel
    knows that nobody takes them."""
    async with a_gateway(tmp_path, limits=limits(stall_seconds=1), with_metrics=True) as rig:
        slow = a_socket_with_a_small_window(rig)
        head = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n"
        slow.sendall(head + b"\r\n" + head + b"Connection: close\r\n\r\n")
        served = f":{rig.listening.http.port:04X} 0100007F:{slow.getsockname()[1]:04X} "
        give_up = time.monotonic() + PATIENCE_SECONDS
        connections = Path("/proc/net/tcp")
        while served in await asyncio.to_thread(connections.read_text):
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
        slow.close()


def a_socket_with_a_small_window(rig: Rig) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    # Closing it is to be seen at once by the other side.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.connect((rig.listening.http.host, rig.listening.http.port))
    return made


async def test_a_connection_over_the_limit_is_told_to_come_back(tmp_path: Path) -> None:
    async with (
        a_gateway(tmp_path, limits=limits(connections_max=1)) as rig,
        dialled(rig) as (first_reader, first),
    ):
        first.write(HEALTH)
        assert (await first_reader.readline()).startswith(b"HTTP/1.1 200 ")
        async with dialled(rig) as (reader, writer):
            writer.write(HEALTH)
            assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")


async def test_what_is_no_http_is_refused_and_closed(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        for nonsense in (b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"GET /\r\n\r\n", b"\x00" * 50):
            async with dialled(rig) as (reader, writer):
                writer.write(nonsense)
                writer.write_eof()
                answer = await closed(reader)
                # The first is a TLS handshake, and this gateway has no certificate: a TLS alert.
                assert answer in (b"", b"\x15\x03\x01\x00\x02\x02\x28") or answer.startswith(
                    b"HTTP/1.1 400 "
                )
        assert (await rig.http.get("/health")).status_code == 200


async def test_paths_and_headers_from_the_wild_never_break_it(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        targets = [
            *(b"/%00", b"/run/%ff/%fe", b"/queue/a/b/requests/%0d%0a", b"//a//b", b"/run/a/b?%zz"),
            *(b"*", b"/files/%00/%00/%00", b"/run/" + b"a/" * 2000, b"/../../etc/passwd"),
        ]
        for method in (b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"FOO"):
            for target in targets:
                async with dialled(rig) as (reader, writer):
                    head = (
                        method + b" " + target + b" HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n"
                    )
                    key = f"Authorization: Key {ALICE_KEY}\r\nContent-Length: 0\r\n\r\n".encode()
                    writer.write(head + key)
                    status = (await closed(reader)).split(b" ", 2)[1]
                    assert status[:1] == b"4", (method, target, status)


async def test_metrics_count_by_surface_and_status(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_metrics=True) as rig:
        await rig.http.post(RUN, json={"prompt": "x"})
        await rig.http.post(RUN, json={})
        await rig.http.get("/health")
        samples = await rig.metrics()
        total = 'quickthaw_gateway_requests_total{status="%s",surface="%s"}'
        assert samples[total % ("200", "run")] == 1
        assert samples[total % ("422", "run")] == 1
        assert samples[total % ("200", "health")] == 1
        assert samples['quickthaw_gateway_request_seconds_count{surface="run"}'] == 2
        assert samples['quickthaw_gateway_open_requests{surface="run"}'] == 0
        assert samples['quickthaw_gateway_errors_total{reason="INVALID_INPUT"}'] == 1


async def test_a_hundred_streams_of_one_request_all_end(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        queued = await rig.http.post("/queue/quickthaw/shapes", json={"prompt": "x"})
        url = queued.json()["status_url"] + "/stream"
        pool = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            headers=rig.http.headers, limits=pool, timeout=PATIENCE_SECONDS
        ) as many:
            readers = [asyncio.create_task(many.get(url)) for _ in range(100)]
            request = await rig.platform.submitted()
            await asyncio.wait_for(request.watched_by(1), PATIENCE_SECONDS)  # one for all of them
            await request.succeed()
            answers = await asyncio.gather(*readers)
        assert all('"COMPLETED"' in answer.text for answer in answers)


async def test_nothing_is_decoded_for_who_has_no_key(tmp_path: Path) -> None:
    """A mask that cannot be read is complained of only to who may have it read."""
    async with a_gateway(tmp_path) as rig:
        for http, status in ((rig.nobody, 401), (rig.http, 400)):
            answer = await http.post(
                "/openai/v1/images/edits",
                data={"prompt": "x"},
                files={"image": b"no picture", "mask": b"no picture either"},
            )
            assert answer.status_code == status, answer.text


async def test_a_file_in_a_form_is_no_larger_than_a_part_of_an_upload(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=limits(upload_part_bytes_max=10_000)) as rig:
        files = "/replicate/v1/files"
        fits = await rig.http.post(files, files={"content": b"x" * 10_000})
        assert fits.status_code == 201, fits.text
        large = await rig.http.post(files, files={"content": b"x" * 100_000})
        assert large.status_code == 413
