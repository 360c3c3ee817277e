"""Budgets, credits, locks and prices of a real scheduler: over its socket, in its store."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.v1 import billing_pb2, catalog_pb2, fleet_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.metered_worker import MeteredWorker
from support.schedulers import FAST, Caller, Running, a_scheduler, submission
from support.workers import a_worker

CPU_RATE = 20_000
"""Nano-dollars a second, of the packaged table."""
LIMITS = dataclasses.replace(FAST, lease_ms=10_000, meter_lease_ms=400)
SUBMITTERS = 500
FAILED = types_pb2.REQUEST_STATE_FAILED


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with a_scheduler(tmp_path / "data", limits=LIMITS) as made:
        yield made


async def a_tenant(running: Running, tenant: str) -> tuple[Caller, str]:
    """A caller of a new tenant, with its key's id."""
    made = await running.admin.accounts.CreateKey(
        billing_pb2.CreateKeyRequest(tenant=tenant, scopes=[billing_pb2.SCOPE_CALL])
    )
    return Caller(running.address, made.secret), made.key.key_id


async def set_budget(
    running: Running, tenant: str, nanodollars: int, key_id: str = "", alerts: tuple[int, ...] = ()
) -> billing_pb2.Account:
    return await running.admin.billing.SetBudget(
        billing_pb2.SetBudgetRequest(
            tenant=tenant, key_id=key_id, budget_nanodollars=nanodollars, alert_percents=alerts
        )
    )


async def account(caller: Caller, key_id: str = "") -> billing_pb2.Account:
    return await caller.billing.GetAccount(billing_pb2.GetAccountRequest(key_id=key_id))


async def refusal(call: Awaitable[object]) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return error_from_rpc(raised.value)


async def lines_of(caller: Caller) -> list[billing_pb2.LedgerLine]:
    page = types_pb2.Page(size=1000)
    answer = await caller.billing.ListLedger(billing_pb2.ListLedgerRequest(page=page))
    return list(answer.lines)


async def teach(caller: Caller, worker: MeteredWorker) -> None:
    """A few runs of a known length, so that requests are held for about that much."""
    worker.runs_ms = 100
    for _ in range(12):
        await caller.inference.Run(submission())
    worker.runs_ms = 10**9


# ---- the cap ---------------------------------------------------------------------------------


async def test_five_hundred_submitters_at_once_overspend_by_at_most_price_times_lease(
    running: Running,
) -> None:
    caller, _ = await a_tenant(running, "acme")
    concurrency = 16
    async with MeteredWorker(
        running.address, running.worker_key, concurrency=concurrency
    ) as worker:
        await teach(caller, worker)
        before = (await account(caller)).spent_nanodollars
        budget = before + 8 * CPU_RATE  # eight seconds of a CPU
        await set_budget(running, "acme", budget, alerts=(50, 100))

        asked = (caller.submit() for _ in range(SUBMITTERS))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        accepted = [answer for answer in answers if isinstance(answer, str)]
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(accepted) + len(refused) == SUBMITTERS
        assert accepted
        assert {type(error_from_rpc(error)) for error in refused} == {errors.BudgetExhausted}
        ends = await asyncio.gather(*(caller.until_ended(each) for each in accepted))
    assert {end.state for end in ends} == {FAILED}
    assert {end.failure.reason for end in ends} == {"BUDGET_EXHAUSTED"}
    after = await account(caller)
    lines = await lines_of(caller)
    assert after.spent_nanodollars == sum(line.price_nanodollars for line in lines)
    overspent = after.spent_nanodollars - budget
    assert -CPU_RATE // 10 < overspent <= concurrency * CPU_RATE * LIMITS.meter_lease_ms // 1000
    assert after.held_nanodollars == 0
    alerts = await caller.billing.ListAlerts(billing_pb2.ListAlertsRequest())
    assert sorted(alert.percent for alert in alerts.alerts) == [50, 100]
    await caller.channel.close()


