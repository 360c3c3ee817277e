"""The gateway in front of the real scheduler, with a worker that the test plays."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from PIL import Image

from quickthaw.gateway.server import running
from quickthaw.gateway.settings import GatewaySettings, Limits
from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, types_pb2
from quickthaw.wire.process import Address
from support.fake_worker import FakeWorker
from support.gateway_rig import ANY_PORT, events_of
from support.patience import PATIENCE_SECONDS
from support.schedulers import Running, a_model, a_scheduler

PICTURE = b"\x89PNG and so on"


@dataclass
class Stack:
    scheduler: Running
    worker: FakeWorker
    http: httpx.AsyncClient
    """With a key of the tenant `alice`."""
    nobody: httpx.AsyncClient

    def finish_with_picture(self, assign: fleet_pb2.Assign) -> None:
        uri = f"artifacts/{assign.request_id}/0.png"
        path = Path(self.scheduler.settings.blob_store) / uri
        path.parent.mkdir(parents=True)
        path.write_bytes(PICTURE)
        artifact = types_pb2.Artifact(
            uri=uri,
            name="0.png",
            content_type="image/png",
            size_bytes=len(PICTURE),
            sha256=hashlib.sha256(PICTURE).hexdigest(),
            width=64,
            height=64,
        )
        self.worker.finish(assign, metered_ms=500, artifacts=[artifact])

    async def new_key(self, tenant: str) -> dict[str, str]:
        request = billing_pb2.CreateKeyRequest(tenant=tenant, scopes=[billing_pb2.SCOPE_CALL])
        answer = await self.scheduler.admin.accounts.CreateKey(request)
        return {"authorization": f"Key {answer.secret}"}


@asynccontextmanager
async def a_stack(folder: Path) -> AsyncIterator[Stack]:
    data_dir = folder / "data"
    async with a_scheduler(data_dir) as scheduler:
        settings = GatewaySettings(
            scheduler=Address.parse(scheduler.address),
            http=ANY_PORT,
            key_file=data_dir / "admin.key",
            link_secret_file=data_dir / "links.secret",
            limits=Limits(drain_seconds=1),
        )
        async with (
            FakeWorker(scheduler.address, scheduler.worker_key) as worker,
            running(settings) as listening,
            httpx.AsyncClient(base_url=listening.public_url, timeout=PATIENCE_SECONDS) as http,
            httpx.AsyncClient(base_url=listening.public_url, timeout=PATIENCE_SECONDS) as nobody,
        ):
            stack = Stack(scheduler, worker, http, nobody)
            http.headers.update(await stack.new_key("alice"))
            yield stack


async def test_a_run_of_any_tenant_ends_with_a_link_that_works(tmp_path: Path) -> None:
    async with a_stack(tmp_path) as stack:
        answer = asyncio.create_task(stack.http.post("/run/test/tiny", json={"prompt": "x"}))
        assign = await stack.worker.next_assign()
        stack.worker.running(assign.attempt_id)
        stack.finish_with_picture(assign)
        output = (await answer).json()
        assert output["receipt"]["billed_ms"] == 500
        picture = await stack.nobody.get(output["images"][0]["url"])
        assert (picture.status_code, picture.content) == (200, PICTURE)
        # The link is the only way round the tenant: its request is nobody else's.
        bob = await stack.new_key("bob")
        path = f"/queue/test/tiny/requests/{assign.request_id}"
        assert (await stack.http.get(path)).status_code == 200
        assert (await stack.nobody.get(path, headers=bob)).status_code == 404


async def test_a_queued_request_is_told_from_its_submission_to_its_end(tmp_path: Path) -> None:
    async with a_stack(tmp_path) as stack:
        queued = (await stack.http.post("/queue/test/tiny", json={"prompt": "x"})).json()
        assign = await stack.worker.next_assign()
        async with stack.http.stream("GET", queued["status_url"] + "/stream?logs=1") as response:
            reading = asyncio.create_task(events_of(response))
            stack.worker.running(assign.attempt_id)
            stack.finish_with_picture(assign)
            events = await reading
        assert [event["status"] for event in events][-2:] == ["IN_PROGRESS", "COMPLETED"]
        result = await stack.http.get(queued["response_url"])
        assert result.json()["images"][0]["file_size"] == len(PICTURE)


async def test_a_caller_that_leaves_stops_its_run_on_the_worker(tmp_path: Path) -> None:
    async with a_stack(tmp_path) as stack:
        answer = asyncio.create_task(stack.http.post("/run/test/tiny", json={"prompt": "x"}))
        assign = await stack.worker.next_assign()
        stack.worker.running(assign.attempt_id)
        answer.cancel()
        cancel = await stack.worker.next_cancel()
        assert cancel.attempt_id == assign.attempt_id
        stack.worker.finish(assign, "cancelled", metered_ms=10)


async def test_a_run_that_is_made_again_with_its_key_is_answered_without_another(
    tmp_path: Path,
) -> None:
    once, path = {"idempotency-key": "order-7"}, "/run/test/tiny"
    async with a_stack(tmp_path) as stack:
        answer = asyncio.create_task(stack.http.post(path, json={"prompt": "x"}, headers=once))
        assign = await stack.worker.next_assign()
        answer.cancel()
        stack.worker.running(assign.attempt_id)
        stack.finish_with_picture(assign)
        again = await stack.http.post(path, json={"prompt": "x"}, headers=once)
        assert again.status_code == 200, again.text
        assert again.headers["x-fal-request-id"] == assign.request_id
        other = await stack.http.post(path, json={"prompt": "y"}, headers=once)
        assert other.status_code == 422
        bob = once | await stack.new_key("bob")
        asking = asyncio.create_task(stack.http.post(path, json={"prompt": "y"}, headers=bob))
        stack.finish_with_picture(await stack.worker.next_assign())
        assert (await asking).status_code == 200


async def test_a_request_is_cancelled_from_the_queue(tmp_path: Path) -> None:
    async with a_stack(tmp_path) as stack:
        queued = (await stack.http.post("/queue/test/tiny", json={"prompt": "x"})).json()
        assign = await stack.worker.next_assign()
        assert (await stack.http.put(queued["cancel_url"])).status_code == 202
        await stack.worker.next_cancel()
        stack.worker.finish(assign, "cancelled", metered_ms=0)
        async with stack.http.stream("GET", queued["status_url"] + "/stream") as response:
            await events_of(response)
        status = (await stack.http.get(queued["status_url"] + "?logs=1")).json()
        assert (status["status"], status["error_type"]) == ("COMPLETED", "client_cancelled")
        assert status["logs"]


async def test_bad_arguments_and_unknown_names_are_the_callers_fault(tmp_path: Path) -> None:
    async with a_stack(tmp_path) as stack:
        wrong = {"image_size": {"width": 8}, "num_images": "many"}
        response = await stack.http.post("/run/test/tiny", json=wrong)
        assert response.status_code == 422
        kinds = {item["loc"][-1]: item["type"] for item in response.json()["detail"]}
        assert kinds == {
            "width": "greater_than_equal",
            "num_images": "int_type",
            "prompt": "missing",
        }
        assert (await stack.http.post("/run/test/none", json={})).status_code == 404
        response = await stack.nobody.post("/run/test/tiny", json={"prompt": "x"})
        assert response.status_code == 401
        assert (await stack.nobody.get("/health/ready")).status_code == 200


async def test_an_edit_goes_to_the_model_beside_one_that_draws_from_text_only(
    tmp_path: Path,
) -> None:
    async with a_stack(tmp_path) as stack:
        for name, pictures in (("acme/ink", ()), ("acme/ink/image-to-image", ("image_url",))):
            model = a_model(name)
            model.aliases[:] = []
            properties = {each: {"type": "string"} for each in ("prompt", *pictures)}
            model.input_schema_json = json.dumps({"type": "object", "properties": properties})
            await stack.scheduler.admin.catalog.Register(catalog_pb2.RegisterRequest(model=model))
        drawn = io.BytesIO()
        Image.new("RGB", (64, 64)).save(drawn, "PNG")
        asking = asyncio.create_task(
            stack.http.post(
                "/openai/v1/images/edits",
                data={"model": "acme/ink", "prompt": "in blue"},
                files={"image": drawn.getvalue()},
            )
        )
        assign = await stack.worker.next_assign()
        assert assign.model == "acme/ink/image-to-image"
        assert json.loads(assign.input_json)["image_url"].startswith("data:")
        stack.worker.running(assign.attempt_id)
        stack.finish_with_picture(assign)
        assert base64.b64decode((await asking).json()["data"][0]["b64_json"]) == PICTURE
        refused = await stack.http.post(
            "/openai/v1/images/variations",
            data={"model": "test/tiny"},
            files={"image": drawn.getvalue()},
        )
        assert refused.json()["error"]["code"] == "operation_not_supported"


async def test_a_damaged_file_is_not_passed_off_as_whole(tmp_path: Path) -> None:
    async with a_stack(tmp_path) as stack:
        queued = (await stack.http.post("/queue/test/tiny", json={"prompt": "x"})).json()
        assign = await stack.worker.next_assign()
        stack.worker.running(assign.attempt_id)
        stack.finish_with_picture(assign)
        async with stack.http.stream("GET", queued["status_url"] + "/stream") as response:
            await events_of(response)
        url = (await stack.http.get(queued["response_url"])).json()["images"][0]["url"]
        stored = Path(stack.scheduler.settings.blob_store) / f"artifacts/{assign.request_id}/0.png"
        stored.write_bytes(PICTURE[::-1])
        try:
            response = await stack.nobody.get(url)
        except httpx.RemoteProtocolError:
            return
        raise AssertionError(f"{response.status_code} with {response.content!r}")


def a_data_uri(width: int, height: int) -> str:
    data = io.BytesIO()
    Image.new("RGB", (width, height)).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


async def refused_later(
    stack: Stack, model: str, arguments: Mapping[str, object]
) -> dict[str, object]:
    """The one thing that is wrong, as the result of a queued request tells of it."""
    queued = (await stack.http.post(f"/queue/{model}", json=arguments)).json()
    status = await stack.http.get(queued["status_url"])
    assert (status.status_code, status.json()["status"]) == (200, "COMPLETED"), status.text
    result = await stack.http.get(queued["response_url"])
    assert result.status_code == 422
    [item] = result.json()["detail"]
    assert isinstance(item, dict)
    return item


async def test_what_a_queued_request_was_refused_for_has_its_kind_as_if_it_had_been_run(
    tmp_path: Path,
) -> None:
    async with a_stack(tmp_path) as stack:
        model = a_model("test/over")
        schema = json.loads(model.input_schema_json)
        schema["properties"]["image_url"] = {"type": "string"}
        model.input_schema_json = json.dumps(schema)
        await stack.scheduler.admin.catalog.Register(catalog_pb2.RegisterRequest(model=model))
        private = {"prompt": "x", "image_url": "http://127.0.0.1:1/a.png"}
        item = await refused_later(stack, "test/over", private)
        assert (item["type"], item["loc"]) == ("file_download_error", ["body", "image_url"])
        too_small = {"prompt": "x", "image_url": a_data_uri(2, 2)}
        item = await refused_later(stack, "test/over", too_small)
        assert (item["type"], item["loc"]) == ("image_too_small", ["body", "image_url"])
        assert isinstance(item["ctx"], dict)
        assert item["ctx"]["min_width"] > 2
        large = {"prompt": "x", "image_url": "data:image/png;base64," + "A" * 1_200_000}
        assert (await refused_later(stack, "test/over", large))["type"] == "image_load_error"
        item = await refused_later(stack, "test/tiny", {"prompt": "x", "image_size": "banana"})
        assert (item["type"], item["loc"]) == ("one_of", ["body", "image_size"])
        item = await refused_later(stack, "test/tiny", {})
        assert (item["type"], item["loc"]) == ("missing", ["body", "prompt"])
        assert stack.worker.assigned.empty()


async def test_prices_are_told_of_endpoints_that_the_key_may_call(tmp_path: Path) -> None:
    async with a_stack(tmp_path) as stack:
        path = "/v1/models/pricing"
        told = (await stack.http.get(path, params={"endpoint_id": "test/tiny"})).json()
        (price,) = told["prices"]
        assert (told["next_cursor"], told["has_more"]) == (None, False)
        assert (price["endpoint_id"], price["currency"]) == ("test/tiny", "USD")
        assert price["unit"] == "compute seconds"
        assert price["unit_price"] == max(price["unit_price_by_gpu_type"].values()) > 0
        unnamed = await stack.http.get(path)
        assert (unnamed.status_code, unnamed.json()["error_type"]) == (400, "bad_request")
        for each, status in ((stack.nobody, 401), (stack.http, 404)):
            answer = await each.get(path, params={"endpoint_id": "test/tiny,test/none"})
            assert answer.status_code == status


async def test_what_is_to_come_is_estimated_by_units_or_by_what_calls_cost(tmp_path: Path) -> None:
    path = "/v1/models/pricing/estimate"
    async with a_stack(tmp_path) as stack:

        async def estimated(by: object, **endpoints: object) -> httpx.Response:
            named = {name.replace("_", "/"): asked for name, asked in endpoints.items()}
            return await stack.http.post(path, json={"estimate_type": by, "endpoints": named})

        once = {"call_quantity": 1}
        unknown = await estimated("historical_api_price", test_tiny=once)
        assert (unknown.status_code, "unit_price" in unknown.text) == (404, True)
        bob = await stack.new_key("bob")
        for headers in ({}, {}, bob):
            queued = await stack.http.post(
                "/queue/test/tiny", json={"prompt": "x"}, headers=headers
            )
            stack.worker.finish(await stack.worker.next_assign(), metered_ms=500)
            async with stack.http.stream(
                "GET", queued.json()["status_url"] + "/stream", headers=headers
            ) as response:
                await events_of(response)
        stack.http.headers.update(await stack.new_key("alice"))  # Which nothing is known of yet.
        prices = await stack.http.get("/v1/models/pricing", params={"endpoint_id": "test/tiny"})
        (price,) = prices.json()["prices"]
        past = await estimated("historical_api_price", test_tiny={"call_quantity": 100})
        rate = price["unit_price_by_gpu_type"]["cpu"]
        assert past.json() == {
            "estimate_type": "historical_api_price",
            "total_cost": pytest.approx(100 * 0.5 * rate),
            "currency": "USD",
        }
        units = await estimated("unit_price", test_tiny={"unit_quantity": 2.5})
        assert units.json()["total_cost"] == pytest.approx(2.5 * price["unit_price"])
        model = (await stack.http.get("/replicate/v1/models/test/tiny")).json()
        assert model["run_count"] == 2
        for by, asked in (
            ("guess", {"test_tiny": once}),
            ([], {"test_tiny": once}),
            ("unit_price", {}),
            ("unit_price", {"test_tiny": once}),
            ("historical_api_price", {"test_tiny": {"call_quantity": -1}}),
        ):
            assert (await estimated(by, **asked)).status_code == 400
        assert (await estimated("unit_price", test_none={"unit_quantity": 1})).status_code == 404
