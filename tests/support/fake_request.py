"""A request of a platform that a test plays: what Get answers and Watch replays, moved by hand."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from quickthaw.v1 import inference_pb2, types_pb2

SUBMITTED_UNIX_MS = 1_700_000_000_000


@dataclass
class FakeRequest:
    """`record` is what Get answers; `events` what Watch replays."""

    record: types_pb2.Request
    submitted: inference_pb2.SubmitRequest
    events: list[inference_pb2.Event] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0
    unwatched: asyncio.Event = field(default_factory=asyncio.Event)
    """The last watcher has gone."""

    @property
    def input(self) -> dict[str, object]:
        loaded = json.loads(self.submitted.input_json)
        assert isinstance(loaded, dict)
        return loaded

    async def events_after(self, count: int) -> list[inference_pb2.Event]:
        async with self.news:
            await self.news.wait_for(lambda: len(self.events) > count)
            return self.events[count:]

    async def ended(self) -> None:
        async with self.news:
            await self.news.wait_for(lambda: self.record.HasField("receipt"))

    async def watched_by(self, count: int) -> None:
        async with self.news:
            await self.news.wait_for(lambda: self.watchers >= count)

    async def emit(self, event: inference_pb2.Event) -> None:
        event.request_id = self.record.request_id
        event.sequence = len(self.events) + 1
        event.unix_ms = SUBMITTED_UNIX_MS + event.sequence
        async with self.news:
            self.events.append(event)
            self.news.notify_all()

    async def move(
        self, state: types_pb2.RequestState.ValueType, *, queue_position: int = 0
    ) -> None:
        self.record.state = state
        self.record.queue_position = queue_position
        self.record.attempts = 0 if state == types_pb2.REQUEST_STATE_QUEUED else 1
        change = inference_pb2.StateChange(
            state=state, attempt=self.record.attempts, queue_position=queue_position
        )
        await self.emit(inference_pb2.Event(state_change=change))

    async def log(self, text: str) -> None:
        await self.emit(inference_pb2.Event(log=inference_pb2.LogLine(level="info", text=text)))

    async def preview(self, step: int, data: bytes = b"preview") -> None:
        preview = inference_pb2.Preview(
            step=step, content_type="image/jpeg", data=data, width=32, height=32
        )
        await self.emit(inference_pb2.Event(preview=preview))

    async def succeed(self, *artifacts: types_pb2.Artifact) -> None:
        self.record.artifacts.extend(artifacts)
        self.record.output_json = "{}"
        await self._finish(types_pb2.REQUEST_STATE_SUCCEEDED)

    async def fail(
        self,
        reason: str,
        message: str,
        *,
        retryable: bool = False,
        violations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.record.failure.CopyFrom(
            types_pb2.Failure(reason=reason, message=message, retryable=retryable)
        )
        for name, description in violations:
            self.record.failure.violations.add(field=name, description=description)
        cancelled = reason == "CANCELLED"
        await self._finish(
            types_pb2.REQUEST_STATE_CANCELLED if cancelled else types_pb2.REQUEST_STATE_FAILED
        )

    async def _finish(self, state: types_pb2.RequestState.ValueType) -> None:
        self.record.state = state
        self.record.finished_unix_ms = SUBMITTED_UNIX_MS + 2000
        self.record.receipt.CopyFrom(
            types_pb2.Receipt(
                request_id=self.record.request_id,
                model=self.record.model,
                worker_id="worker-0",
                gpu_type="cpu",
                run_ms=1234,
                billed_ms=1234,
                price_nanodollars=12340,
                attempts=1,
                start_tier=types_pb2.TIER_DISK,
                placement="resident on worker-0",
                seed=7,
            )
        )
        await self.emit(inference_pb2.Event(finished=self.record))
