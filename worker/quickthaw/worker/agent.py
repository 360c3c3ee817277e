"""The worker's one connection: Hello, Welcome, frames both ways, heartbeats, and the lease.

The stream may break at any time. What runs goes on; the next Hello says what is still held, and
ends that were not acknowledged are sent again. What must not go on is an attempt whose lease has
run out: the scheduler may have given its request to another worker (fencing; `lease.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random

import grpc
import grpc.aio

from quickthaw.v1 import fleet_pb2, fleet_pb2_grpc
from quickthaw.wire import errors
from quickthaw.wire.status import error_from_rpc
from quickthaw.worker import convert
from quickthaw.worker.attempts import Failure
from quickthaw.worker.events import (
    Assigned,
    CancelAll,
    CancelRequested,
    EndsAcknowledged,
    LeaseExpired,
    MeterExtended,
    Revoked,
)
from quickthaw.worker.hints import Hints
from quickthaw.worker.lease import Lease, idle_turns
from quickthaw.worker.line import Line, raise_status
from quickthaw.worker.metrics import WorkerMetrics
from quickthaw.worker.outbox import Outbox
from quickthaw.worker.ports import Clock
from quickthaw.worker.residency import ResidencyView, Resident, TierSpeeds
from quickthaw.worker.shell import Shell, unix_ms

logger = logging.getLogger(__name__)

# Trying again with the same key, id and settings cannot end differently.
_FATAL = (
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.InvalidArgument,
    errors.FailedPrecondition,  # another process says Hello under the same id
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What Hello says about this process and does not change."""

    worker_id: str
    incarnation: str
    gpu_type: str
    vram_bytes: int
    pinned_bytes: int
    concurrency: int
    version: str
    labels: dict[str, str] = field(default_factory=dict[str, str])
    batch_max: int = 1
    batch_families: tuple[str, ...] = ()
    peer_url: str = ""
    """Where other workers may read from this one; empty for nowhere."""
    peer_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds. Backoff doubles from `base` to `cap`, with jitter."""

    welcome_seconds: float = 10.0
    backoff_base_seconds: float = 0.1
    backoff_cap_seconds: float = 5.0
    goodbye_seconds: float = 2.0


class Agent:
    """`run` returns after `leave`; it raises an error of the tree if trying again is no use."""

    def __init__(
        self,
        line: Line,
        key: str,
        identity: Identity,
        shell: Shell,
        outbox: Outbox,
        metrics: WorkerMetrics,
        clock: Clock,
        random: Random,
        patience: Patience,
        speeds: TierSpeeds,
        hints: Hints | None = None,
    ) -> None:
        self._line = line
        self._metadata = (("authorization", f"Key {key}"),)
        self._identity = identity
        self._shell = shell
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._random = random
        self._patience = patience
        self._speeds = speeds
        self._hints = hints
        self._residency = ResidencyView()
        self._sequence = 0
        self._lease = Lease(clock, self._lease_over)
        self._call: _Call | None = None
        self._connected = False
        self._welcomes = 0
        self.welcomed = asyncio.Event()
        """Set by the first Welcome."""
        self.stop_when_idle = asyncio.Event()
        """Set while the scheduler wants this process to exit when nothing is left to run."""
        self.blob_store_mark = ""
        """Which store the outputs go to, told in Hello; set before `run`."""
        self._refusal: Failure | None = None
        self._leaving = asyncio.Event()
        self._left = asyncio.Event()

    # ---- what others tell the agent ------------------------------------------------------------

    def set_residency(self, lines: list[Resident]) -> None:
        """What is where now; the scheduler hears the difference."""
        delta = self._residency.update(lines)
        self._metrics.set_resident(self._residency.bytes_by_tier())
        if delta is not None:
            self._outbox.put(convert.residency_delta(delta.added, delta.removed))

    def refuse_assignments(self, why: str) -> None:
        """From now on: the scheduler is told to place nothing more, and what it had already sent is
        given back."""
        self._refusal = Failure(errors.Unavailable.reason, why, retryable=True)
        if self._connected:
            self._beat_once()

    async def leave(self) -> None:
        """Says Goodbye if connected, within a limit. Nothing may be running."""
        self._leaving.set()
        self._outbox.put(fleet_pb2.WorkerMessage(goodbye=fleet_pb2.Goodbye()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience.goodbye_seconds if self._connected else 0):
                await self._left.wait()
        self._drop_call()

    # ---- the connection ------------------------------------------------------------------------

    async def run(self) -> None:
        failures = 0
        try:
            while not self._leaving.is_set():
                welcomes = self._welcomes
                try:
                    await self._session()
                except grpc.aio.AioRpcError as rpc_error:
                    error = error_from_rpc(rpc_error)
                    if isinstance(error, _FATAL):
                        raise error from rpc_error
                    self._lost(await self._line.why(error.message))
                except TimeoutError:
                    self._lost("no Welcome in time")
                except (asyncio.InvalidStateError, errors.Unavailable) as error:
                    self._lost(str(error))
                except asyncio.CancelledError:
                    # A call that we cancelled raises this too; only a task's own end may pass.
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    self._lost("given up, for it did not answer")
                finally:
                    self._connected = False
                    self._metrics.stream_connected.set(0)
                if self._leaving.is_set():
                    break
                failures = 1 if self._welcomes > welcomes else failures + 1
                self._metrics.stream_reconnects.inc()
                await self._back_off(failures)
        finally:
            self._lease.cancel()
            self._left.set()

    def _lost(self, why: str) -> None:
        if why and not self._leaving.is_set():
            logger.warning("stream to the scheduler lost: %s", why)

    async def _back_off(self, failures: int) -> None:
        ceiling = min(
            self._patience.backoff_cap_seconds,
            self._patience.backoff_base_seconds * 2 ** min(failures - 1, 16),
        )
        delay_seconds = ceiling * self._random.uniform(0.5, 1.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_seconds):
                await self._leaving.wait()

    async def _session(self) -> None:
        """One stream, from Hello until it ends. Raises AioRpcError, TimeoutError or Unavailable."""
        stub = fleet_pb2_grpc.FleetStub(await self._line.channel())
        call: _Call = stub.Attach(metadata=self._metadata)
        self._call = call
        try:
            hello, ended = self._hello()
            sent_at = self._clock()
            frames = call.__aiter__()
            async with asyncio.timeout(self._patience.welcome_seconds):
                await call.write(fleet_pb2.WorkerFrame(messages=[hello]))
                first = await anext(frames, None)
            if first is None or not first.messages or not first.messages[0].HasField("welcome"):
                # A stream that ended has a status that says more.
                if first is None:
                    await raise_status(call)
                raise errors.Unavailable("the scheduler's first message was no Welcome")
            welcome = first.messages[0].welcome
            self._welcome(welcome, sent_at, ended)
            for message in first.messages[1:]:
                self._receive(message)
            await self._exchange(call, frames, welcome)
        finally:
            self._call = None
            call.cancel()

    def _hello(self) -> tuple[fleet_pb2.WorkerMessage, list[str]]:
        """The Hello, and the attempts whose ends it repeats."""
        identity = self._identity
        # Hello is complete, so older news would only be wrong after it.
        self._outbox.clear()
        self._lease.forget_unanswered()
        ended = [end.attempt_id for end in self._shell.machine.unacknowledged()]
        statuses = self._shell.machine.statuses(self._clock(), ended=True)
        hello = fleet_pb2.Hello(
            worker_id=identity.worker_id,
            incarnation=identity.incarnation,
            gpu_type=identity.gpu_type,
            vram_bytes=identity.vram_bytes,
            pinned_bytes=identity.pinned_bytes,
            labels=identity.labels,
            version=identity.version,
            concurrency=identity.concurrency,
            batch_max=identity.batch_max,
            batch_families=identity.batch_families,
            residency=map(convert.resident, self._residency.known),
            attempts=map(convert.status, statuses),
            tier_speeds=map(convert.tier_speed, self._speeds.lines()),
            draining=self._refusal is not None,
            peer_url=identity.peer_url,
            peer_token=identity.peer_token,
            blob_store_mark=self.blob_store_mark,
        )
        return fleet_pb2.WorkerMessage(hello=hello), ended

    def _welcome(self, welcome: fleet_pb2.Welcome, sent_at: float, ended: list[str]) -> None:
        self._welcomes += 1
        self._connected = True
        self._metrics.stream_connected.set(1)
        self._revoke(tuple(welcome.revoked_attempt_ids))
        for end in self._shell.machine.unacknowledged():
            if end.attempt_id in ended:  # later ones are in the outbox already
                self._outbox.tell(end)
        if self._leaving.is_set():
            self._outbox.put(fleet_pb2.WorkerMessage(goodbye=fleet_pb2.Goodbye()))
        self._lease.begin(welcome.lease_ms / 1000, sent_at)
        logger.info("attached to the scheduler as %s", self._identity.worker_id)
        self.welcomed.set()

    async def _exchange(
        self,
        call: _Call,
        frames: AsyncIterator[fleet_pb2.SchedulerFrame],
        welcome: fleet_pb2.Welcome,
    ) -> None:
        """Until the stream ends, raising what it ended with."""
        tasks = [
            asyncio.create_task(self._read(call, frames)),
            asyncio.create_task(self._write(call)),
            asyncio.create_task(self._beat(welcome)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        # The reader's error has the stream's status; a writer only finds it closed.
        failed = [
            result
            for result in results
            if isinstance(result, Exception) and not isinstance(result, asyncio.CancelledError)
        ]
        if failed and tasks[0] not in done:
            await raise_status(call)
        if failed:
            raise failed[0]

    async def _read(self, call: _Call, frames: _Frames) -> None:
        async for frame in frames:
            for message in frame.messages:
                self._receive(message)
        await raise_status(call)

    async def _write(self, call: _Call) -> None:
        while True:
            frame = await self._outbox.take()
            for message in frame.messages:
                if message.HasField("heartbeat"):
                    self._lease.sent(message.heartbeat.sequence)
            await call.write(frame)
            if frame.messages[-1].HasField("goodbye"):
                await call.done_writing()
                # The scheduler hangs up when it has read that; until then the stream must live.
                await asyncio.Event().wait()

    async def _beat(self, welcome: fleet_pb2.Welcome) -> None:
        turns = idle_turns(welcome.lease_ms, welcome.heartbeat_interval_ms)
        for turn in itertools.count(1):
            await asyncio.sleep(welcome.heartbeat_interval_ms / 1000)
            if turn % turns == 0 or self._shell.machine.statuses(self._clock()):
                self._beat_once()

    def _beat_once(self) -> None:
        self._sequence += 1
        lines, draining = self._shell.machine.statuses(self._clock()), self._refusal is not None
        self._outbox.put(convert.heartbeat(self._sequence, lines, draining=draining))

    # ---- what the scheduler says ---------------------------------------------------------------

    def _receive(self, message: fleet_pb2.SchedulerMessage) -> None:
        match message.WhichOneof("kind"):
            case "assign":
                assignment = convert.assignment_from(message.assign)
                if self._hints is not None:
                    self._hints.assigned(assignment.snapshot_digest)
                self._shell.post(Assigned(assignment, unix_ms(), self._refusal))
            case "cancel":
                self._shell.post(CancelRequested(message.cancel.attempt_id, message.cancel.reason))
            case "heartbeat_ack":
                ack = message.heartbeat_ack
                self._revoke(tuple(ack.revoked_attempt_ids))
                self._lease.acknowledged(ack.sequence)
                if ack.meter_leases:
                    leases = ((each.attempt_id, each.until_metered_ms) for each in ack.meter_leases)
                    self._shell.post(MeterExtended(tuple(leases)))
            case "finished_ack":
                self._shell.post(EndsAcknowledged(tuple(message.finished_ack.attempt_ids)))
            case "unload" if self._hints is not None:
                self._hints.unload(message.unload)
            case "prefetch" if self._hints is not None and self._refusal is None:
                self._hints.prefetch(message.prefetch)
            case "drain":
                if message.drain.stop:
                    self.stop_when_idle.set()
                else:
                    self.stop_when_idle.clear()
            case "welcome" | "unload" | "prefetch" | None:
                # A second Welcome or a kind from a newer scheduler: nothing to be done about it.
                logger.debug("ignored a message of the scheduler")

    def _revoke(self, attempt_ids: tuple[str, ...]) -> None:
        if attempt_ids:
            logger.warning("no longer this worker's: %s", ", ".join(attempt_ids))
            self._shell.post(Revoked(attempt_ids))
            self._outbox.discard(attempt_ids)

    def _lease_over(self, seconds: float) -> None:
        lost = [line.attempt_id for line in self._shell.machine.statuses(self._clock())]
        logger.warning(
            "no word from the scheduler for %.1f s: %s",
            seconds,
            f"stopped {', '.join(lost)}" if lost else "nothing was running",
        )
        self._shell.post(LeaseExpired())
        self._outbox.discard(lost)
        if self._connected:
            self._drop_call()  # it may be half-open; a new one will tell

    def _drop_call(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def cancel_all(self, reason: str) -> None:
        self._shell.post(CancelAll(reason))


_Call = grpc.aio.StreamStreamCall[fleet_pb2.WorkerFrame, fleet_pb2.SchedulerFrame]
_Frames = AsyncIterator[fleet_pb2.SchedulerFrame]
