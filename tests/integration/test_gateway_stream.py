from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import cast

from quickthaw.gateway.settings import Limits
from quickthaw.v1 import types_pb2
from support.gateway_rig import a_gateway, events_of
from support.patience import PATIENCE_SECONDS

STREAM = "/run/quickthaw/shapes/stream"


def first_url(event: dict[str, object]) -> str:
    images = cast("list[dict[str, str]]", event["images"])
    return images[0]["url"]


async def test_a_stream_shows_previews_and_ends_with_the_whole_output(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        body = {"prompt": "\u00fc", "num_inference_steps": 80}
        async with rig.http.stream("POST", STREAM, json=body) as response:
            request = await rig.platform.submitted()
            assert response.headers["x-fal-request-id"] == request.record.request_id
            assert request.input["preview_every"] == 10
            reading = asyncio.create_task(events_of(response))
            await request.move(types_pb2.REQUEST_STATE_RUNNING)
            await request.preview(10, b"soon")
            await request.preview(20, b"later")
            await request.succeed(rig.platform.picture(request, b"done"))
            events = await reading
        assert [first_url(event)[:22] for event in events[:2]] == ["data:image/jpeg;base64"] * 2
        assert base64.b64decode(first_url(events[1]).partition(",")[2]) == b"later"
        assert events[0]["prompt"] == "\u00fc"
        assert events[0]["progress"] == {"step": 10, "image_index": 0}
        assert (await rig.nobody.get(first_url(events[2]))).content == b"done"
        assert "receipt" in events[2]


async def test_a_preview_arrives_while_the_model_still_runs(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with rig.http.stream("POST", STREAM, json={"prompt": "x"}) as response:
            request = await rig.platform.submitted()
            await request.preview(1)
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith("data: {")
            assert not request.record.HasField("receipt")
            await request.succeed()


async def test_a_reader_that_leaves_cancels_the_run(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with rig.http.stream("POST", STREAM, json={"prompt": "x"}) as response:
            request = await rig.platform.submitted()
            await request.preview(1)
            await anext(response.aiter_lines())
        await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)
        await asyncio.wait_for(request.unwatched.wait(), PATIENCE_SECONDS)


async def test_bad_arguments_are_an_ordinary_answer(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.http.post(STREAM, json={})
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/json"


async def test_a_failure_after_the_start_is_the_last_event(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        async with rig.http.stream("POST", STREAM, json={"prompt": "x"}) as response:
            request = await rig.platform.submitted()
            await request.fail("ENGINE_FAILED", "boom")
            (event,) = await events_of(response)
        assert (event["type"], event["message"]) == ("error", "boom")
        assert cast("dict[str, object]", event["error"])["status"] == 500
        assert not request.cancelled.is_set()


async def test_silence_is_filled_with_comments(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=Limits(ping_seconds=0.02, drain_seconds=1)) as rig:
        rig.platform.hold()
        async with rig.http.stream("POST", STREAM, json={"prompt": "x"}) as response:
            request = await rig.platform.submitted()
            lines = response.aiter_lines()
            assert await anext(lines) == ": ping"
            await request.succeed()
            async for line in lines:
                if line.startswith("data"):
                    break


async def test_a_stream_that_no_worker_starts_in_time_says_so(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        headers = {"x-fal-request-timeout": "0.05"}
        async with rig.http.stream("POST", STREAM, json={"prompt": "x"}, headers=headers) as got:
            (event,) = await events_of(got)
        assert cast("dict[str, object]", event["error"])["status"] == 504
        request = await rig.platform.submitted()
        await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)


async def test_open_streams_are_counted(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_metrics=True) as rig:
        rig.platform.hold()
        async with rig.http.stream("POST", STREAM, json={"prompt": "x"}) as response:
            assert (await rig.metrics())["quickthaw_gateway_open_streams"] == 1
            await (await rig.platform.submitted()).succeed()
            await events_of(response)
        assert (await rig.metrics())["quickthaw_gateway_open_streams"] == 0
