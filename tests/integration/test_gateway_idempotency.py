"""`Idempotency-Key`: calls that wait for their answer can be made again, in every dialect."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from quickthaw.gateway.settings import Limits
from quickthaw.v1 import types_pb2
from support.fake_inference import MODEL_ID
from support.gateway_rig import Rig, a_gateway, events_of
from support.patience import PATIENCE_SECONDS
from support.sockets import CALLS, connected

RUN = "/run/quickthaw/shapes"
PREDICTIONS = "/replicate/v1/models/quickthaw/shapes/predictions"
IMAGES = "/openai/v1/images/generations"
ONCE = {"idempotency-key": "order-7"}
DIALECTS = [
    (RUN, {"prompt": "x"}, {"prompt": "y"}),
    (PREDICTIONS, {"input": {"prompt": "x"}}, {"input": {"prompt": "y"}}),
    (IMAGES, {"model": MODEL_ID, "prompt": "x"}, {"model": MODEL_ID, "prompt": "y"}),
]


@pytest.mark.parametrize(("path", "body", "_other"), DIALECTS)
@pytest.mark.parametrize("more", [{}, {"prefer": "wait"}])
async def test_the_same_call_with_the_same_key_is_one_request_and_one_answer(
    tmp_path: Path, path: str, body: object, _other: object, more: dict[str, str]
) -> None:
    async with a_gateway(tmp_path) as rig:
        first = await rig.http.post(path, json=body, headers=ONCE | more)
        again = await rig.http.post(path, json=body, headers=ONCE | more)
        assert first.status_code in (200, 201), first.text
        assert (again.status_code, _said(again)) == (first.status_code, _said(first))
        assert len(rig.platform.requests) == 1
        await rig.http.post(path, json=body, headers={"idempotency-key": "order-8"} | more)
        assert len(rig.platform.requests) == 2


def _said(answer: httpx.Response) -> dict[str, object]:
    """Without the URL of a stream, which is sealed anew each time."""
    said = {**answer.json()}
    said.pop("urls", None)
    return said


@pytest.mark.parametrize(("path", "body", "other"), DIALECTS)
async def test_another_call_with_the_same_key_is_refused_for_good(
    tmp_path: Path, path: str, body: object, other: object
) -> None:
    async with a_gateway(tmp_path) as rig:
        assert (await rig.http.post(path, json=body, headers=ONCE)).is_success
        refused = await rig.http.post(path, json=other, headers=ONCE)
        assert refused.status_code == (400 if path == IMAGES else 422)
        assert "dempotency-" in refused.text
        assert len(rig.platform.requests) == 1


async def test_a_run_with_a_key_goes_on_without_its_caller_and_can_be_asked_for_again(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        leaving = asyncio.create_task(rig.http.post(RUN, json={"prompt": "x"}, headers=ONCE))
        request = await rig.platform.submitted()
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        await request.watched_by(1)
        leaving.cancel()
        await asyncio.wait_for(request.unwatched.wait(), PATIENCE_SECONDS)
        asking = asyncio.create_task(rig.http.post(RUN, json={"prompt": "x"}, headers=ONCE))
        await asyncio.wait_for(request.watched_by(1), PATIENCE_SECONDS)
        await request.succeed(rig.platform.picture(request, b"picture"))
        answer = await asking
        assert answer.headers["x-fal-request-id"] == request.record.request_id
        assert not request.cancelled.is_set()


async def test_a_run_with_a_key_is_ended_by_the_platform_in_its_time(tmp_path: Path) -> None:
    limits = Limits(run_seconds_max=100, drain_seconds=1)
    async with a_gateway(tmp_path, limits=limits) as rig:
        headers = ONCE | {"x-fal-request-timeout": "50"}
        assert (await rig.http.post(RUN, json={"prompt": "x"}, headers=headers)).is_success
        submitted = (await rig.platform.submitted()).submitted
        assert submitted.deadline_unix_ms - submitted.start_deadline_unix_ms == pytest.approx(
            50_000, abs=1_000
        )


async def test_a_stream_with_a_key_is_told_again_from_its_beginning(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        told = [await _streamed(rig) for _ in range(2)]
        assert told[0] == told[1]
        assert len(told[0]) == 2
        assert len(rig.platform.requests) == 1


async def _streamed(rig: Rig) -> list[dict[str, object]]:
    async with rig.http.stream("POST", f"{RUN}/stream", json={"prompt": "x"}, headers=ONCE) as all_:
        return await events_of(all_)


async def test_the_calls_of_one_socket_do_not_share_its_key(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        async with connected(rig, CALLS, ONCE) as socket:
            for prompt in ("x", "y"):
                await socket.send(f'{{"prompt": "{prompt}"}}')
                while not str(await socket.recv()).startswith('{"type":"end"'):
                    pass
        assert [each.submitted.idempotency_key for each in rig.platform.requests.values()] == [
            "",
            "",
        ]


@pytest.mark.parametrize("path", [RUN, IMAGES, PREDICTIONS])
async def test_a_key_that_is_too_long_is_refused(tmp_path: Path, path: str) -> None:
    async with a_gateway(tmp_path) as rig:
        body = {"prompt": "x", "input": {"prompt": "x"}}
        headers = {"idempotency-key": "k" * 129}
        refused = await rig.http.post(path, json=body, headers=headers)
        assert refused.status_code == 400
        assert "128" in refused.text
        assert not rig.platform.requests
