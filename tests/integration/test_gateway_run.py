from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import httpx
import pytest

from quickthaw.gateway.settings import Limits
from quickthaw.v1 import types_pb2
from quickthaw.wire import errors
from support.fake_inference import ALICE_KEY, served
from support.gateway_rig import a_gateway
from support.patience import PATIENCE_SECONDS

RUN = "/run/quickthaw/shapes"


async def test_a_run_answers_the_models_output_in_fals_shape(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.http.post(RUN, json={"prompt": "a red circle", "num_images": 2})
        assert response.status_code == 200
        output = response.json()
        assert [image["content_type"] for image in output["images"]] == ["image/png"] * 2
        assert {"url", "width", "height", "file_name", "file_size"} <= output["images"][0].keys()
        assert output["prompt"] == "a red circle"
        assert output["seed"] == 7
        assert output["timings"] == {"inference": 1.234}
        assert output["has_nsfw_concepts"] == [False, False]
        assert output["receipt"]["billed_ms"] == 1234
        assert output["receipt"]["start_tier"] == "disk"
        assert response.headers["x-fal-request-id"] == output["receipt"]["request_id"]
        picture = await rig.nobody.get(output["images"][1]["url"])
        assert picture.content == b"picture 1"


@pytest.mark.parametrize(
    "path",
    [
        "/run/quickthaw/shapes/",
        "/quickthaw/shapes",
        "/fal-ai/shapes/dev",
        "/run/fal-ai%2Fshapes%2Fdev",
    ],
)
async def test_every_form_of_an_endpoints_path_runs_it(tmp_path: Path, path: str) -> None:
    async with a_gateway(tmp_path) as rig:
        assert (await rig.http.post(path, json={"prompt": "x"})).status_code == 200


async def test_the_host_header_of_a_redirected_client_chooses_the_surface(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        path, body = "/quickthaw/shapes", {"prompt": "x"}
        queued = await rig.http.post(path, json=body, headers={"host": "queue.fal.run"})
        assert queued.json()["status"] == "IN_QUEUE"
        # URLs come from the public address, not from the name that the client believed in.
        assert queued.json()["status_url"].startswith(rig.listening.public_url)
        ran = await rig.http.post(path, json=body, headers={"host": "fal.run"})
        assert "images" in ran.json()


async def test_a_body_counts_as_json_whatever_it_says_it_is(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        headers = {"content-type": "text/plain"}
        content = json.dumps({"prompt": "\u00fc \U0001f600"})
        response = await rig.http.post(RUN, content=content, headers=headers)
        assert response.status_code == 200
        assert response.content.isascii()
        assert response.json()["prompt"] == "\u00fc \U0001f600"


async def test_arguments_reach_the_model_under_its_own_names(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        await rig.http.post(
            RUN,
            json={"prompt": "x", "image_size": "square", "guidance_scale": 2, "controlnets": []},
            headers={"x-fal-queue-priority": "low", "x-fal-runner-hint": "worker-9"},
        )
        request = await rig.platform.submitted()
        assert request.input == {
            "prompt": "x",
            "image_size": {"width": 512, "height": 512},
            "guidance_scale": 2,
        }
        assert request.submitted.priority == types_pb2.PRIORITY_LOW
        assert request.submitted.worker_hint == "worker-9"


async def test_sync_mode_answers_with_the_pictures_themselves(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.http.post(RUN, json={"prompt": "x", "sync_mode": True})
        head, _, data = response.json()["images"][0]["url"].partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == b"picture 0"


async def test_a_gateway_without_a_key_answers_with_the_pictures_themselves(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, with_key=False) as rig:
        response = await rig.http.post(RUN, json={"prompt": "x"})
        assert response.json()["images"][0]["url"].startswith("data:image/png;base64,")


async def test_pictures_too_large_for_an_answer_stay_links(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=Limits(inline_bytes_max=5, drain_seconds=1)) as rig:
        response = await rig.http.post(RUN, json={"prompt": "x", "sync_mode": True})
        assert response.json()["images"][0]["url"].startswith(rig.listening.public_url)


async def test_bad_arguments_are_told_one_by_one_before_any_work(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.http.post(RUN, json={"num_images": 0})
        assert response.status_code == 422
        assert (
            response.headers["x-fal-retryable"] == response.headers["x-fal-needs-retry"] == "false"
        )
        detail = {item["loc"][-1]: item for item in response.json()["detail"]}
        assert detail["prompt"]["type"] == "missing"
        assert detail["num_images"]["type"] == "greater_than_equal"
        assert detail["num_images"]["ctx"] == {"ge": 1}
        assert "error_type" not in response.json()
        assert not rig.platform.requests


async def test_an_unknown_model_is_a_404_with_a_text(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.http.post("/run/no/model", json={})
        assert response.status_code == 404
        assert isinstance(response.json()["detail"], str)
        assert response.headers["x-fal-error-type"] == response.json()["error_type"] == "not_found"


@pytest.mark.parametrize(
    "header", [{}, {"authorization": "Key wrong"}, {"authorization": "Basic a"}]
)
async def test_without_a_good_key_nothing_is_told(tmp_path: Path, header: dict[str, str]) -> None:
    async with a_gateway(tmp_path) as rig:
        response = await rig.nobody.post(RUN, json={"prompt": "x"}, headers=header)
        assert response.status_code == 401
        assert response.json()["error_type"] == "auth_error"
        assert "www-authenticate" not in response.headers


async def test_bearer_is_as_good_as_key(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        header = {"authorization": f"Bearer {ALICE_KEY}"}
        response = await rig.nobody.post(RUN, json={"prompt": "x"}, headers=header)
        assert response.status_code == 200


async def test_a_failed_run_is_the_models_error(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        answer = asyncio.create_task(rig.http.post(RUN, json={"prompt": "x"}))
        request = await rig.platform.submitted()
        await request.fail("ENGINE_FAILED", "the model raised")
        response = await answer
        assert response.status_code == 500
        assert response.json()["detail"] == [
            {
                "loc": ["body"],
                "msg": "the model raised",
                "type": "internal_server_error",
                "url": f"{rig.listening.public_url}/docs/errors#internal_server_error",
            }
        ]
        assert response.headers["x-fal-request-id"] == request.record.request_id
        assert response.headers["x-fal-retryable"] == "false"


async def test_a_worker_that_finds_fault_with_an_argument_is_a_422(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        answer = asyncio.create_task(rig.http.post(RUN, json={"prompt": "x"}))
        request = await rig.platform.submitted()
        wrong = ("input.prompt", "more tokens than the model reads")
        await request.fail("INVALID_INPUT", "the prompt is too long", violations=(wrong,))
        response = await answer
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "prompt"]


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.refuse_submit = errors.QueueFull("full", retry_delay_seconds=3)
        response = await rig.http.post(RUN, json={"prompt": "x"})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "3"


async def test_a_caller_that_leaves_cancels_its_run(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        answer = asyncio.create_task(rig.http.post(RUN, json={"prompt": "x"}))
        request = await rig.platform.submitted()
        await request.move(types_pb2.REQUEST_STATE_RUNNING)
        answer.cancel()
        await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)


async def test_a_run_that_no_worker_starts_in_time_is_cancelled(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        timeout = {"x-fal-request-timeout": "0.05"}
        response = await rig.http.post(RUN, json={"prompt": "x"}, headers=timeout)
        assert response.status_code == 504
        assert response.json() == {"detail": "Request timed out", "error_type": "request_timeout"}
        assert response.headers["x-fal-request-timeout-type"] == "user"
        request = await rig.platform.submitted()
        await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)


async def test_a_run_that_has_started_is_not_bound_by_the_start_timeout(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        timeout = {"x-fal-request-timeout": "2"}
        answer = asyncio.create_task(rig.http.post(RUN, json={"prompt": "x"}, headers=timeout))
        request = await rig.platform.submitted()
        await request.move(types_pb2.REQUEST_STATE_PLACED)
        done, _ = await asyncio.wait({answer}, timeout=2.5)
        assert not done
        await request.succeed()
        assert (await answer).status_code == 200


async def test_a_run_longer_than_any_may_be_is_cancelled(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=Limits(run_seconds_max=1, drain_seconds=1)) as rig:
        rig.platform.hold()
        response = await rig.http.post(RUN, json={"prompt": "x"})
        assert response.status_code == 504
        assert response.json()["detail"][0]["type"] == "generation_timeout"
        request = await rig.platform.submitted()
        await asyncio.wait_for(request.cancelled.wait(), PATIENCE_SECONDS)


async def test_a_run_is_made_again_when_the_scheduler_restarts_and_then_outlives_others(
    tmp_path: Path,
) -> None:
    async with a_gateway(tmp_path) as rig:
        rig.platform.hold()
        answer = asyncio.create_task(rig.http.post(RUN, json={"prompt": "x"}))
        first = await rig.platform.submitted()
        await first.move(types_pb2.REQUEST_STATE_RUNNING)
        await rig.restart_scheduler()
        assert first.cancelled.is_set()
        second = await rig.platform.submitted(2)
        await second.move(types_pb2.REQUEST_STATE_RUNNING)
        await rig.restart_scheduler()
        await second.succeed(rig.platform.picture(second, b"after"))
        response = await answer
        assert response.status_code == 200
        assert response.headers["x-fal-request-id"] == second.record.request_id
        assert len(rig.platform.requests) == 2


async def test_a_scheduler_that_is_away_is_a_503(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, limits=Limits(reconnect_seconds=0.2, drain_seconds=1)) as rig:
        await rig.stop_scheduler()
        response = await rig.http.post(RUN, json={"prompt": "x"})
        assert response.status_code == 503
        assert response.json()["error_type"] == "runner_scheduling_failure"
        assert (await rig.http.get("/health/ready")).status_code == 503
        assert (await rig.http.get("/health")).status_code == 200


async def test_a_call_made_while_the_scheduler_restarts_is_made_once(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        await rig.stop_scheduler()
        answer = asyncio.create_task(rig.http.post(RUN, json={"prompt": "x"}))
        async with served(rig.platform, rig.scheduler_port):
            assert (await answer).status_code == 200
        assert len(rig.platform.requests) == 1


async def test_answers_tell_browsers_that_anyone_may_ask(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        asked = {"access-control-request-headers": "authorization, x-fal-new"}
        preflight = await rig.nobody.options(RUN, headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-headers"] == "authorization, x-fal-new"
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        refused = await rig.nobody.post(RUN, json={})
        assert refused.headers["access-control-allow-origin"] == "*"
        assert "x-fal-request-id" in refused.headers["access-control-expose-headers"]


async def test_every_answer_has_a_request_id_and_no_path_redirects(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as rig:
        for method, path, status in [
            ("GET", "/run/quickthaw/shapes/", 405),
            ("POST", "/rest/nothing/", 404),
            ("GET", "/favicon.ico", 405),
            ("GET", "/", 200),
            ("GET", "/openapi.json/", 200),
            ("GET", "/api/openapi/queue/openapi.json?endpoint_id=no/model", 404),
            ("GET", "/api/openapi/queue/openapi.json", 404),
        ]:
            response: httpx.Response = await rig.http.request(method, path)
            assert response.status_code == status, path
            assert response.headers["x-fal-request-id"]
