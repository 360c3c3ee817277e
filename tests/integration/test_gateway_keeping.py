"""What a caller wishes of its call by headers: how long what is made is kept, when it begins."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import msgpack
import pytest

from quickthaw.gateway import context
from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS
from support.sockets import REALTIME, connected

FOR_77_SECONDS = {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 77}'}
NOTHING = {"x-fal-store-io": "0"}


async def mark_of(folder: Path, seconds: int, request_id: str) -> Path:
    """What a sweep will find; waits for it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for mark in (folder / "blobs" / "expiry").rglob(f"artifacts-{seconds}-*"):
                if f"-{request_id}." in mark.name:
                    return mark
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("headers", "seconds", "io_kept_ms"), [(FOR_77_SECONDS, 77, 0), (NOTHING, 300, 300_000)]
)
async def test_a_caller_says_how_long_what_is_made_is_kept(
    tmp_path: Path, headers: dict[str, str], seconds: int, io_kept_ms: int
) -> None:
    async with a_gateway(tmp_path) as rig:
        for path in ("/run/quickthaw/shapes", "/queue/quickthaw/shapes"):
            answer = await rig.http.post(path, json={"prompt": "x"}, headers=headers)
            request_id = answer.headers["x-fal-request-id"]
            assert rig.platform.requests[request_id].submitted.io_kept_ms == io_kept_ms
            await mark_of(tmp_path, seconds, request_id)
        async with connected(rig, REALTIME, headers) as socket:
            await socket.send('{"prompt": "x"}')
            request_id = msgpack.unpackb(await socket.recv())["request_id"]
            assert rig.platform.requests[request_id].submitted.io_kept_ms == io_kept_ms
            await mark_of(tmp_path, seconds, request_id)


async def test_an_input_of_a_session_must_begin_in_the_time_that_the_session_names(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        async with connected(rig, REALTIME, {"x-fal-request-timeout": "30"}) as socket:
            await socket.send('{"prompt": "x"}')
            await socket.recv()
        (request,) = rig.platform.requests.values()
        in_seconds = request.submitted.start_deadline_unix_ms / 1000 - time.time()
        assert 30 - PATIENCE_SECONDS < in_seconds <= 30


async def test_a_wish_that_means_nothing_or_cannot_be_granted_is_refused(tmp_path: Path) -> None:
    name = "x-fal-object-lifecycle-preference"
    kept_from_others = (
        {"default": "forbid"},
        {"default": "hide"},
        {"rules": [{"user": "bob", "decision": "hide"}]},
    )
    async with a_gateway(tmp_path) as rig:
        assert await status_of(rig, {name: "{"}) == 400
        for acl in kept_from_others:
            assert await status_of(rig, {name: json.dumps({"initial_acl": acl})}) == 400
        open_to_all = {"initial_acl": {"default": "allow", "rules": []}}
        assert await status_of(rig, {name: json.dumps(open_to_all)}) == 200
        assert len(rig.platform.requests) == 1


async def status_of(rig: Rig, headers: dict[str, str]) -> int:
    body = {"prompt": "x"}
    return (await rig.http.post("/run/quickthaw/shapes", json=body, headers=headers)).status_code


@pytest.mark.parametrize("headers", [FOR_77_SECONDS, NOTHING])
async def test_a_gateway_that_can_end_no_files_says_so(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with a_gateway(tmp_path, with_blobs=False) as rig:
        assert await status_of(rig, headers) == 501
        assert not rig.platform.requests
        assert await status_of(rig, {}) == 200


async def test_a_queued_request_is_told_of_although_the_store_takes_no_wish_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "KEEPING_PAUSES_SECONDS", (0.01,) * 10_000)
    async with a_gateway(tmp_path) as rig:
        in_the_way = tmp_path / "blobs" / "expiry"
        in_the_way.write_text("no folder")
        path, body = "/queue/quickthaw/shapes", {"prompt": "x"}
        answer = await rig.http.post(path, json=body, headers=FOR_77_SECONDS)
        assert answer.status_code == 200, answer.text
        in_the_way.unlink()
        await mark_of(tmp_path, 77, answer.json()["request_id"])
