"""Webhooks in the scheduler: stored with the request, due at its end, leased to one gateway."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest

from quickthaw.scheduler.clock import SystemClock
from quickthaw.v1 import billing_pb2, inference_pb2, types_pb2, webhooks_pb2, webhooks_pb2_grpc
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from support.fake_worker import FakeWorker
from support.schedulers import QUICK_TO_LOSE, Caller, SchedulerProcess, a_scheduler, submission

URL = "https://example.org/hook?x=1"
DUE = webhooks_pb2.WEBHOOK_STATE_DUE
DELIVERED = webhooks_pb2.WEBHOOK_STATE_DELIVERED
WAITING = webhooks_pb2.WEBHOOK_STATE_WAITING
CLAIM = webhooks_pb2.ClaimWebhooksRequest(count_max=1, wait_ms=20_000, lease_ms=60_000)
LOOK = webhooks_pb2.ClaimWebhooksRequest(count_max=4, wait_ms=0, lease_ms=60_000)


def target(url: str = URL) -> webhooks_pb2.WebhookTarget:
    return webhooks_pb2.WebhookTarget(url=url, dialect=webhooks_pb2.WEBHOOK_DIALECT_FAL)


def hooks(caller: Caller) -> webhooks_pb2_grpc.WebhooksAsyncStub:
    return webhooks_pb2_grpc.WebhooksStub(caller.channel)


async def claim_one(caller: Caller) -> webhooks_pb2.WebhookDelivery:
    answer = await hooks(caller).Claim(CLAIM)
    (delivery,) = answer.deliveries
    return delivery


async def report(
    caller: Caller, delivery: webhooks_pb2.WebhookDelivery, status: int
) -> webhooks_pb2.ReportWebhookResponse:
    return await hooks(caller).Report(
        webhooks_pb2.ReportWebhookRequest(
            request_id=delivery.webhook.request_id,
            lease_id=delivery.lease_id,
            delivered=200 <= status < 300,
            attempt=webhooks_pb2.WebhookAttempt(status=status, error="" if status < 300 else "no"),
        )
    )


@dataclass
class MovableClock:
    """Real time, and what a test adds to it."""

    added_ms: int = 0
    real: SystemClock = field(default_factory=SystemClock)

    def now_ms(self) -> int:
        return self.real.now_ms() + self.added_ms


async def raised(call: object) -> errors.QuickthawError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc] # grpc's calls are awaitable; their stubs do not say so
    return error_from_rpc(caught.value)


async def test_a_webhook_is_due_when_its_request_has_ended_and_goes_to_one_gateway(
    store_url: str, tmp_path: Path
) -> None:
    async with a_scheduler(tmp_path, store_url=store_url) as running:
        admin = running.admin
        one, other = (asyncio.create_task(claim_one(admin)) for _ in range(2))
        request_id = await admin.submit(webhook=target())
        await admin.submit()  # has no webhook
        found = await hooks(admin).Get(webhooks_pb2.GetWebhookRequest(request_id=request_id))
        assert (found.state, found.target.url) == (WAITING, URL)
        async with FakeWorker(running.address, running.worker_key, automatic=True):
            done, waiting = await asyncio.wait({one, other}, return_when="FIRST_COMPLETED")
            (delivery,) = [each.result() for each in done]
            assert delivery.webhook.request_id == request_id
            assert delivery.request.state == types_pb2.REQUEST_STATE_SUCCEEDED
            assert not (await hooks(admin).Claim(LOOK)).deliveries
            for task in waiting:
                task.cancel()
        answer = await report(admin, delivery, 204)
        assert (answer.state, answer.ignored) == (DELIVERED, False)
        assert (await report(admin, delivery, 500)).ignored
        found = await hooks(admin).Get(webhooks_pb2.GetWebhookRequest(request_id=request_id))
        assert (found.state, found.attempts, found.history[0].status) == (DELIVERED, 1, 204)


async def test_a_failed_delivery_is_repeated_later_and_a_lost_gateway_is_replaced(
    tmp_path: Path,
) -> None:
    clock = MovableClock()
    async with a_scheduler(tmp_path, clock=clock) as running:
        admin = running.admin
        request_id = await admin.submit(webhook=target())
        await admin.inference.Cancel(inference_pb2.CancelRequest(request_id=request_id))
        delivery = await claim_one(admin)
        assert delivery.request.failure.reason == "CANCELLED"
        assert (await report(admin, delivery, 503)).state == DUE
        assert not (await hooks(admin).Claim(LOOK)).deliveries
        clock.added_ms += 10_000
        again = await claim_one(admin)
        assert again.webhook.attempts == 2
        assert not (await hooks(admin).Claim(LOOK)).deliveries
        clock.added_ms += 60_000  # the gateway that has it says nothing
        third = await claim_one(admin)
        assert third.webhook.attempts == 3
        assert (await report(admin, again, 200)).ignored
        assert (await report(admin, third, 200)).state == DELIVERED


async def test_a_webhook_survives_the_death_of_the_scheduler_at_any_moment(tmp_path: Path) -> None:
    process = SchedulerProcess(tmp_path, ["--lease-ms", "6000", "--heartbeat-interval-ms", "100"])
    with process:
        admin = Caller(process.grpc, process.key("admin"))
        from quickthaw.v1 import catalog_pb2
        from support.schedulers import a_model

        await admin.catalog.Register(catalog_pb2.RegisterRequest(model=a_model()))
        ended = await admin.submit(webhook=target())
        await admin.inference.Cancel(inference_pb2.CancelRequest(request_id=ended))
        waiting = await admin.submit(webhook=target("http://example.org/other"))
        await admin.channel.close()
        process.kill()
        process.start()
        admin = Caller(process.grpc, process.key("admin"))
        delivery = await claim_one(admin)
        assert delivery.webhook.request_id == ended
        await admin.inference.Cancel(inference_pb2.CancelRequest(request_id=waiting))
        assert (await claim_one(admin)).webhook.request_id == waiting
        await admin.channel.close()
        process.kill()
        process.start()
        admin = Caller(process.grpc, process.key("admin"))
        # Both are leased still: a lease is a row, and outlives who gave it.
        assert not (await hooks(admin).Claim(LOOK)).deliveries
        assert (await report(admin, delivery, 200)).state == DELIVERED
        await admin.channel.close()


async def test_one_tenant_with_a_slow_receiver_leaves_room_for_others(tmp_path: Path) -> None:
    from dataclasses import replace

    from support.schedulers import FAST

    limits = replace(FAST, webhook_tenant_in_flight_max=1)
    async with a_scheduler(tmp_path, limits=limits) as running:
        admin = running.admin
        made = await admin.accounts.CreateKey(
            billing_pb2.CreateKeyRequest(tenant="bob", scopes=[billing_pb2.SCOPE_CALL])
        )
        bob = Caller(running.address, made.secret)
        for caller in (admin, admin, bob):
            request_id = await caller.submit(webhook=target())
            await caller.inference.Cancel(inference_pb2.CancelRequest(request_id=request_id))
        taken = [await claim_one(admin), await claim_one(admin)]
        assert {each.webhook.tenant for each in taken} == {"default", "bob"}
        await report(admin, taken[0], 200)
        assert (await claim_one(admin)).webhook.tenant == taken[0].webhook.tenant
        listed = await hooks(bob).List(webhooks_pb2.ListWebhooksRequest())
        assert [each.tenant for each in listed.webhooks] == ["bob"]
        others = webhooks_pb2.GetWebhookRequest(request_id=taken[0].webhook.request_id)
        assert isinstance(await raised(hooks(bob).Get(others)), errors.WebhookNotFound)
        assert isinstance(await raised(hooks(bob).Claim(LOOK)), errors.PermissionDenied)
        await bob.channel.close()


async def test_an_ended_webhook_is_delivered_again_when_asked(tmp_path: Path) -> None:
    async with a_scheduler(tmp_path) as running:
        admin = running.admin
        request_id = await admin.submit(webhook=target())
        again = webhooks_pb2.RedeliverWebhookRequest(request_id=request_id)
        assert isinstance(await raised(hooks(admin).Redeliver(again)), errors.FailedPrecondition)
        await admin.inference.Cancel(inference_pb2.CancelRequest(request_id=request_id))
        delivery = await claim_one(admin)
        assert isinstance(await raised(hooks(admin).Redeliver(again)), errors.FailedPrecondition)
        await report(admin, delivery, 200)
        assert (await hooks(admin).Redeliver(again)).state == DUE
        assert (await claim_one(admin)).webhook.attempts == 1


async def test_keys_survive_a_restart_and_an_old_one_stays_for_a_day(
    store_url: str, tmp_path: Path
) -> None:
    clock = MovableClock()
    wanted = webhooks_pb2.ListSigningKeysRequest()
    async with a_scheduler(tmp_path, store_url=store_url, clock=clock) as running:
        (first,) = (await hooks(running.admin).ListSigningKeys(wanted)).keys
        secret = await hooks(running.admin).GetSecret(webhooks_pb2.GetWebhookSecretRequest())
        clock.added_ms += 1_000
        second = await hooks(running.admin).RotateSigningKey(webhooks_pb2.RotateSigningKeyRequest())
    async with a_scheduler(tmp_path, store_url=store_url, models=[], clock=clock) as running:
        keys = (await hooks(running.admin).ListSigningKeys(wanted)).keys
        assert [key.kid for key in keys] == [second.kid, first.kid]
        assert keys[1].private_key == first.private_key
        again = await hooks(running.admin).GetSecret(webhooks_pb2.GetWebhookSecretRequest())
        assert (again.tenant, again.secret) == ("default", secret.secret)
        clock.added_ms += 24 * 3_600_000
        keys = (await hooks(running.admin).ListSigningKeys(wanted)).keys
        assert [key.kid for key in keys] == [second.kid]


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.org/", "https://", "no url", "http://a b/", ""),
        *("http://a:0/", "http://a:99999/", "http://a:b/", "https://me:secret@example.org/"),
    ],
)
async def test_a_url_that_nobody_could_call_is_refused_with_the_submission(
    tmp_path: Path, url: str
) -> None:
    async with a_scheduler(tmp_path) as running:
        error = await raised(running.admin.inference.Submit(submission(webhook=target(url))))
        assert isinstance(error, errors.InvalidArgument)
        assert error.violations[0].field == "webhook.url"


async def test_input_that_is_wrong_can_be_accepted_so_that_the_webhook_says_so(
    store_url: str, tmp_path: Path
) -> None:
    async with a_scheduler(tmp_path, store_url=store_url) as running:
        admin = running.admin
        request_id = await admin.submit(
            input_json='{"prompt": 5}', accept_invalid_input=True, webhook=target()
        )
        found = await admin.until_ended(request_id)
        assert found.state == types_pb2.REQUEST_STATE_FAILED
        assert found.failure.reason == "INVALID_INPUT"
        assert found.failure.violations[0].field == "input.prompt"
        assert (await claim_one(admin)).request.failure.reason == "INVALID_INPUT"
        error = await raised(
            admin.inference.Submit(submission(input_json='{"prompt": 5}', webhook=target()))
        )
        assert isinstance(error, errors.InvalidInput)


async def test_a_request_that_nobody_begins_in_time_fails_with_a_reason_of_its_own(
    tmp_path: Path,
) -> None:
    clock = MovableClock()
    async with a_scheduler(tmp_path, clock=clock) as running:
        admin = running.admin
        request_id = await admin.submit(start_deadline_unix_ms=clock.now_ms() + 5_000)
        clock.added_ms += 5_000
        found = await admin.until_ended(request_id)
        assert found.failure.reason == "START_TIMEOUT"
        async with FakeWorker(running.address, running.worker_key) as worker:
            request_id = await admin.submit(start_deadline_unix_ms=clock.now_ms() + 5_000)
            assign = await worker.next_assign()
            worker.running(assign.attempt_id)
            await admin.until_state(request_id, types_pb2.REQUEST_STATE_RUNNING)
            clock.added_ms += 1_000
            worker.finish(assign)
            assert (await admin.until_ended(request_id)).state == types_pb2.REQUEST_STATE_SUCCEEDED


async def test_one_try_is_one_try(tmp_path: Path) -> None:
    async with a_scheduler(tmp_path, limits=QUICK_TO_LOSE) as running:
        async with FakeWorker(running.address, running.worker_key) as worker:
            request_id = await running.admin.submit(attempts_max=1)
            await worker.next_assign()
        found = await running.admin.until_ended(request_id)
        assert (found.failure.reason, found.attempts) == ("ATTEMPTS_EXHAUSTED", 1)


async def test_a_caller_may_refuse_a_long_queue(tmp_path: Path) -> None:
    async with a_scheduler(tmp_path) as running:
        await running.admin.submit(model_queue_max=1)
        await running.admin.submit(model_queue_max=1)
        error = await raised(running.admin.inference.Submit(submission(model_queue_max=1)))
        assert isinstance(error, errors.QueueFull)
        await running.admin.submit()