async def test_a_run_in_flight_stops_at_the_cap_with_a_receipt_for_what_ran(
    running: Running,
) -> None:
    caller, key_id = await a_tenant(running, "acme")
    async with MeteredWorker(running.address, running.worker_key) as worker:
        await teach(caller, worker)
        left = CPU_RATE // 2  # half a second
        await set_budget(running, "acme", (await account(caller)).spent_nanodollars + left, key_id)
        ended = await caller.until_ended(await caller.submit())
    assert (ended.state, ended.failure.reason) == (FAILED, "BUDGET_EXHAUSTED")
    assert f"acme/{key_id}" in ended.failure.message
    receipt = ended.receipt
    assert 500 <= receipt.billed_ms <= 2_500
    assert receipt.price_nanodollars == (receipt.billed_ms * CPU_RATE + 500) // 1000
    assert receipt.waiver == ""
    [line] = [each for each in await lines_of(caller) if each.request_id == ended.request_id]
    assert (line.key_id, line.price_nanodollars) == (key_id, receipt.price_nanodollars)
    await caller.channel.close()


async def test_a_budget_that_is_cut_stops_what_runs_within_a_heartbeat(running: Running) -> None:
    caller, _ = await a_tenant(running, "acme")
    async with MeteredWorker(running.address, running.worker_key):
        request_id = await caller.submit()  # nobody limits it yet
        await caller.until_state(request_id, types_pb2.REQUEST_STATE_RUNNING)
        await set_budget(running, "acme", 1)
        ended = await caller.until_ended(request_id)
    assert ended.failure.reason == "BUDGET_EXHAUSTED"
    assert ended.receipt.billed_ms < 2_000
    await caller.channel.close()


async def test_a_worker_that_hears_of_no_lease_stops_by_itself_and_the_run_is_free(
    running: Running,
) -> None:
    caller, _ = await a_tenant(running, "acme")
    async with MeteredWorker(running.address, running.worker_key) as worker:
        await teach(caller, worker)
        await set_budget(running, "acme", 10**12)
        spent = (await account(caller)).spent_nanodollars
        worker.deaf = True
        request_id = await caller.submit()
        first = f"{request_id}.1"
        await worker.until_acknowledged(first)
        worker.deaf, worker.runs_ms = False, 100
        ended = await caller.until_ended(request_id)
    assert ended.state == types_pb2.REQUEST_STATE_SUCCEEDED
    lines = {line.attempt_id: line for line in await lines_of(caller)}
    assert (lines[first].waiver, lines[first].price_nanodollars) == ("worker_lost", 0)
    assert (await account(caller)).spent_nanodollars == spent + ended.receipt.price_nanodollars
    await caller.channel.close()


async def test_a_real_worker_stops_a_run_at_the_cap_within_two_seconds(tmp_path: Path) -> None:
    noop = catalog_pb2.Model(id="test/noop", family="noop", input_schema_json='{"type":"object"}')
    async with a_scheduler(tmp_path / "data", limits=LIMITS, models=[noop]) as running:
        caller, _ = await a_tenant(running, "acme")
        flags = ("--families", "noop", "--pinned-bytes", "16MiB")
        async with a_worker(running, tmp_path / "worker", *flags, key=running.worker_key):
            quick = submission("test/noop", input_json='{"run_ms": 100}')
            for _ in range(12):
                await caller.inference.Run(quick)
            spent = (await account(caller)).spent_nanodollars
            await set_budget(running, "acme", spent + CPU_RATE)  # one second more
            endless = submission("test/noop", input_json='{"run_ms": 600000}')
            ended = await caller.inference.Run(endless)
        assert (ended.state, ended.failure.reason) == (FAILED, "BUDGET_EXHAUSTED")
        # The second that the budget had left, and two until it stops (issue 4): the lease that the
        # worker held takes 0.4 of them, the rest is for a busy machine.
        assert 1_000 <= ended.receipt.billed_ms <= 3_000
        assert ended.receipt.price_nanodollars == ended.receipt.billed_ms * CPU_RATE // 1000
        await caller.channel.close()


