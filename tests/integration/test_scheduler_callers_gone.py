"""A caller that goes away while its change is being written leaves the change whole."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import grpc.aio
import pytest

from quickthaw.scheduler.store.journal import Journal
from quickthaw.v1 import billing_pb2, inference_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.patience import PATIENCE_SECONDS
from support.schedulers import Caller, Running, a_scheduler, submission


class Call(Awaitable[object], Protocol):
    def cancel(self) -> bool: ...


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data") as running:
        yield running


@contextmanager
def busy_store(running: Running) -> Iterator[None]:
    """Nothing is committed meanwhile; everything can be read."""
    connection = sqlite3.connect(running.settings.data_dir / "quickthaw.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def cancelled_while_written(
    running: Running, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its rows have been handed to the journal, and until the server has heard of it."""
    handed_over = asyncio.Event()
    write = Journal.write

    def watched(*args: object, **kwargs: object) -> None:
        write(*args, **kwargs)  # type: ignore[arg-type] # passed on as they came
        handed_over.set()

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", watched)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await handed_over.wait()
    call.cancel()
    # On the same connection, so that the server reads of the cancellation first.
    await whose(running.admin)


async def whose(caller: Caller) -> str:
    return (await caller.accounts.WhoAmI(billing_pb2.WhoAmIRequest())).tenant


async def a_key(running: Running) -> tuple[Caller, str]:
    answer = await running.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(tenant="alice", scopes=[billing_pb2.SCOPE_CALL])
    )
    return Caller(running.address, answer.secret), answer.key.key_id


async def test_a_key_that_was_revoked_opens_nothing_though_nobody_waited_for_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, key_id = await a_key(running)
    assert await whose(alice) == "alice"
    with busy_store(running):
        revoking = running.admin.accounts.RevokeKey(billing_pb2.RevokeKeyRequest(key_id=key_id))
        await cancelled_while_written(running, revoking, monkeypatch)
    await a_key(running)  # written after the revocation
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await whose(alice)
    assert isinstance(error_from_rpc(caught.value), errors.Unauthenticated)
    await alice.channel.close()


async def test_a_grant_that_is_said_again_while_it_is_written_is_given_once(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_key(running)
    grant = billing_pb2.GrantCreditRequest(
        tenant="alice", amount_nanodollars=5, note="for trying", grant_id="grant-1"
    )
    with busy_store(running):
        first = running.admin.billing.GrantCredit(grant)
        await cancelled_while_written(running, first, monkeypatch)
        again = asyncio.ensure_future(running.admin.billing.GrantCredit(grant))
        await whose(running.admin)
    answer = await asyncio.wait_for(again, PATIENCE_SECONDS)
    assert answer.account.credit_nanodollars == 5


async def test_a_request_that_is_said_again_while_it_is_written_is_one_request(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = submission(idempotency_key="once")
    with busy_store(running):
        first = running.admin.inference.Submit(request)
        await cancelled_while_written(running, first, monkeypatch)
        again = asyncio.ensure_future(running.admin.inference.Submit(request))
        await whose(running.admin)
    answer = await asyncio.wait_for(again, PATIENCE_SECONDS)
    assert answer.deduplicated
    listed = await running.admin.inference.List(inference_pb2.ListRequestsRequest())
    assert [each.request_id for each in listed.requests] == [answer.request_id]
