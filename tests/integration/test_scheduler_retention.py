"""What has ended is kept for as long as the settings say, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select

from quickthaw.scheduler.clock import SystemClock
from quickthaw.scheduler.settings import parse_settings
from quickthaw.scheduler.store import schema
from quickthaw.scheduler.store.database import open_engine, parse_url
from quickthaw.v1 import inference_pb2, types_pb2, webhooks_pb2, webhooks_pb2_grpc
from quickthaw.wire.errors import SettingsInvalid, Unavailable
from support.fake_worker import FakeWorker
from support.schedulers import FAST, Running, a_scheduler

DAY_MS = 24 * 3_600_000
CLAIM = webhooks_pb2.ClaimWebhooksRequest(count_max=1, wait_ms=20_000, lease_ms=60_000)
HOOK = webhooks_pb2.WebhookTarget(
    url="https://example.org/", dialect=webhooks_pb2.WEBHOOK_DIALECT_FAL
)


@dataclass
class MovableClock:
    """Real time, and what a test adds to it."""

    added_ms: int = 0
    real: SystemClock = field(default_factory=SystemClock)

    def now_ms(self) -> int:
        return self.real.now_ms() + self.added_ms

    def pass_days(self, days: float) -> None:
        self.added_ms += int(days * DAY_MS)


@dataclass
class Archive:
    """A scheduler, its clock, and what its store holds."""

    running: Running
    clock: MovableClock

    @property
    def hooks(self) -> webhooks_pb2_grpc.WebhooksAsyncStub:
        return webhooks_pb2_grpc.WebhooksStub(self.running.admin.channel)

    async def a_finished_request(self) -> str:
        """With an attempt, a ledger line, an explanation, a webhook that was told, a file."""
        admin = self.running.admin
        async with FakeWorker(self.running.address, self.running.worker_key) as worker:
            request_id = await admin.submit(webhook=HOOK, idempotency_key="once")
            assign = await worker.next_assign()
            self.leave_file(request_id)
            worker.finish(assign, metered_ms=10)
            await admin.until_ended(request_id)
        await self.running.scheduler.explanations.flush()
        delivery = (await self.hooks.Claim(CLAIM)).deliveries[0]
        attempt = webhooks_pb2.WebhookAttempt(status=200)
        await self.hooks.Report(
            webhooks_pb2.ReportWebhookRequest(
                request_id=request_id, lease_id=delivery.lease_id, delivered=True, attempt=attempt
            )
        )
        return request_id

    def files_of(self, request_id: str) -> Path:
        return Path(self.running.settings.blob_store) / "artifacts" / request_id

    def leave_file(self, request_id: str) -> None:
        self.files_of(request_id).mkdir(parents=True)
        (self.files_of(request_id) / "0.png").write_bytes(b"a picture")

    async def sweep(self) -> None:
        await self.running.scheduler.retention.sweep()

    async def rows(self) -> Mapping[str, int]:
        """By table, of those that requests fill and that are not empty."""
        return await asyncio.to_thread(self._rows)

    def _rows(self) -> Mapping[str, int]:
        tables = (
            *(schema.requests, schema.attempts, schema.ledger, schema.webhooks),
            *(schema.explanations, schema.idempotency),
        )
        engine = open_engine(parse_url(self.running.settings.store_url), connections_max=1)
        with engine.connect() as connection:
            counted = {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in tables
            }
        engine.dispose()
        return {name: count for name, count in counted.items() if count}


@asynccontextmanager
async def an_archive(
    folder: Path, store_url: str | None = None, **keep: int
) -> AsyncIterator[Archive]:
    clock = MovableClock()
    limits = dataclasses.replace(FAST, **keep)
    async with a_scheduler(folder, store_url=store_url, limits=limits, clock=clock) as running:
        yield Archive(running, clock)


async def test_a_request_past_its_time_goes_with_its_files_and_leaves_its_bill(
    tmp_path: Path, store_url: str
) -> None:
    async with an_archive(tmp_path, store_url, request_keep_days=90) as archive:
        request_id = await archive.a_finished_request()
        before = await archive.rows()
        assert set(before.values()) == {1}
        assert len(before) == 6
        archive.clock.pass_days(89)
        await archive.sweep()
        assert (await archive.rows()).keys() >= {"requests", "attempts", "explanations"}
        archive.clock.pass_days(2)
        await archive.sweep()
        assert await archive.rows() == {"ledger": 1}
        assert not archive.files_of(request_id).exists()


async def test_what_is_open_or_young_stays_whatever_its_age(tmp_path: Path, store_url: str) -> None:
    async with an_archive(tmp_path, store_url, request_keep_days=1) as archive:
        admin = archive.running.admin
        waiting = await admin.submit()
        archive.clock.pass_days(40)
        ended = await admin.submit()
        await admin.inference.Cancel(inference_pb2.CancelRequest(request_id=ended))
        archive.clock.pass_days(0.5)
        await archive.sweep()
        listed = await admin.inference.List(inference_pb2.ListRequestsRequest())
        assert {each.request_id for each in listed.requests} == {waiting, ended}
        archive.clock.pass_days(1)
        await archive.sweep()
        listed = await admin.inference.List(inference_pb2.ListRequestsRequest())
        assert {each.request_id for each in listed.requests} == {waiting}
        assert listed.requests[0].state == types_pb2.REQUEST_STATE_QUEUED


async def test_webhooks_that_were_told_go_and_one_that_is_due_again_stays(
    tmp_path: Path, store_url: str
) -> None:
    async with an_archive(tmp_path, store_url, webhook_keep_days=30) as archive:
        request_id = await archive.a_finished_request()
        archive.clock.pass_days(31)
        await archive.hooks.Redeliver(webhooks_pb2.RedeliverWebhookRequest(request_id=request_id))
        await archive.sweep()
        assert (await archive.rows())["webhooks"] == 1
        delivery = (await archive.hooks.Claim(CLAIM)).deliveries[0]
        await archive.hooks.Report(
            webhooks_pb2.ReportWebhookRequest(
                request_id=request_id,
                lease_id=delivery.lease_id,
                permanent=True,
                attempt=webhooks_pb2.WebhookAttempt(error="refused"),
            )
        )
        archive.clock.pass_days(29)
        await archive.sweep()
        assert (await archive.rows())["webhooks"] == 1
        archive.clock.pass_days(2)
        await archive.sweep()
        assert "webhooks" not in await archive.rows()
        assert (await archive.rows())["requests"] == 1


async def test_the_bill_goes_only_if_its_time_was_set(tmp_path: Path, store_url: str) -> None:
    async with an_archive(tmp_path, store_url, ledger_keep_days=400) as archive:
        await archive.a_finished_request()
        archive.clock.pass_days(399)
        await archive.sweep()
        assert await archive.rows() == {"ledger": 1}
        archive.clock.pass_days(2)
        await archive.sweep()
        assert await archive.rows() == {}


async def test_zero_keeps_for_ever_but_for_idempotency_keys(tmp_path: Path) -> None:
    async with an_archive(tmp_path, request_keep_days=0, webhook_keep_days=0) as archive:
        await archive.a_finished_request()
        before = await archive.rows()
        archive.clock.pass_days(36_500)
        await archive.sweep()
        assert await archive.rows() == {
            name: count for name, count in before.items() if name != "idempotency"
        }


async def test_many_go_in_portions(tmp_path: Path) -> None:
    async with an_archive(tmp_path, request_keep_days=1) as archive:
        admin = archive.running.admin
        ids = await asyncio.gather(*(admin.submit() for _ in range(230)))
        for request_id in ids:
            await admin.inference.Cancel(inference_pb2.CancelRequest(request_id=request_id))
        archive.clock.pass_days(2)
        await archive.sweep()
        assert await archive.rows() == {}


async def test_a_request_whose_files_cannot_be_deleted_is_kept_until_they_can(
    tmp_path: Path,
) -> None:
    async with an_archive(tmp_path, request_keep_days=1) as archive:
        request_id = await archive.a_finished_request()
        archive.clock.pass_days(2)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("obstore.list", _broken)
            with pytest.raises(ExceptionGroup) as failed:
                await archive.sweep()
        assert failed.group_contains(Unavailable)
        assert (await archive.rows())["requests"] == 1
        assert archive.files_of(request_id).exists()
        await archive.sweep()
        assert "requests" not in await archive.rows()
        assert not archive.files_of(request_id).exists()


def _broken(*_: object) -> object:
    raise OSError("the bucket does not answer")


def test_a_request_outlives_the_keys_that_lead_to_it(tmp_path: Path) -> None:
    flags = ["--data-dir", str(tmp_path), "--request-keep-days", "1"]
    parse_settings(flags, {})
    with pytest.raises(SettingsInvalid, match="--request-keep-days"):
        parse_settings([*flags, "--idempotency-retention-hours", "48"], {})


async def test_input_and_output_that_nobody_wants_kept_are_forgotten_once_they_were_told(
    tmp_path: Path, store_url: str
) -> None:
    async with an_archive(tmp_path, store_url) as archive:
        admin = archive.running.admin
        async with FakeWorker(archive.running.address, archive.running.worker_key) as worker:
            told = await admin.submit(io_kept_ms=60_000)
            worker.finish(await worker.next_assign(), metered_ms=10)
            await admin.until_ended(told)
            hooked = await admin.submit(io_kept_ms=60_000, webhook=HOOK)
            worker.finish(await worker.next_assign(), metered_ms=10)
            await admin.until_ended(hooked)
            kept = await admin.submit()
            worker.finish(await worker.next_assign(), metered_ms=10)
            await admin.until_ended(kept)
        waiting = await admin.submit(io_kept_ms=1)
        await archive.sweep()
        assert await said(archive, told) == ("a red circle", '{"images":[]}')
        archive.clock.pass_days(0.01)
        await archive.sweep()
        assert await said(archive, told) == (None, "")
        for other in (hooked, kept):
            assert await said(archive, other) == ("a red circle", '{"images":[]}')
        assert await said(archive, waiting) == ("a red circle", "")
        found = await admin.inference.Get(inference_pb2.GetRequest(request_id=told))
        assert (found.state, found.receipt.billed_ms) == (types_pb2.REQUEST_STATE_SUCCEEDED, 10)


async def said(archive: Archive, request_id: str) -> tuple[str | None, str]:
    """The prompt and the output that the store has of a request."""
    wanted = inference_pb2.GetRequest(request_id=request_id)
    found = await archive.running.admin.inference.Get(wanted)
    return json.loads(found.input_json).get("prompt"), found.output_json


async def test_files_go_when_their_caller_said_and_the_request_stays(
    tmp_path: Path, store_url: str
) -> None:
    async with an_archive(tmp_path, store_url) as archive:
        admin = archive.running.admin
        async with FakeWorker(archive.running.address, archive.running.worker_key) as worker:
            ids = [await admin.submit(files_kept_ms=kept_ms) for kept_ms in (60_000, 0, 10**11)]
            for request_id in ids:
                archive.leave_file(request_id)
                worker.finish(await worker.next_assign(), metered_ms=10)
                await admin.until_ended(request_id)
        waiting = await admin.submit(files_kept_ms=1)
        archive.leave_file(waiting)
        await archive.sweep()
        assert archive.files_of(ids[0]).exists()
        archive.clock.pass_days(0.01)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("obstore.list", _broken)
            with pytest.raises(ExceptionGroup):
                await archive.sweep()
        await archive.sweep()
        left = [archive.files_of(each).exists() for each in (*ids, waiting)]
        assert left == [False, True, True, True]
        assert (await said(archive, ids[0]))[1]
