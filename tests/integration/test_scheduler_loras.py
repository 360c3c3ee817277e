"""LoRAs named by the ids of models: who may, what the worker is told, and where they are placed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import billing_pb2, catalog_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.schedulers import SCHEMA, Caller, Running, a_model, a_scheduler

LORA = "me/style"
SECRET = "alice/secret"
FILE = "blob:loras/" + "k" * 43


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    base = a_model()
    item = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"path": {"type": "string"}, "scale": {"type": "number", "default": 1.0}},
    }
    properties = {**SCHEMA["properties"], "loras": {"type": "array", "items": item}}  # type: ignore[dict-item] # JSON
    base.input_schema_json = json.dumps({**SCHEMA, "properties": properties})
    async with a_scheduler(tmp_path / "data", models=[base, a_model(LORA)]) as running:
        await running.admin.catalog.Register(
            catalog_pb2.RegisterRequest(
                model=a_model(SECRET),
                endpoint=catalog_pb2.Endpoint(
                    visibility=catalog_pb2.VISIBILITY_PRIVATE, owner_tenant="alice"
                ),
            )
        )
        yield running


def given(*paths: str) -> str:
    return json.dumps({"prompt": "x", "loras": [{"path": path} for path in paths]})


async def a_caller(running: Running, tenant: str, *models: str) -> Caller:
    request = billing_pb2.CreateKeyRequest(tenant=tenant, scopes=[billing_pb2.SCOPE_CALL])
    request.limits.models.extend(models)
    return Caller(running.address, (await running.admin.accounts.CreateKey(request)).secret)


async def refusal(caller: Caller, *paths: str) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.submit(input_json=given(*paths))
    return error_from_rpc(caught.value)


async def test_a_worker_is_told_what_a_name_means_and_a_caller_its_own_words(
    running: Running,
) -> None:
    async with FakeWorker(running.address, running.worker_key) as worker:
        request_id = await running.admin.submit(input_json=given("style", FILE))
        assign = await worker.next_assign()
        told = [each["path"] for each in json.loads(assign.input_json)["loras"]]
        assert told == [f"snapshot:{'ab' * 32}@/snapshots/tiny", FILE]
        worker.finish(assign, metered_ms=5)
        ended = await running.admin.until_ended(request_id)
        kept = [each["path"] for each in json.loads(ended.input_json)["loras"]]
        assert kept == ["style", FILE]


async def test_a_private_lora_is_its_owners_and_not_there_for_others(running: Running) -> None:
    alice, bob = await a_caller(running, "alice"), await a_caller(running, "bob")
    await alice.submit(input_json=given(SECRET))
    found = await refusal(bob, LORA, SECRET)
    assert isinstance(found, errors.InvalidInput)
    assert [each.field for each in found.violations] == ["input.loras[1].path"]
    nobodys = await refusal(bob, LORA, "alice/secrex")
    assert found.message.replace("secret", "") == nobodys.message.replace("secrex", "")


async def test_a_key_for_some_models_is_for_no_other_lora(running: Running) -> None:
    caller = await a_caller(running, "carol", "test/*")
    await caller.submit(input_json=given(FILE))
    assert isinstance(await refusal(caller, LORA), errors.PermissionDenied)


@pytest.mark.parametrize(
    "path", [f"snapshot:{'ab' * 32}@/etc", "https://x.example/a", "blob:loras/../inputs/x", "/etc"]
)
async def test_what_is_neither_a_file_nor_a_model_is_refused(path: str, running: Running) -> None:
    found = await refusal(running.admin, path)
    assert isinstance(found, errors.InvalidInput)
    assert [each.field for each in found.violations] == ["input.loras[0].path"]


async def test_a_lora_goes_where_it_was_before(running: Running) -> None:
    async def ran(worker_hint: str = "") -> str:
        request_id = await running.admin.submit(input_json=given(FILE), worker_hint=worker_hint)
        ended = await running.admin.until_ended(request_id)
        return ended.receipt.worker_id

    async with (
        FakeWorker(running.address, running.worker_key, "one", automatic=True, metered_ms=1),
        FakeWorker(running.address, running.worker_key, "two", automatic=True, metered_ms=1),
    ):
        assert await ran("two") == "two"
        assert [await ran() for _ in range(4)] == ["two"] * 4
        assert await ran("one") == "one"
        assert [await ran() for _ in range(4)] == ["one"] * 4
