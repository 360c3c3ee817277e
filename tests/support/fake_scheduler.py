"""A scheduler's side of Fleet.Attach on a real socket, played by the test line by line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Self, TypeAlias, cast

import grpc
import grpc.aio

from quickthaw.v1 import fleet_pb2
from quickthaw.wire import errors
from quickthaw.wire.limits import SERVER_OPTIONS
from quickthaw.wire.status import ErrorInterceptor
from support.patience import PATIENCE_SECONDS

# The stubs type handlers for the threaded server only; the asyncio one takes coroutines.
_Attach: TypeAlias = Callable[
    [Iterator[fleet_pb2.WorkerFrame], grpc.ServicerContext], Iterator[fleet_pb2.SchedulerFrame]
]

KEY = "qt_worker_secret"


class Session:
    """One stream of a worker. Heartbeats and ends are acknowledged unless told otherwise."""

    def __init__(self, hello: fleet_pb2.Hello) -> None:
        self.hello = hello
        self.acknowledge_heartbeats = True
        self.acknowledge_ends = True
        self.received: list[fleet_pb2.WorkerMessage] = []
        self._unread: deque[fleet_pb2.WorkerMessage] = deque()
        self._news = asyncio.Condition()
        self._outgoing: asyncio.Queue[fleet_pb2.SchedulerMessage | None] = asyncio.Queue()
        self.ended = asyncio.Event()
        self._error: errors.QuickthawError | None = None

    # ---- what the test says --------------------------------------------------------------------

    def send(self, **kind: object) -> None:
        """One message: `send(assign=Assign(...))`."""
        self._outgoing.put_nowait(fleet_pb2.SchedulerMessage(**kind))  # type: ignore[arg-type]  # any one kind

    def welcome(
        self,
        *,
        heartbeat_ms: int = 50,
        lease_ms: int = 20_000,
        revoked: tuple[str, ...] = (),
    ) -> None:
        self.send(
            welcome=fleet_pb2.Welcome(
                heartbeat_interval_ms=heartbeat_ms, lease_ms=lease_ms, revoked_attempt_ids=revoked
            )
        )

    def assign(self, attempt_id: str, **fields: object) -> None:
        fields.setdefault("family", "noop")
        fields.setdefault("request_id", f"request-of-{attempt_id}")
        fields.setdefault("model", "test/model")
        fields.setdefault("attempt", 1)
        self.send(assign=fleet_pb2.Assign(attempt_id=attempt_id, **fields))  # type: ignore[arg-type]  # of Assign

    def cancel(self, attempt_id: str, reason: str = "the caller asked") -> None:
        self.send(cancel=fleet_pb2.CancelAttempt(attempt_id=attempt_id, reason=reason))

    def acknowledge(self, *attempt_ids: str) -> None:
        self.send(finished_ack=fleet_pb2.FinishedAck(attempt_ids=attempt_ids))

    def hang_up(self) -> None:
        """The stream ends."""
        self._outgoing.put_nowait(None)

    def fail_with(self, error: errors.QuickthawError) -> None:
        """The stream ends with an error."""
        self._error = error
        self.hang_up()

    # ---- what the worker says ------------------------------------------------------------------

    async def next(self, kind: str, attempt_id: str = "") -> fleet_pb2.WorkerMessage:
        """The next unread message of this kind (and attempt); others stay unread.

        `progress`, `preview` and `log` name kinds of events.
        """

        def find() -> fleet_pb2.WorkerMessage | None:
            for message in self._unread:
                if _matches(message, kind, attempt_id):
                    self._unread.remove(message)
                    return message
            return None

        found: list[fleet_pb2.WorkerMessage] = []

        def arrived() -> bool:
            if not found and (message := find()) is not None:
                found.append(message)
            return bool(found)

        async with asyncio.timeout(PATIENCE_SECONDS), self._news:
            await self._news.wait_for(arrived)
        return found[0]

    async def finished(self, attempt_id: str) -> fleet_pb2.AttemptFinished:
        return (await self.next("finished", attempt_id)).finished

    def seen(self, kind: str, attempt_id: str = "") -> list[fleet_pb2.WorkerMessage]:
        return [message for message in self.received if _matches(message, kind, attempt_id)]

    async def take(self, frame: fleet_pb2.WorkerFrame) -> None:
        """For the servicer: what came in."""
        async with self._news:
            for message in frame.messages:
                self.received.append(message)
                self._unread.append(message)
                match message.WhichOneof("kind"):
                    case "heartbeat" if self.acknowledge_heartbeats:
                        self.send(
                            heartbeat_ack=fleet_pb2.HeartbeatAck(
                                sequence=message.heartbeat.sequence
                            )
                        )
                    case "finished" if self.acknowledge_ends:
                        self.acknowledge(message.finished.attempt_id)
            self._news.notify_all()

    async def outgoing(self) -> AsyncIterator[fleet_pb2.SchedulerFrame]:
        """For the servicer: what goes out, until `hang_up`."""
        while (message := await self._outgoing.get()) is not None:
            yield fleet_pb2.SchedulerFrame(messages=[message])
        if self._error is not None:
            raise self._error


def _matches(message: fleet_pb2.WorkerMessage, kind: str, attempt_id: str) -> bool:
    name: str | None = message.WhichOneof("kind")
    if name is None:
        return False
    part = getattr(message, name)
    if name == "event" and kind != "event":
        name = message.event.WhichOneof("kind") or ""
    return name == kind and (not attempt_id or getattr(part, "attempt_id", "") == attempt_id)


class FakeScheduler:
    """`async with FakeScheduler() as scheduler`: listens on `scheduler.address`."""

    def __init__(self) -> None:
        self.refuse: errors.QuickthawError | None = None
        """What Attach answers with instead of a stream."""
        self.attempts_to_attach = 0
        self._attempts: asyncio.Queue[None] = asyncio.Queue()
        self._port = 0
        self._sessions: asyncio.Queue[Session] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """On the port of the last time, if there was one."""
        self._server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=SERVER_OPTIONS)
        attach = grpc.stream_stream_rpc_method_handler(
            cast("_Attach", self._attach),
            request_deserializer=fleet_pb2.WorkerFrame.FromString,
            response_serializer=fleet_pb2.SchedulerFrame.SerializeToString,
        )
        service = fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name
        handler = grpc.method_handlers_generic_handler(service, {"Attach": attach})
        self._server.add_generic_rpc_handlers((handler,))
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    async def tried(self) -> None:
        """The next time that somebody calls Attach, with or without success."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._attempts.get()

    async def attached(self) -> Session:
        """The next stream whose Hello has arrived. It still waits for its Welcome."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._sessions.get()

    async def welcomed(self, lease_ms: int = 20_000) -> Session:
        """The next stream, which has its Welcome."""
        session = await self.attached()
        session.welcome(lease_ms=lease_ms)
        return session

    async def _attach(
        self,
        request_iterator: AsyncIterator[fleet_pb2.WorkerFrame],
        context: grpc.aio.ServicerContext[fleet_pb2.WorkerFrame, fleet_pb2.SchedulerFrame],
    ) -> AsyncIterator[fleet_pb2.SchedulerFrame]:
        self.attempts_to_attach += 1
        self._attempts.put_nowait(None)
        metadata = dict(context.invocation_metadata() or ())
        if self.refuse is not None:
            raise self.refuse
        if metadata.get("authorization") != f"Key {KEY}":
            raise errors.Unauthenticated("the key is not known; make one with `quickthaw keys`")
        first = await anext(aiter(request_iterator))
        session = Session(first.messages[0].hello)
        self._sessions.put_nowait(session)

        async def read() -> None:
            async for frame in request_iterator:
                await session.take(frame)
            session.hang_up()

        reader = asyncio.create_task(read())
        try:
            async for frame in session.outgoing():
                yield frame
        finally:
            reader.cancel()
            session.ended.set()
