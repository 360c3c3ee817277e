"""Keys, scopes, tenants, limits, health and reflection of a real scheduler."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from quickthaw.v1 import (
    billing_pb2,
    catalog_pb2,
    fleet_pb2,
    inference_pb2,
    types_pb2,
)
from quickthaw.wire import errors, limits
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker, now_ms
from support.patience import PATIENCE_SECONDS
from support.schedulers import FAST, Caller, Running, a_model, a_scheduler, submission

CALL, ADMIN, WORKER = billing_pb2.SCOPE_CALL, billing_pb2.SCOPE_ADMIN, billing_pb2.SCOPE_WORKER


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data") as running:
        yield running


async def refusal(call: Awaitable[object] | AsyncIterable[object]) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if isinstance(call, Awaitable) else _drained(call))
    return error_from_rpc(caught.value)


async def _drained(call: AsyncIterable[object]) -> None:
    async for _ in call:
        pass


def raw_submit(channel: grpc.aio.Channel) -> Any:
    """Bytes in, bytes out."""
    return channel.unary_unary("/quickthaw.v1.Inference/Submit")


async def a_caller(
    running: Running, tenant: str, *scopes: billing_pb2.Scope.ValueType, expires_ms: int = 0
) -> tuple[Caller, billing_pb2.Key]:
    answer = await running.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(tenant=tenant, scopes=scopes, expires_unix_ms=expires_ms)
    )
    return Caller(running.address, answer.secret), answer.key


async def test_the_key_files_are_for_their_owner_alone(running: Running) -> None:
    for name in ("admin.key", "worker.key"):
        path = running.settings.data_dir / name
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text().startswith("qt_")


@pytest.mark.parametrize(
    "key", ["", "qt_000000000000_" + "x" * 43, "something", "qt_000000000000_short"]
)
async def test_a_wrong_key_is_refused(running: Running, key: str) -> None:
    caller = Caller(running.address, key)
    calls = (
        caller.inference.Submit(submission()),
        caller.inference.Watch(inference_pb2.WatchRequest(request_id="x")),
        caller.catalog.ListModels(catalog_pb2.ListModelsRequest()),
    )
    for call in calls:
        assert type(await refusal(call)) is errors.Unauthenticated
    await caller.channel.close()


async def test_a_call_without_any_key_is_refused(running: Running) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        error = await refusal(raw_submit(channel)(b""))
    assert isinstance(error, errors.Unauthenticated)
    assert "admin.key" in error.message


async def test_who_has_no_key_is_refused_before_anything_is_read_of_the_call(
    running: Running,
) -> None:
    """So that strangers neither fill the scheduler with messages nor hold calls open."""
    async with grpc.aio.insecure_channel(running.address) as channel:
        submit: Any = channel.stream_unary("/quickthaw.v1.Inference/Submit")
        silent = await refusal(submit(timeout=PATIENCE_SECONDS))
    assert isinstance(silent, errors.Unauthenticated)


async def test_a_key_may_do_what_its_scope_says_and_nothing_else(running: Running) -> None:
    caller, _key = await a_caller(running, "acme", CALL)
    await caller.inference.Submit(submission())
    await caller.catalog.GetModel(catalog_pb2.GetModelRequest(id="tiny"))
    forbidden = (
        caller.catalog.Register(catalog_pb2.RegisterRequest(model=a_model("test/more"))),
        caller.fleet.ListWorkers(fleet_pb2.ListWorkersRequest()),
        caller.accounts.CreateKey(billing_pb2.CreateKeyRequest(tenant="acme", scopes=[ADMIN])),
        caller.billing.GetUsage(billing_pb2.GetUsageRequest(tenant="default")),
    )
    for call in forbidden:
        assert type(await refusal(call)) is errors.PermissionDenied
    with pytest.raises(errors.PermissionDenied, match="'worker'"):
        await FakeWorker(running.address, caller.key).attach()
    worker = Caller(running.address, running.worker_key)
    assert type(await refusal(worker.inference.Submit(submission()))) is errors.PermissionDenied
    await caller.channel.close()
    await worker.channel.close()


async def test_requests_of_another_tenant_do_not_exist(running: Running) -> None:
    request_id = await running.admin.submit()
    caller, _key = await a_caller(running, "acme", CALL)
    calls = (
        caller.inference.Get(inference_pb2.GetRequest(request_id=request_id)),
        caller.inference.Cancel(inference_pb2.CancelRequest(request_id=request_id)),
        caller.inference.Watch(inference_pb2.WatchRequest(request_id=request_id)),
        caller.fleet.Explain(fleet_pb2.ExplainRequest(request_id=request_id)),
    )
    for call in calls:
        assert type(await refusal(call)) is errors.RequestNotFound
    listed = await caller.inference.List(inference_pb2.ListRequestsRequest())
    assert list(listed.requests) == []
    await caller.channel.close()


async def test_idempotency_keys_of_two_tenants_do_not_meet(running: Running) -> None:
    caller, _key = await a_caller(running, "acme", CALL)
    message = submission(idempotency_key="same")
    mine = await running.admin.inference.Submit(message)
    theirs = await caller.inference.Submit(message)
    assert mine.request_id != theirs.request_id
    assert not theirs.deduplicated
    await caller.channel.close()


async def test_a_revoked_key_stops_working_at_once(running: Running) -> None:
    caller, key = await a_caller(running, "acme", CALL)
    await caller.inference.Submit(submission())
    revoked = await running.admin.accounts.RevokeKey(
        billing_pb2.RevokeKeyRequest(key_id=key.key_id)
    )
    assert revoked.key.revoked_unix_ms > 0
    error = await refusal(caller.inference.Submit(submission()))
    assert isinstance(error, errors.Unauthenticated)
    assert "revoked" in error.message
    listed = await running.admin.accounts.ListKeys(billing_pb2.ListKeysRequest(tenant="acme"))
    assert [each.key_id for each in listed.keys] == [key.key_id]
    await caller.channel.close()


async def test_the_last_admin_key_cannot_be_revoked(running: Running) -> None:
    listed = await running.admin.accounts.ListKeys(billing_pb2.ListKeysRequest())
    [admin] = [key for key in listed.keys if ADMIN in key.scopes]
    request = billing_pb2.RevokeKeyRequest(key_id=admin.key_id)
    error = await refusal(running.admin.accounts.RevokeKey(request))
    assert isinstance(error, errors.FailedPrecondition)
    second, _key = await a_caller(running, "ops", ADMIN)
    await second.accounts.RevokeKey(request)
    await second.channel.close()


async def test_an_unknown_key_cannot_be_revoked(running: Running) -> None:
    request = billing_pb2.RevokeKeyRequest(key_id="nothing")
    error = await refusal(running.admin.accounts.RevokeKey(request))
    assert isinstance(error, errors.KeyNotFound)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tenant": "Bad Name", "scopes": [CALL]}, "tenant"),
        ({"tenant": "acme"}, "scopes"),
        ({"tenant": "acme", "scopes": [0]}, "scopes"),
        ({"tenant": "acme", "scopes": [CALL], "label": "x" * 101}, "label"),
        ({"tenant": "acme", "scopes": [CALL], "expires_unix_ms": 5}, "expires_unix_ms"),
    ],
)
async def test_a_key_that_cannot_be_meant_is_refused(
    running: Running, fields: dict[str, object], words: str
) -> None:
    message = billing_pb2.CreateKeyRequest(**fields)  # type: ignore[arg-type] # by name
    error = await refusal(running.admin.accounts.CreateKey(message))
    assert isinstance(error, errors.InvalidArgument)
    assert words in error.message


async def test_an_expiring_key_works_until_then(running: Running) -> None:
    caller, key = await a_caller(running, "acme", CALL, expires_ms=now_ms() + 3_600_000)
    await caller.inference.Submit(submission())
    assert key.expires_unix_ms > now_ms()
    await caller.channel.close()


async def test_a_message_over_the_limit_says_so(running: Running) -> None:
    large = submission(input_json='{"prompt": "' + "x" * limits.MESSAGE_BYTES_MAX + '"}')
    async with grpc.aio.insecure_channel(
        running.address, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        call = raw_submit(channel)(
            large.SerializeToString(), metadata=(("authorization", f"Key {running.admin.key}"),)
        )
        error = await refusal(call)
    assert isinstance(error, errors.MessageTooLarge)
    assert str(limits.MESSAGE_BYTES_MAX) in error.message


async def test_an_input_over_its_limit_says_so(running: Running) -> None:
    large = submission(input_json='{"prompt": "' + "x" * limits.INPUT_BYTES_MAX + '"}')
    error = await refusal(running.admin.inference.Submit(large))
    assert isinstance(error, errors.MessageTooLarge)
    assert str(limits.INPUT_BYTES_MAX) in error.message


async def test_metadata_over_the_limit_is_refused(running: Running) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        call = raw_submit(channel)(
            b"", metadata=(("x-filler", "x" * limits.METADATA_BYTES_MAX * 2),)
        )
        assert isinstance(await refusal(call), errors.ResourceExhausted)


async def test_a_full_queue_refuses_with_a_delay_and_never_overfills(tmp_path: Path) -> None:
    few = dataclasses.replace(FAST, queue_max=5, tenant_queue_max=5)
    async with a_scheduler(tmp_path / "data", limits=few) as running:
        answers = await asyncio.gather(
            *(running.admin.inference.Submit(submission()) for _ in range(20)),
            return_exceptions=True,
        )
        refused = [error_from_rpc(each) for each in answers if isinstance(each, grpc.RpcError)]
        assert len(refused) == 15
        assert all(isinstance(each, errors.QueueFull) for each in refused)
        assert all(each.retry_delay_seconds for each in refused)
        async with FakeWorker(running.address, running.worker_key, automatic=True):
            for answer in answers:
                if isinstance(answer, inference_pb2.SubmitResponse):
                    await running.admin.until_ended(answer.request_id)
            await running.admin.inference.Run(submission())


async def test_health_and_reflection_need_no_key(running: Running) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        # The stubs do not know the methods of these stubs.
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "quickthaw.v1.Inference"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
        call = reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        names = [s.name async for r in call for s in r.list_services_response.service]
    services = ("Inference", "Catalog", "Fleet", "Billing", "Accounts")
    assert {f"quickthaw.v1.{name}" for name in services} <= set(names)


async def test_calls_without_a_key_leave_room_for_those_with_one(tmp_path: Path) -> None:
    """Watches that nobody ends, and calls that never say what they ask."""
    few = dataclasses.replace(FAST, rpcs_max=10, keyless_rpcs_max=4)
    async with (
        a_scheduler(tmp_path / "data", limits=few) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(30)]
        reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        silent: list[Any] = [
            channel.stream_stream(method)()
            for method in (reflection, "/grpc.health.v1.Health/List")
            for _ in range(30)
        ]
        first = await asyncio.gather(*(watch.read() for watch in watches), return_exceptions=True)
        refused = [each for each in first if isinstance(each, grpc.aio.AioRpcError)]
        assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert len(refused) == 26
        checked = await health.Check(health_pb2.HealthCheckRequest())
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.gather(*(running.admin.submit() for _ in range(5)))
        watches[[isinstance(each, Exception) for each in first].index(False)].cancel()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while isinstance(await _first(health), Exception):
                pass
        for call in silent:
            call.cancel()


async def _first(health: Any) -> object:
    watch = health.Watch(health_pb2.HealthCheckRequest())
    try:
        return await watch.read()
    except grpc.aio.AioRpcError as error:
        return error
    finally:
        watch.cancel()


async def test_models_are_registered_listed_replaced_and_removed(running: Running) -> None:
    catalog = running.admin.catalog
    same = await catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
    assert not same.changed
    for number in range(4):
        model = a_model(f"zoo/model-{number}")
        added = await catalog.Register(catalog_pb2.RegisterRequest(model=model))
        assert added.changed
        assert added.model.registered_unix_ms > 0
    first = await catalog.ListModels(catalog_pb2.ListModelsRequest(page=types_pb2.Page(size=3)))
    rest = await catalog.ListModels(
        catalog_pb2.ListModelsRequest(page=types_pb2.Page(token=first.next_page_token))
    )
    ids = [model.id for model in (*first.models, *rest.models)]
    assert ids == ["test/tiny", *(f"zoo/model-{number}" for number in range(4))]
    thief = a_model("zoo/thief")
    thief.aliases.append("model-1")
    error = await refusal(catalog.Register(catalog_pb2.RegisterRequest(model=thief)))
    assert isinstance(error, errors.AlreadyExists)
    await catalog.Remove(catalog_pb2.RemoveRequest(id="model-1"))
    error = await refusal(catalog.GetModel(catalog_pb2.GetModelRequest(id="zoo/model-1")))
    assert isinstance(error, errors.ModelNotFound)
    assert (await catalog.Register(catalog_pb2.RegisterRequest(model=thief))).changed


async def test_usage_is_summed_by_model_and_the_ledger_paged(running: Running) -> None:
    async with FakeWorker(running.address, running.worker_key, automatic=True, metered_ms=25):
        for _ in range(5):
            await running.admin.inference.Run(submission())
    usage = await running.admin.billing.GetUsage(billing_pb2.GetUsageRequest())
    assert usage.total.requests == usage.total.attempts == 5
    assert usage.total.metered_ms == usage.total.billed_ms == 125
    assert usage.total.price_nanodollars == 5 * 25 * 20_000 // 1_000
    assert [line.model for line in usage.lines] == ["test/tiny"]
    seen: list[str] = []
    token = ""
    while True:
        page = await running.admin.billing.ListLedger(
            billing_pb2.ListLedgerRequest(page=types_pb2.Page(size=2, token=token))
        )
        seen += [line.attempt_id for line in page.lines]
        if not (token := page.next_page_token):
            break
    assert len(seen) == len(set(seen)) == 5
    none = await running.admin.billing.GetUsage(
        billing_pb2.GetUsageRequest(from_unix_ms=now_ms() + 60_000)
    )
    assert none.total.attempts == 0
    prices = await running.admin.billing.GetPrices(billing_pb2.GetPricesRequest())
    assert prices.version
    assert {price.gpu_type for price in prices.prices} >= {"cpu", "default"}


@pytest.mark.parametrize("size", [-1, 1001])
async def test_a_page_of_an_impossible_size_is_refused(running: Running, size: int) -> None:
    page = types_pb2.Page(size=size)
    error = await refusal(
        running.admin.inference.List(inference_pb2.ListRequestsRequest(page=page))
    )
    assert "page.size" in error.message


async def test_a_key_can_ask_whose_it_is(running: Running) -> None:
    alice, _ = await a_caller(running, "alice", CALL)
    who = await alice.accounts.WhoAmI(billing_pb2.WhoAmIRequest())
    assert (who.tenant, list(who.scopes)) == ("alice", [CALL])
    worker, _ = await a_caller(running, "alice", WORKER)
    refused = await refusal(worker.accounts.WhoAmI(billing_pb2.WhoAmIRequest()))
    assert isinstance(refused, errors.PermissionDenied)
    await alice.channel.close()
    await worker.channel.close()
