from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quickthaw.v1 import types_pb2
from support.fake_inference import BOB_KEY
from support.gateway_rig import Rig, a_gateway, events_of

QUEUE = "/queue/quickthaw/shapes"
QUEUED = types_pb2.REQUEST_STATE_QUEUED
PLACED = types_pb2.REQUEST_STATE_PLACED
RUNNING = types_pb2.REQUEST_STATE_RUNNING


async def submit(rig: Rig, path: str = QUEUE) -> str:
    response = await rig.http.post(path, json={"prompt": "x"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "IN_QUEUE"
    assert answer["request_id"] == answer["gateway_request_id"]
    assert isinstance(answer["queue_position"], int)
    return str(answer["request_id"])


async def test_a_submission_answers_with_urls_that_work(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        answer = (await rig.http.post(QUEUE, json={"prompt": "x"})).json()
        status = await rig.http.get(answer["status_url"])
        assert (status.status_code, status.json()["status"]) == (200, "COMPLETED")
        result = await rig.http.get(answer["response_url"])
        assert result.json()["prompt"] == "x"
        assert result.headers["x-fal-request-id"] == answer["request_id"]
        again = await rig.http.get(answer["response_url"])
        assert again.content == result.content
        cancelled = await rig.http.put(answer["cancel_url"])
        assert (cancelled.status_code, cancelled.json()) == (400, {"status": "ALREADY_COMPLETED"})


async def test_a_status_has_the_fields_of_its_state(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        url = f"{QUEUE}/requests/{await submit(rig)}"
        request = await rig.platform.submitted()
        await request.move(QUEUED, queue_position=3)
        waiting = await rig.http.get(f"{url}/status")
        assert waiting.status_code == 202
        assert waiting.json()["queue_position"] == 3
        assert waiting.json()["cancel_url"].endswith("/cancel")

        await request.move(RUNNING)
        await request.log("one")
        running = await rig.http.get(f"{url}/status?logs=1")
        assert running.status_code == 202
        assert running.json()["status"] == "IN_PROGRESS"
        assert [line["message"] for line in running.json()["logs"]] == ["one"]
        assert running.json()["logs"][0]["timestamp"].endswith("+00:00")
        quiet = await rig.http.get(f"{url}/status?logs=false")
        assert quiet.json()["logs"] == []

        await request.log("two")
        await request.succeed()
        done = (await rig.http.get(f"{url}/status?logs=true")).json()
        assert [line["message"] for line in done["logs"]] == ["one", "two"]
        assert done["metrics"] == {"inference_time": 1.234}
        assert done.get("error") is None


async def test_a_lost_attempt_does_not_send_a_request_back_to_the_queue(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        url = f"{QUEUE}/requests/{await submit(rig)}"
        request = await rig.platform.submitted()
        request.record.attempts = 1
        assert request.record.state == QUEUED
        assert (await rig.http.get(f"{url}/status")).json()["status"] == "IN_PROGRESS"


async def test_a_completed_request_has_a_log_line_even_if_the_model_wrote_none(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        url = f"{QUEUE}/requests/{await submit(rig)}"
        await (await rig.platform.submitted()).succeed()
        logs = (await rig.http.get(f"{url}/status?logs=1")).json()["logs"]
        assert [line["message"] for line in logs] == ["finished on worker worker-0 after 1.234 s"]
        (event,) = await events_of(await rig.http.get(f"{url}/status/stream?logs=1"))
        assert event["logs"] == logs


async def test_a_result_asked_for_too_early_is_nothing_a_client_repeats(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        response = await rig.http.get(f"{QUEUE}/requests/{await submit(rig)}")
        assert response.status_code == 400
        assert response.json() == {"detail": "Request is still in progress"}


async def test_a_cancelled_request_is_completed_with_an_error(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        url = f"{QUEUE}/requests/{await submit(rig)}"
        cancelled = await rig.http.put(f"{url}/cancel")
        assert cancelled.status_code == 202
        assert cancelled.json() == {"status": "CANCELLATION_REQUESTED"}
        status = (await rig.http.get(f"{url}/status")).json()
        assert (status["status"], status["error_type"]) == ("COMPLETED", "client_cancelled")
        assert status["error"]
        result = await rig.http.get(url)
        assert result.status_code == 499
        assert result.headers["x-fal-error-type"] == "client_cancelled"
        assert (await rig.http.put(f"{url}/cancel")).status_code == 400


async def test_a_failed_request_answers_its_error_as_its_result(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        url = f"{QUEUE}/requests/{await submit(rig)}"
        await (await rig.platform.submitted()).fail("ENGINE_FAILED", "boom", retryable=True)
        status = (await rig.http.get(f"{url}/status")).json()
        assert (status["status"], status["error"]) == ("COMPLETED", "boom")
        result = await rig.http.get(url)
        assert (result.status_code, result.json()["detail"][0]["msg"]) == (500, "boom")
        assert result.headers["x-fal-retryable"] == "true"


@pytest.mark.parametrize("suffix", ["", "/status", "/status/stream"])
async def test_other_tenants_apps_and_ids_are_alike_unknown(tmp_path: Path, suffix: str) -> None:
    async with a_gateway(tmp_path) as rig:
        request_id = await submit(rig)
        bob = {"authorization": f"Key {BOB_KEY}"}
        for path, headers in [
            (f"{QUEUE}/requests/{request_id}{suffix}", bob),
            (f"/queue/other/app/requests/{request_id}{suffix}", {}),
            (f"{QUEUE}/requests/req-999{suffix}", {}),
            (f"{QUEUE}/requests/a%0Ab{suffix}", {}),
        ]:
            response = await rig.http.get(path, headers=headers)
            assert response.status_code == 404, path
            assert response.json()["error_type"] == "not_found"
        unknown = await rig.http.put(f"{QUEUE}/requests/req-999/cancel")
        assert (unknown.status_code, unknown.json()) == (404, {"status": "NOT_FOUND"})


@pytest.mark.parametrize(
    "app", ["quickthaw/shapes", "fal-ai/shapes", "fal-ai/shapes/dev", "fal-ai/shapes/other"]
)
async def test_a_request_is_found_under_every_app_of_its_model(tmp_path: Path, app: str) -> None:
    async with a_gateway(tmp_path) as rig:
        request_id = await submit(rig, "/queue/fal-ai/shapes/dev")
        response = await rig.http.get(f"/queue/{app}/requests/{request_id}/status")
        assert response.status_code == 200


async def test_an_idempotency_key_makes_one_request_of_two_posts(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        headers = {"idempotency-key": "order-7"}
        ids = {
            (await rig.http.post(QUEUE, json={"prompt": "x"}, headers=headers)).json()["request_id"]
            for _ in range(2)
        }
        assert len(ids) == len(rig.platform.requests) == 1


async def test_a_webhook_that_nobody_would_deliver_is_refused(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_key=False) as rig:
        hook = {"fal_webhook": "http://example.org"}
        response = await rig.http.post(QUEUE, params=hook, json={"prompt": "x"})
        assert response.status_code == 400
        assert "webhook" in response.json()["detail"]
        assert not rig.platform.requests


async def test_a_status_stream_tells_each_change_once_and_ends(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        url = f"{QUEUE}/requests/{await submit(rig)}/status/stream?logs=1"
        request = await rig.platform.submitted()
        await request.move(QUEUED, queue_position=2)
        async with rig.http.stream("GET", url) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            reading = asyncio.create_task(events_of(response))
            await request.move(QUEUED, queue_position=1)
            await request.move(PLACED)
            await request.log("one")
            await request.move(RUNNING)
            await request.log("two")
            await request.move(QUEUED)
            await request.succeed()
            events = await reading
        assert [event["status"] for event in events] == [
            *("IN_QUEUE", "IN_QUEUE", "IN_PROGRESS", "IN_PROGRESS", "IN_PROGRESS", "COMPLETED"),
        ]
        assert [event["queue_position"] for event in events[:2]] == [2, 1]
        lines = [
            line["message"]
            for event in events
            for line in event.get("logs") or []  # type: ignore[attr-defined]
        ]
        assert lines == ["one", "two"]


async def test_a_status_stream_outlives_a_restart_of_the_scheduler(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        url = f"{QUEUE}/requests/{await submit(rig)}/status/stream"
        request = await rig.platform.submitted()
        await request.move(RUNNING)
        async with rig.http.stream("GET", url) as response:
            reading = asyncio.create_task(events_of(response))
            await rig.restart_scheduler()
            await request.succeed()
            events = await reading
        assert events[-1]["status"] == "COMPLETED"
