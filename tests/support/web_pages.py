"""A web server on loopback with a few files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager


@asynccontextmanager
async def a_web_server(
    files: Mapping[str, bytes], whole: bytes | None = None
) -> AsyncIterator[str]:
    """By path; anything else is a 404, or `whole`, with its head. The URL without a trailing
    slash."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = files.get(head.split(b" ")[1].decode())
        if body is None and whole is not None:
            writer.write(whole)
            writer.close()
            return
        status = b"404 Not Found" if body is None else b"200 OK"
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (status, len(body or b"")))
        writer.write(body or b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