# ---- accounts --------------------------------------------------------------------------------


async def test_accounts_are_there_after_a_restart_and_so_is_what_open_requests_hold(
    store_url: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    async with a_scheduler(data_dir, store_url=store_url, limits=LIMITS) as first:
        caller, key_id = await a_tenant(first, "acme")
        await set_budget(first, "acme", 10**9, alerts=(80,))
        await set_budget(first, "acme", 5 * 10**8, key_id)
        grant = billing_pb2.GrantCreditRequest(
            tenant="acme", amount_nanodollars=7 * 10**8, grant_id="invoice-1"
        )
        assert not (await first.admin.billing.GrantCredit(grant)).deduplicated
        assert (await first.admin.billing.GrantCredit(grant)).deduplicated, "given once"
        async with FakeWorker(first.address, first.worker_key, automatic=True, metered_ms=1_000):
            await caller.inference.Run(submission())
        waiting = await caller.submit()  # nobody is there
        before = await account(caller)
        of_key = await account(caller, key_id)
        key = caller.key
        await caller.channel.close()
    assert before.credit_nanodollars == 7 * 10**8 - CPU_RATE
    assert before.held_nanodollars > 0
    async with a_scheduler(data_dir, store_url=store_url, limits=LIMITS, models=[]) as second:
        caller = Caller(second.address, key)
        after = await account(caller)
        # With nobody attached the hold is worked out anew from the table's dearest type.
        assert after.held_nanodollars > 0
        for name in ("held_nanodollars", "available_nanodollars"):
            before.ClearField(name)
            after.ClearField(name)
        assert after == before
        assert (await account(caller, key_id)).budget_nanodollars == of_key.budget_nanodollars
        async with FakeWorker(second.address, second.worker_key, automatic=True, metered_ms=50):
            await caller.until_ended(waiting)
        assert (await account(caller)).held_nanodollars == 0
        await caller.channel.close()


async def test_a_locked_account_is_refused_and_goes_on_when_it_is_unlocked(
    running: Running,
) -> None:
    caller, _ = await a_tenant(running, "acme")
    request_id = await caller.submit()
    await running.admin.billing.SetLock(
        billing_pb2.SetLockRequest(tenant="acme", locked=True, reason="card declined")
    )
    refused = await refusal(caller.submit())
    assert isinstance(refused, errors.PermissionDenied)
    assert "card declined" in refused.message
    async with FakeWorker(running.address, running.worker_key, automatic=True) as worker:
        other, _ = await a_tenant(running, "other")
        await other.inference.Run(submission())  # others are not held up
        found = await caller.inference.Get(inference_pb2.GetRequest(request_id=request_id))
        assert found.state == types_pb2.REQUEST_STATE_QUEUED
        assert worker.worker_id
        await running.admin.billing.SetLock(billing_pb2.SetLockRequest(tenant="acme"))
        ended = await caller.until_ended(request_id)
    assert ended.state == types_pb2.REQUEST_STATE_SUCCEEDED
    await caller.channel.close()
    await other.channel.close()


async def test_a_new_tenant_begins_with_the_credit_that_is_set_for_it(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, new_tenant_credit_nanodollars=10**9)
    async with a_scheduler(tmp_path / "data", limits=limits) as running:
        caller, _ = await a_tenant(running, "fresh")
        again, _ = await a_tenant(running, "fresh")
        assert (await account(caller)).credit_nanodollars == 10**9
        assert not (await account(running.admin)).HasField("credit_nanodollars")
        await caller.channel.close()
        await again.channel.close()


async def test_callers_read_their_own_account_and_change_none(running: Running) -> None:
    caller, _ = await a_tenant(running, "acme")
    await a_tenant(running, "other")
    assert (await account(caller)).tenant == "acme"
    billing = caller.billing
    for call in (
        billing.GetAccount(billing_pb2.GetAccountRequest(tenant="other")),
        billing.ListAccounts(billing_pb2.ListAccountsRequest(all=True)),
        billing.ListAlerts(billing_pb2.ListAlertsRequest(tenant="other")),
        billing.SetBudget(billing_pb2.SetBudgetRequest(tenant="acme")),
        billing.GrantCredit(billing_pb2.GrantCreditRequest(tenant="acme", amount_nanodollars=1)),
        billing.SetLock(billing_pb2.SetLockRequest(tenant="acme")),
    ):
        assert isinstance(await refusal(call), errors.PermissionDenied)
    await caller.channel.close()


async def test_what_cannot_be_meant_is_refused_with_what_to_do(running: Running) -> None:
    _, key_id = await a_tenant(running, "acme")
    await a_tenant(running, "other")
    billing = running.admin.billing
    unknown = await refusal(set_budget(running, "nobody", 1))
    assert isinstance(unknown, errors.NotFound)
    assert "quickthaw keys create nobody" in unknown.message
    assert isinstance(await refusal(set_budget(running, "other", 1, key_id)), errors.KeyNotFound)
    assert "budget_nanodollars" in (await refusal(set_budget(running, "acme", -1))).message
    assert (
        "alert_percents" in (await refusal(set_budget(running, "acme", 1, alerts=(101,)))).message
    )
    for amount, expected in ((5, None), (6, errors.AlreadyExists)):
        message = billing_pb2.GrantCreditRequest(
            tenant="acme", amount_nanodollars=amount, grant_id="one"
        )
        if expected is None:
            await billing.GrantCredit(message)
        else:
            assert isinstance(await refusal(billing.GrantCredit(message)), expected)


async def test_usage_is_told_apart_by_key_and_day(running: Running) -> None:
    first, one = await a_tenant(running, "acme")
    second, two = await a_tenant(running, "acme")
    async with FakeWorker(running.address, running.worker_key, automatic=True, metered_ms=1_000):
        for caller, times in ((first, 2), (second, 1)):
            for _ in range(times):
                await caller.inference.Run(submission())
    usage = await first.billing.GetUsage(
        billing_pb2.GetUsageRequest(
            by=[billing_pb2.USAGE_DIMENSION_KEY, billing_pb2.USAGE_DIMENSION_DAY]
        )
    )
    assert {(line.key_id, line.requests, line.price_nanodollars) for line in usage.lines} == {
        (one, 2, 2 * CPU_RATE),
        (two, 1, CPU_RATE),
    }
    assert all(len(line.day) == 10 and line.model == "" for line in usage.lines)
    assert usage.total.price_nanodollars == 3 * CPU_RATE
    await first.channel.close()
    await second.channel.close()


async def test_the_worker_is_told_until_when_a_limited_run_is_paid_for(running: Running) -> None:
    caller, _ = await a_tenant(running, "acme")
    async with FakeWorker(running.address, running.worker_key) as worker:
        await set_budget(running, "acme", 10**9)
        await caller.submit()
        assign: fleet_pb2.Assign = await worker.next_assign()
        assert assign.meter_lease_ms >= LIMITS.meter_lease_ms
        worker.running(assign.attempt_id)
        worker.meter(assign.attempt_id, assign.meter_lease_ms)
        sequence = worker.heartbeat()
        ack = await worker.until_heartbeat_acknowledged(sequence)
        [lease] = ack.meter_leases
        assert lease.attempt_id == assign.attempt_id
        assert lease.until_metered_ms >= assign.meter_lease_ms + LIMITS.meter_lease_ms
        worker.finish(assign)
        await worker.until_acknowledged(assign.attempt_id)
    await caller.channel.close()
