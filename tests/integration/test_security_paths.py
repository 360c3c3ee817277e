"""Tricks with paths: on every parameter of every route, and wherever a name becomes a file."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.routing import Route

from quickthaw.gateway import fal, files, health, openai, openapi, pages, replicate, webhooks
from support.strangers import Strangers, two_tenants

TRICKS = (
    *("..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "..%5c..%5cetc%5cpasswd"),
    *("%2fetc%2fpasswd", "C:%5cwindows", "%00", "a%00.png", "..%00", "..;/", "%252e%252e%252f"),
    *("%c0%ae%c0%ae%c0%af", "%e0%80%ae", "%ff%fe", "%ed%a0%80", "%0d%0aX:%201", "a" * 3000),
    *("~root", "file:%2f%2f%2fetc%2fpasswd", "%E2%80%AE", ".", "..", "%20", "{model}", "%25s%25n"),
)
INTERNALS = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|root:x:|/data/|/blobs|sqlite|StatusCode|grpc"
)


@pytest.fixture
async def strangers(tmp_path: Path) -> AsyncIterator[Strangers]:
    async with two_tenants(tmp_path) as found:
        yield found


def questions() -> list[tuple[str, str]]:
    """Each method of each route with each trick in each of its parameters."""
    modules = (pages, health, openapi, files, webhooks, replicate, fal, openai)
    routes = [each for module in modules for each in module.ROUTES if isinstance(each, Route)]
    found: list[tuple[str, str]] = []
    for route, trick in itertools.product(routes, TRICKS):
        for name in re.findall(r"\{\w+(?::\w+)?\}", route.path):
            path = re.sub(r"\{\w+(?::\w+)?\}", "1", route.path.replace(name, "\0"))
            method = min((route.methods or {"GET"}) - {"HEAD"})
            found.append((method, path.replace("\0", trick)))
    return found


async def test_no_trick_gets_anything_but_a_refusal(strangers: Strangers) -> None:
    host, port = strangers.url.removeprefix("http://").split(":")
    key = strangers.http_bob.headers["authorization"]
    reader, writer = await asyncio.open_connection(host, int(port))
    for method, path in questions():
        # By hand: a client library would clean the path up first.
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
        writer.write(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if length := re.search(r"content-length: (\d+)", answer):
            body = (await reader.readexactly(int(length[1]))).decode()
        else:
            body = ""
        status = int(answer.split(" ", 2)[1])
        assert 400 <= status < 500, (method, path, status, body)
        assert not INTERNALS.search(body), (method, path, body)
        if "connection: close" in answer:
            writer.close()
            reader, writer = await asyncio.open_connection(host, int(port))
    writer.close()


def outside_the_store(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "blobs" not in path.parts}


async def test_names_of_uploads_lead_nowhere(strangers: Strangers, tmp_path: Path) -> None:
    before = await asyncio.to_thread(outside_the_store, tmp_path)
    names = ("../../../evil", "/tmp/evil", "..\\evil", "a\x7fb", "con/../../evil", "." * 300)
    for name in names:
        headers = {"content-type": "image/png", "x-fal-file-name": name}
        answer = await strangers.http_bob.post("/cdn/files/upload", content=b"x", headers=headers)
        if answer.status_code == 200:
            link = answer.json()["access_url"]
            assert ".." not in link
            assert "evil" not in link or link.rpartition("/")[2].endswith("evil")
            got = await strangers.nobody.get(link)
            assert got.content == b"x"
            assert got.headers["x-content-type-options"] == "nosniff"
    after = await asyncio.to_thread(outside_the_store, tmp_path)
    assert {path.name for path in after - before} <= {"quickthaw.db-wal", "quickthaw.db-shm"}
