"""How models are served: settings over gRPC, checked, durable; private ones are nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.schedulers import Caller, Running, a_model, a_scheduler, submission

MODEL = "test/tiny"
PRIVATE = catalog_pb2.Endpoint(
    visibility=catalog_pb2.VISIBILITY_PRIVATE, owner_tenant="acme", min_replicas=2
)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data") as running:
        yield running


async def refusal(call: Awaitable[object]) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def a_caller(running: Running, tenant: str) -> Caller:
    answer = await running.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(tenant=tenant, scopes=[billing_pb2.SCOPE_CALL])
    )
    return Caller(running.address, answer.secret)


def setting(names: tuple[str, ...] = (), **values: object) -> catalog_pb2.SetEndpointRequest:
    endpoint = catalog_pb2.Endpoint(**values)  # type: ignore[arg-type]  # fields by their names
    return catalog_pb2.SetEndpointRequest(model=MODEL, endpoint=endpoint, names=names)


async def register(running: Running, endpoint: catalog_pb2.Endpoint | None = None) -> None:
    await running.admin.catalog.Register(
        catalog_pb2.RegisterRequest(model=a_model(MODEL), endpoint=endpoint)
    )


async def test_named_settings_change_and_the_others_stay(running: Running) -> None:
    await register(running)
    catalog = running.admin.catalog
    await catalog.SetEndpoint(setting(min_replicas=1, max_replicas=4, keep_alive_ms=60_000))
    after = await catalog.SetEndpoint(setting(("max_replicas",), max_replicas=8, buffer=3))
    assert (after.min_replicas, after.max_replicas, after.buffer) == (1, 8, 0)
    assert after.keep_alive_ms == 60_000


async def test_a_wrong_setting_is_named_with_what_it_may_be(running: Running) -> None:
    await register(running)
    refused = await refusal(
        running.admin.catalog.SetEndpoint(setting(min_replicas=5, max_replicas=2, buffer=-1))
    )
    assert isinstance(refused, errors.InvalidArgument)
    assert {each.field for each in refused.violations} == {
        "endpoint.min_replicas",
        "endpoint.buffer",
    }
    assert "min_replicas is 5, more than max_replicas, which is 2" in refused.message


async def test_a_private_endpoint_needs_an_owner_and_a_dedicated_one_workers(
    running: Running,
) -> None:
    await register(running)
    dedicated = setting(visibility=catalog_pb2.VISIBILITY_DEDICATED)
    refused = await refusal(running.admin.catalog.SetEndpoint(dedicated))
    assert {each.field for each in refused.violations} == {
        "endpoint.owner_tenant",
        "endpoint.reserved_workers",
    }


async def test_a_private_model_does_not_exist_for_another_tenant(running: Running) -> None:
    await register(running, PRIVATE)
    owner, other = await a_caller(running, "acme"), await a_caller(running, "rival")
    listed = catalog_pb2.ListModelsRequest()
    assert [m.id for m in (await owner.catalog.ListModels(listed)).models] == [MODEL]
    assert not (await other.catalog.ListModels(listed)).models
    endpoints = catalog_pb2.ListEndpointsRequest()
    assert not (await other.catalog.ListEndpoints(endpoints)).endpoints
    unknown = [
        await refusal(call)
        for name in (MODEL, "tiny")
        for call in (
            other.catalog.GetModel(catalog_pb2.GetModelRequest(id=name)),
            other.catalog.GetEndpoint(catalog_pb2.GetEndpointRequest(model=name)),
            other.inference.Submit(submission(name)),
            other.inference.Quote(submission(name)),
            other.inference.List(inference_pb2.ListRequestsRequest(model=name)),
        )
    ]
    assert {type(each) for each in unknown} == {errors.ModelNotFound}
    # Nor does a hint give its name away.
    near = await refusal(other.catalog.GetModel(catalog_pb2.GetModelRequest(id="test/tinu")))
    assert MODEL not in near.message


async def test_an_owner_submits_to_what_is_private(running: Running) -> None:
    await register(running, PRIVATE)
    owner = await a_caller(running, "acme")
    assert await owner.submit(MODEL)


async def test_a_model_tells_who_may_call_it_now(running: Running) -> None:
    asked, listed = catalog_pb2.GetModelRequest(id=MODEL), catalog_pb2.ListModelsRequest()
    for endpoint in (PRIVATE, catalog_pb2.Endpoint(visibility=catalog_pb2.VISIBILITY_SHARED)):
        await register(running, endpoint)
        found = await running.admin.catalog.GetModel(asked)
        (same,) = (await running.admin.catalog.ListModels(listed)).models
        assert found.visibility == same.visibility == endpoint.visibility


async def test_an_endpoint_outlives_a_restart_and_a_new_version_but_not_its_model(
    tmp_path: Path,
) -> None:
    async with a_scheduler(tmp_path / "data") as running:
        await register(running, PRIVATE)
    async with a_scheduler(tmp_path / "data") as running:
        catalog = running.admin.catalog
        newer = a_model(MODEL, size_bytes=2_000_000)
        await catalog.Register(catalog_pb2.RegisterRequest(model=newer))
        asked = catalog_pb2.GetEndpointRequest(model=MODEL)
        kept = await catalog.GetEndpoint(asked)
        assert (kept.visibility, kept.owner_tenant, kept.min_replicas) == (
            catalog_pb2.VISIBILITY_PRIVATE,
            "acme",
            2,
        )
        await catalog.Remove(catalog_pb2.RemoveRequest(id=MODEL))
        await register(running)
        assert (await catalog.GetEndpoint(asked)).visibility == catalog_pb2.VISIBILITY_SHARED


# ---- what fails everywhere -----------------------------------------------------------------------


async def test_a_version_that_loads_nowhere_is_quarantined_until_it_is_released(
    tmp_path: Path,
) -> None:
    asked = catalog_pb2.GetEndpointRequest(model=MODEL)
    async with a_scheduler(tmp_path / "data") as running:
        async with FakeWorker(running.address, running.worker_key) as worker:
            for _ in range(3):
                request_id = await running.admin.submit()
                assign = await worker.next_assign()
                worker.loading(assign.attempt_id)
                corrupt = types_pb2.Failure(reason="SNAPSHOT_CORRUPT", message="block 3 differs")
                worker.finish(assign, "failed", metered_ms=0, failure=corrupt)
                await running.admin.until_ended(request_id)
            refused = await refusal(running.admin.inference.Submit(submission(MODEL)))
        assert isinstance(refused, errors.ModelQuarantined)
        assert "block 3 differs" in refused.message
    async with a_scheduler(tmp_path / "data") as running:
        catalog = running.admin.catalog
        shown = (await catalog.GetEndpoint(asked)).quarantine
        assert "load failed 3 times" in shown.reason
        await refusal(running.admin.inference.Submit(submission(MODEL)))
        released = await catalog.ReleaseQuarantine(
            catalog_pb2.ReleaseQuarantineRequest(model=MODEL)
        )
        assert not released.HasField("quarantine")
        assert await running.admin.submit()
    async with a_scheduler(tmp_path / "data") as running:
        assert not (await running.admin.catalog.GetEndpoint(asked)).HasField("quarantine")


async def test_a_reserved_worker_is_shown_refuses_others_and_is_billed_to_its_owner(
    running: Running,
) -> None:
    await register(running)
    await running.admin.catalog.Register(catalog_pb2.RegisterRequest(model=a_model("test/other")))
    dedicated = setting(
        visibility=catalog_pb2.VISIBILITY_DEDICATED, owner_tenant="acme", reserved_workers=1
    )
    owner = await a_caller(running, "acme")
    async with FakeWorker(running.address, running.worker_key) as worker:
        changed = await running.admin.catalog.SetEndpoint(dedicated)
        assert list(changed.reserved_worker_ids) == [worker.worker_id]
        listed = await running.admin.fleet.ListWorkers(fleet_pb2.ListWorkersRequest())
        assert listed.workers[0].dedicated_to == MODEL
        assert listed.workers_wanted >= 1
        await running.admin.submit("test/other")
        request_id = await owner.submit(MODEL)
        assign = await worker.next_assign()
        assert assign.request_id == request_id
        worker.finish(assign, metered_ms=250)
        ended = await owner.until_ended(request_id)
        assert (ended.receipt.price_nanodollars, ended.receipt.waiver) == (0, "reserved")
        await running.admin.catalog.SetEndpoint(setting())  # shared again: the span ends
    answer = await owner.billing.ListLedger(billing_pb2.ListLedgerRequest())
    spans = [line for line in answer.lines if not line.request_id]
    assert len(spans) == 1
    assert spans[0].billed_ms > 0
    assert spans[0].price_nanodollars > 0
