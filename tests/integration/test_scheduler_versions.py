"""What a model has been: numbered, kept over restarts, taken up again, gone with its model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import billing_pb2, catalog_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.schedulers import Caller, Running, a_model, a_scheduler, submission

MODEL = "test/style"
FIRST, SECOND, THIRD = ("11" * 32, "22" * 32, "33" * 32)
PRIVATE = catalog_pb2.Endpoint(visibility=catalog_pb2.VISIBILITY_PRIVATE)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data") as running:
        yield running


async def register(
    running: Running, digest: str, endpoint: catalog_pb2.Endpoint | None = None
) -> None:
    model = a_model(MODEL)
    model.snapshot_digest = digest
    await running.admin.catalog.Register(
        catalog_pb2.RegisterRequest(model=model, endpoint=endpoint)
    )


async def versions(caller: Caller) -> list[tuple[int, str, bool]]:
    found = await caller.catalog.ListVersions(catalog_pb2.ListVersionsRequest(model=MODEL))
    return [(each.number, each.model.snapshot_digest, each.current) for each in found.versions]


async def refusal(call: Awaitable[object]) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def unused(running: Running) -> list[str]:
    wanted = catalog_pb2.ListUnusedSnapshotsRequest()
    return [
        each.digest for each in (await running.admin.catalog.ListUnusedSnapshots(wanted)).snapshots
    ]


async def test_each_new_content_is_a_version_with_the_next_number(running: Running) -> None:
    for digest in (FIRST, SECOND, SECOND, THIRD):
        await register(running, digest)
    assert await versions(running.admin) == [
        (3, THIRD, True),
        (2, SECOND, False),
        (1, FIRST, False),
    ]


async def test_a_rollback_makes_an_old_version_current_and_keeps_every_number(
    running: Running,
) -> None:
    for digest in (FIRST, SECOND):
        await register(running, digest)
    catalog = running.admin.catalog
    back = await catalog.Rollback(catalog_pb2.RollbackRequest(model="style", number=1))
    assert back.changed
    assert back.model.snapshot_digest == FIRST
    assert await versions(running.admin) == [(2, SECOND, False), (1, FIRST, True)]
    again = await catalog.Rollback(catalog_pb2.RollbackRequest(model=MODEL, number=1))
    assert not again.changed
    await register(running, THIRD)
    assert (await versions(running.admin))[0] == (3, THIRD, True)


async def test_a_rollback_outlives_a_restart(tmp_path: Path) -> None:
    async with a_scheduler(tmp_path / "data") as running:
        for digest in (FIRST, SECOND):
            await register(running, digest)
        wanted = catalog_pb2.RollbackRequest(model=MODEL, number=1)
        await running.admin.catalog.Rollback(wanted)
    async with a_scheduler(tmp_path / "data") as running:
        assert await versions(running.admin) == [(2, SECOND, False), (1, FIRST, True)]


@pytest.mark.parametrize("number", [0, -1, 3, 2**62, 2**63 - 1])
async def test_a_version_that_never_was_is_not_found(running: Running, number: int) -> None:
    await register(running, FIRST)
    wanted = catalog_pb2.RollbackRequest(model=MODEL, number=number)
    refused = await refusal(running.admin.catalog.Rollback(wanted))
    assert isinstance(refused, errors.NotFound)
    assert f"has no version {number}" in refused.message


async def test_versions_come_in_pages(running: Running) -> None:
    for digest in (FIRST, SECOND, THIRD):
        await register(running, digest)
    wanted = catalog_pb2.ListVersionsRequest(model=MODEL)
    wanted.page.size = 2
    first = await running.admin.catalog.ListVersions(wanted)
    wanted.page.token = first.next_page_token
    second = await running.admin.catalog.ListVersions(wanted)
    assert [each.number for page in (first, second) for each in page.versions] == [3, 2, 1]
    assert not second.next_page_token
    wanted.page.token = "9" * 40
    assert isinstance(
        await refusal(running.admin.catalog.ListVersions(wanted)), errors.InvalidArgument
    )


async def test_whoever_takes_a_name_after_its_model_is_gone_sees_nothing_of_it(
    running: Running,
) -> None:
    for digest in (FIRST, SECOND):
        await register(running, digest)
    await running.admin.catalog.Remove(catalog_pb2.RemoveRequest(id=MODEL))
    refused = await refusal(versions(running.admin))
    assert isinstance(refused, errors.ModelNotFound)
    await register(running, THIRD)
    assert await versions(running.admin) == [(1, THIRD, True)]


async def test_a_private_model_without_an_owner_is_its_callers_and_nobody_elses(
    running: Running,
) -> None:
    await register(running, FIRST, PRIVATE)
    answer = await running.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(tenant="rival", scopes=[billing_pb2.SCOPE_CALL])
    )
    rival = Caller(running.address, answer.secret)
    assert isinstance(await refusal(versions(rival)), errors.ModelNotFound)
    assert await running.admin.submit(MODEL)
    rollback = catalog_pb2.RollbackRequest(model=MODEL, number=1)
    refused = await refusal(rival.catalog.Rollback(rollback))
    assert isinstance(refused, errors.PermissionDenied)


async def test_a_snapshot_is_unused_when_no_version_and_no_open_request_needs_it(
    running: Running,
) -> None:
    for digest in (FIRST, SECOND):
        await register(running, digest)
    # There is no worker, so it stays open, and it was accepted for the second version.
    await running.admin.inference.Submit(submission(MODEL))
    assert await unused(running) == []
    await running.admin.catalog.Remove(catalog_pb2.RemoveRequest(id=MODEL))
    assert await unused(running) == [FIRST]
