"""What a caller wishes of its call by headers: how long what is made is kept, when it begins."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgpack
import pytest

from support.gateway_rig import Rig, a_gateway
from support.patience import PATIENCE_SECONDS
from support.sockets import REALTIME, connected

FOR_77_SECONDS = {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 77}'}
NOTHING = {"x-fal-store-io": "0"}


@pytest.mark.parametrize(
    ("headers", "files_kept_ms", "io_kept_ms"),
    [(FOR_77_SECONDS, 77_000, 0), (NOTHING, 300_000, 300_000), ({}, 0, 0)],
)
@pytest.mark.parametrize("with_blobs", [True, False])
async def test_a_caller_says_how_long_what_is_made_is_kept(
    tmp_path: Path,
    headers: dict[str, str],
    files_kept_ms: int,
    io_kept_ms: int,
    with_blobs: bool,
) -> None:
    """The request itself carries the wish, so that no gateway has to remember it."""
    async with a_gateway(tmp_path, with_blobs=with_blobs) as rig:
        ids: list[str] = []
        for path in ("/run/quickthaw/shapes", "/queue/quickthaw/shapes"):
            answer = await rig.http.post(path, json={"prompt": "x"}, headers=headers)
            ids.append(answer.headers["x-fal-request-id"])
        async with connected(rig, REALTIME, headers) as socket:
            await socket.send('{"prompt": "x"}')
            ids.append(msgpack.unpackb(await socket.recv())["request_id"])
        for request_id in ids:
            submitted = rig.platform.requests[request_id].submitted
            assert submitted.files_kept_ms == files_kept_ms
            assert submitted.io_kept_ms == io_kept_ms


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
