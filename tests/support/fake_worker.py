"""A worker whose script is the test: a real gRPC stream, no engine behind it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Literal, Self

import grpc
import grpc.aio

from quickthaw.v1 import fleet_pb2, fleet_pb2_grpc, types_pb2
from quickthaw.wire.limits import CHANNEL_OPTIONS, FRAME_MESSAGES_MAX
from quickthaw.wire.status import error_from_rpc
from support.patience import PATIENCE_SECONDS

GIB = 1 << 30


class FakeWorker:
    """`async with FakeWorker(address, key) as worker:` attaches; then each method says one thing.

    With `automatic` it answers every Assign at once: loading, running, succeeded after
    `metered_ms`. What the scheduler sends is kept in `assigns`, `cancels`, `acks` and so on.
    """

    def __init__(
        self,
        address: str,
        key: str,
        worker_id: str = "worker-1",
        *,
        incarnation: str = "boot-1",
        gpu_type: str = "cpu",
        vram_bytes: int = 8 * GIB,
        concurrency: int = 1,
        residency: Sequence[fleet_pb2.Residency] = (),
        automatic: bool = False,
        metered_ms: int = 40,
        heartbeats: bool = True,
        blob_store_mark: str = "",
    ) -> None:
        self.worker_id = worker_id
        self.incarnation = incarnation
        self.gpu_type = gpu_type
        self.vram_bytes = vram_bytes
        self.concurrency = concurrency
        self.residency = list(residency)
        self.automatic = automatic
        self.metered_ms = metered_ms
        self.heartbeats = heartbeats
        self.blob_store_mark = blob_store_mark
        self.welcome: fleet_pb2.Welcome | None = None
        self.assigned: asyncio.Queue[fleet_pb2.Assign] = asyncio.Queue()
        self.cancelled: asyncio.Queue[fleet_pb2.CancelAttempt] = asyncio.Queue()
        self.drained: asyncio.Queue[fleet_pb2.DrainWorker] = asyncio.Queue()
        self.heartbeat_acks: asyncio.Queue[fleet_pb2.HeartbeatAck] = asyncio.Queue()
        self.acknowledged: set[str] = set()
        self.open: dict[str, fleet_pb2.AttemptStatus] = {}
        """What Hello and the heartbeats name."""
        self._ends: dict[str, fleet_pb2.WorkerMessage] = {}
        self._news = asyncio.Condition()
        self._outbound: asyncio.Queue[fleet_pb2.WorkerMessage | fleet_pb2.WorkerFrame] = (
            asyncio.Queue()
        )
        self._address = address
        self._key = key
        self._channel: grpc.aio.Channel | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._sequence = 0
        self.ended: asyncio.Future[Exception | None] | None = None

    # ---- the stream ------------------------------------------------------------------------

    async def attach(self, address: str | None = None) -> fleet_pb2.Welcome:
        """Opens a stream, says Hello with what is open, and waits for the Welcome. Raises what the
        scheduler refused it with."""
        self._address = address or self._address
        self.welcome = None
        self._outbound = asyncio.Queue()
        self.ended = asyncio.get_running_loop().create_future()
        self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        metadata = (("authorization", f"Key {self._key}"),)
        call = fleet_pb2_grpc.FleetStub(self._channel).Attach(self._frames(), metadata=metadata)
        self._tasks = [asyncio.create_task(self._read(call))]
        async with self._news, asyncio.timeout(PATIENCE_SECONDS):
            await self._news.wait_for(lambda: self.welcome is not None or self._ended())
        if self.welcome is None:
            assert self.ended is not None
            error = self.ended.result()
            raise error if error is not None else AssertionError("ended without a Welcome")
        if self.heartbeats:
            self._tasks.append(asyncio.create_task(self._beat(self.welcome)))
        return self.welcome

    async def attach_when_up(self, address: str | None = None) -> fleet_pb2.Welcome:
        """As `attach`, again and again until the scheduler answers."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await self.attach(address)
                except Exception:
                    await self.break_stream()

    async def break_stream(self) -> None:
        """As a cut cable: no Goodbye."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def restart(self, incarnation: str) -> None:
        """A new process: what ran is gone."""
        await self.break_stream()
        self.incarnation = incarnation
        self.open.clear()
        await self.attach()

    async def __aenter__(self) -> Self:
        await self.attach()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        await self.break_stream()

    def _ended(self) -> bool:
        return self.ended is not None and self.ended.done()

    def _hello(self) -> fleet_pb2.WorkerMessage:
        return fleet_pb2.WorkerMessage(
            hello=fleet_pb2.Hello(
                worker_id=self.worker_id,
                incarnation=self.incarnation,
                gpu_type=self.gpu_type,
                vram_bytes=self.vram_bytes,
                concurrency=self.concurrency,
                residency=self.residency,
                attempts=self.open.values(),
                version="test",
                blob_store_mark=self.blob_store_mark,
            )
        )

    async def _frames(self) -> AsyncIterator[fleet_pb2.WorkerFrame]:
        yield fleet_pb2.WorkerFrame(messages=[self._hello()])
        while True:
            message = await self._outbound.get()
            if isinstance(message, fleet_pb2.WorkerFrame):
                yield message
                continue
            frame = fleet_pb2.WorkerFrame(messages=[message])
            while len(frame.messages) < FRAME_MESSAGES_MAX and not self._outbound.empty():
                more = self._outbound.get_nowait()
                if isinstance(more, fleet_pb2.WorkerFrame):
                    yield frame
                    frame = more
                    break
                frame.messages.append(more)
            yield frame

    async def _read(
        self, call: grpc.aio.StreamStreamCall[fleet_pb2.WorkerFrame, fleet_pb2.SchedulerFrame]
    ) -> None:
        error: Exception | None = None
        try:
            async for frame in call:
                assert isinstance(frame, fleet_pb2.SchedulerFrame)
                async with self._news:
                    for message in frame.messages:
                        self._take(message)
                    self._news.notify_all()
        except grpc.aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error)
        finally:
            assert self.ended is not None
            if not self.ended.done():
                self.ended.set_result(error)
            with contextlib.suppress(RuntimeError):
                async with self._news:
                    self._news.notify_all()

    def _take(self, message: fleet_pb2.SchedulerMessage) -> None:
        match message.WhichOneof("kind"):
            case "welcome":
                self.welcome = message.welcome
                for attempt_id in message.welcome.revoked_attempt_ids:
                    self.open.pop(attempt_id, None)
                # Ends are said again until they are acknowledged.
                for attempt_id in self.open.keys() & self._ends.keys():
                    self.say(self._ends[attempt_id])
            case "assign":
                self._on_assign(message.assign)
            case "cancel":
                self.cancelled.put_nowait(message.cancel)
            case "heartbeat_ack":
                self.heartbeat_acks.put_nowait(message.heartbeat_ack)
            case "finished_ack":
                for attempt_id in message.finished_ack.attempt_ids:
                    self.acknowledged.add(attempt_id)
                    self.open.pop(attempt_id, None)
                    self._ends.pop(attempt_id, None)
            case "drain":
                self.drained.put_nowait(message.drain)
            case _:
                pass

    def _on_assign(self, assign: fleet_pb2.Assign) -> None:
        # A scheduler that was restarted may assign again what we already have.
        if assign.attempt_id in self.open:
            return
        self.open[assign.attempt_id] = fleet_pb2.AttemptStatus(
            attempt_id=assign.attempt_id,
            request_id=assign.request_id,
            state=types_pb2.REQUEST_STATE_PLACED,
        )
        self.assigned.put_nowait(assign)
        if self.automatic:
            self.loading(assign.attempt_id)
            self.running(assign.attempt_id)
            self.finish(assign)

    async def _beat(self, welcome: fleet_pb2.Welcome) -> None:
        while True:
            await asyncio.sleep(welcome.heartbeat_interval_ms / 1000)
            self.heartbeat()

    # ---- what it says ------------------------------------------------------------------------

    def say(self, message: fleet_pb2.WorkerMessage) -> None:
        self._outbound.put_nowait(message)

    def say_frame(self, frame: fleet_pb2.WorkerFrame) -> None:
        """As it is, however wrong."""
        self._outbound.put_nowait(frame)

    def heartbeat(self) -> int:
        self._sequence += 1
        beat = fleet_pb2.Heartbeat(sequence=self._sequence, attempts=self.open.values())
        self.say(fleet_pb2.WorkerMessage(heartbeat=beat))
        return self._sequence

    def meter(self, attempt_id: str, metered_ms: int) -> None:
        """What the next heartbeat says of a running attempt."""
        self.open[attempt_id].metered_ms = metered_ms

    def loading(self, attempt_id: str) -> None:
        self.open[attempt_id].state = types_pb2.REQUEST_STATE_LOADING
        self.say(fleet_pb2.WorkerMessage(loading=fleet_pb2.AttemptLoading(attempt_id=attempt_id)))

    def running(
        self,
        attempt_id: str,
        *,
        load_ms: int = 5,
        start_tier: types_pb2.Tier.ValueType = types_pb2.TIER_DISK,
    ) -> None:
        self.open[attempt_id].state = types_pb2.REQUEST_STATE_RUNNING
        running = fleet_pb2.AttemptRunning(
            attempt_id=attempt_id, load_ms=load_ms, start_tier=start_tier
        )
        self.say(fleet_pb2.WorkerMessage(running=running))

    def progress(self, attempt_id: str, step: int, steps: int) -> None:
        event = fleet_pb2.AttemptEvent(attempt_id=attempt_id)
        event.progress.step, event.progress.steps = step, steps
        self.say(fleet_pb2.WorkerMessage(event=event))

    def finish(
        self,
        assign: fleet_pb2.Assign,
        outcome: Literal["succeeded", "failed", "cancelled"] = "succeeded",
        *,
        metered_ms: int | None = None,
        output_json: str = '{"images":[]}',
        artifacts: Sequence[types_pb2.Artifact] = (),
        contents: Sequence[bytes] = (),
        failure: types_pb2.Failure | None = None,
    ) -> None:
        state = {
            "succeeded": types_pb2.REQUEST_STATE_SUCCEEDED,
            "failed": types_pb2.REQUEST_STATE_FAILED,
            "cancelled": types_pb2.REQUEST_STATE_CANCELLED,
        }[outcome]
        if assign.attempt_id in self.open:
            self.open[assign.attempt_id].state = state
        end = self._ends[assign.attempt_id] = fleet_pb2.WorkerMessage(
            finished=fleet_pb2.AttemptFinished(
                attempt_id=assign.attempt_id,
                request_id=assign.request_id,
                outcome=state,
                metered_ms=self.metered_ms if metered_ms is None else metered_ms,
                load_ms=5,
                start_tier=types_pb2.TIER_DISK,
                output_json=output_json if outcome == "succeeded" else "",
                artifacts=artifacts,
                contents=contents,
                failure=failure,
            )
        )
        self.say(end)

    def goodbye(self) -> None:
        self.say(fleet_pb2.WorkerMessage(goodbye=fleet_pb2.Goodbye()))

    # ---- what it heard -----------------------------------------------------------------------

    async def next_assign(self) -> fleet_pb2.Assign:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.assigned.get()

    async def next_cancel(self) -> fleet_pb2.CancelAttempt:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.cancelled.get()

    async def next_drain(self) -> fleet_pb2.DrainWorker:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.drained.get()

    async def until_acknowledged(self, attempt_id: str) -> None:
        async with self._news, asyncio.timeout(PATIENCE_SECONDS):
            await self._news.wait_for(lambda: attempt_id in self.acknowledged)

    async def until_heartbeat_acknowledged(self, sequence: int) -> fleet_pb2.HeartbeatAck:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (ack := await self.heartbeat_acks.get()).sequence < sequence:
                pass
            return ack

    async def until_ended(self) -> Exception | None:
        """What the stream ended with."""
        assert self.ended is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.shield(self.ended)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
