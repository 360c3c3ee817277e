"""The gateway in front of the real scheduler, with a worker that the test plays."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from quickthaw.gateway.server import running
from quickthaw.gateway.settings import GatewaySettings, Limits
from quickthaw.v1 import billing_pb2, fleet_pb2, types_pb2
from quickthaw.wire.process import Address
from support.fake_worker import FakeWorker
from support.gateway_rig import ANY_PORT, events_of
from support.schedulers import Running, a_scheduler

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
            httpx.AsyncClient(base_url=listening.public_url, timeout=30) as http,
            httpx.AsyncClient(base_url=listening.public_url, timeout=30) as nobody,
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
