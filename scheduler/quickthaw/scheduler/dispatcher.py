"""Owns the core: feeds it what happens, carries out what it decides, in the order it asks for.

Everything here runs on the event loop, so the core has one owner and needs no lock. The rules for
the order are in `core.commands`: writes commit in order; `Immediate` commands run at once;
`AfterCommit` commands run when every write issued before them is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from quickthaw.scheduler.alerts import log_alert
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.convert.requests import WatchPayload, end_columns, sent_contents
from quickthaw.scheduler.convert.workers import ToWorker, fill_assign, scheduler_message
from quickthaw.scheduler.core import commands, events
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import RequestId, Tier
from quickthaw.scheduler.effects import Effects
from quickthaw.scheduler.events_log import EventsLog
from quickthaw.scheduler.live import LiveRequest, LiveRequests
from quickthaw.scheduler.metrics import SchedulerMetrics
from quickthaw.scheduler.store.journal import Journal, Told
from quickthaw.scheduler.store.rows import command_rows, ended_rows
from quickthaw.scheduler.store.statements import Row
from quickthaw.scheduler.store.write_behind import WriteBehind
from quickthaw.scheduler.views import RequestView
from quickthaw.scheduler.worker_streams import Message
from quickthaw.v1 import fleet_pb2
from quickthaw.wire import errors

logger = logging.getLogger(__name__)


class Outbox(Protocol):
    """Where messages for workers go. All methods drop what has no stream to go to."""

    def send(self, worker_id: str, message: Message) -> None: ...

    def acknowledge(self, worker_id: str, attempt_id: str) -> None:
        """The worker may forget the attempt, whose end is durable."""
        ...

    def close(self, worker_id: str, detail: str) -> None: ...


class Dispatcher:
    """See the module. `run` must be running for leases and deadlines to be kept."""

    def __init__(
        self,
        *,
        machine: Machine,
        journal: Journal,
        clock: Clock,
        live: LiveRequests,
        queue_max: int,
        log: EventsLog[WatchPayload],
        outbox: Outbox,
        metrics: SchedulerMetrics,
        tick_seconds: float,
        write_behind_seconds: float,
        on_decided: Callable[[RequestId], None] = lambda request_id: None,
    ) -> None:
        self.machine = machine
        self.input_for: Callable[[RequestView, str], str] = lambda view, _: view.input_json
        """What a worker, by its id, is given of a request's input."""
        self.live = live
        self.log = log
        self.clock = clock
        self._journal = journal
        self._outbox = outbox
        self._metrics = metrics
        self._tick_seconds = tick_seconds
        self._on_decided = on_decided
        self._queue_max = queue_max
        self._being_journalled = 0
        self._stopped = False
        self._effects = Effects(journal)
        self._behind = WriteBehind(self._effects.issue, write_behind_seconds)

    # ---- in ------------------------------------------------------------------------------

    def check_admission(self, request: LiveRequest) -> None:
        """Raises QueueFull, ModelCannotFit or whatever else refuses a request for now. What is
        on its way into the journal counts as queued."""
        self.live.check_room(request.view.input_json)
        # It was submitted just now.
        error = self.machine.admission_error(request.job, request.job.submitted_ms)
        if error is not None:
            raise error
        if self.machine.queue_length() + self._being_journalled >= self._queue_max:
            raise errors.QueueFull(
                f"{self._queue_max} requests wait already; try again later",
                retry_delay_seconds=2.0,
            )

    def journal_request(self, request: LiveRequest, rows: Sequence[Row], told: Told) -> None:
        """Makes a request durable and hands it to the core, whether or not the caller waits.

        `told` is called after the core has heard, or with StorageFull, StoreUnavailable or
        Internal: then the request was never accepted. Raises Unavailable.
        """
        self._journal.write(rows, partial(self._accept, request, told), kept=False)
        # At once: of those that are on their way too, each must see what the others will cost.
        self.machine.hold(request.job, self.clock.now_ms())
        self._being_journalled += 1

    def accept_ahead(self, request: LiveRequest, rows: Sequence[Row]) -> bool:
        """Hands a request to the core at once; its row is durable no later than its end.

        For callers that are gone when this process is: nobody can ask for what a crash forgets, and
        a worker that runs it is told to stop. False while the store does not take writes: a refusal
        needs `journal_request`.
        """
        if self._journal.faulty or self._journal.behind:
            return False
        self._behind.note_request(request.job.request_id, rows)
        self._begin(request, request.job.submitted_ms)
        return True

    def _accept(
        self, request: LiveRequest, told: Told, error: errors.QuickthawError | None
    ) -> None:
        self._being_journalled -= 1
        if error is None:
            self._begin(request)
        else:
            self.machine.release_hold(request.job.request_id)
        told(error)

    def _begin(self, request: LiveRequest, now_ms: int = 0) -> None:
        self.live.add(request)
        self.log.begin(request.view.request_id)
        self._metrics.submitted.inc()
        # One that waits for nobody was submitted just now: the clock need not be asked again.
        self.feed(events.RequestJournalled(request.job), now_ms)

    def recover(self, view: RequestView, event: events.RequestRecovered) -> None:
        """A request that an earlier process left open. Its events go on above all sequences that
        were told then: none had as many events as there are milliseconds since 1970."""
        request = LiveRequest(event.job, view)
        self.live.add(request)
        now_ms = self.clock.now_ms()
        self.log.begin(view.request_id, first_sequence=now_ms)
        if (attempt := event.open_attempt) is not None:
            request.worker_id, request.attempt = attempt.worker_id, attempt.number
            detail = "the scheduler was restarted; waiting for the worker to come back"
            told = commands.TellProgress(
                event.job.request_id,
                event.open_state,
                now_ms,
                attempt.worker_id,
                attempt.number,
                detail,
            )
            self.log.append(view.request_id, now_ms, told)
        self.feed(event)

    def stop(self, why: errors.QuickthawError) -> None:
        """Nothing that happens from now on is decided upon: the next process will be told again.
        Waiting callers and watchers get the error."""
        self._stopped = True
        self._behind.flush()
        self.log.close(why)
        for request in self.live:
            waiters, request.waiters = request.waiters, []
            for tell in waiters:
                tell(why)

    def feed(self, event: events.Event, now_ms: int = 0) -> None:
        """`now_ms`: what the clock said just now, if it was asked."""
        if self._stopped:
            return
        if isinstance(event, events.ResidencyChanged):
            self._metrics.evicted(sum(each.tier is Tier.VRAM for each in event.removed))
        self._perform(self.machine.handle(event, now_ms or self.clock.now_ms()))

    def attempt_event(self, worker_id: str, event: fleet_pb2.AttemptEvent) -> None:
        """Progress, a preview or a log line, told in order with the states around it."""
        request_id, _, number = event.attempt_id.rpartition(".")
        request = self.live.get(request_id)
        # What an attempt says that was lost meanwhile would confuse the one that runs now.
        if request is None or request.worker_id != worker_id or number != str(request.attempt):
            return
        self.log.append(
            request_id,
            self.clock.now_ms(),
            event,
            droppable=True,
            size_bytes=event.ByteSize() + 128,
        )

    async def run(self) -> None:
        """Feeds Ticks when the core's timers are due; never returns.

        A tick that comes late itself waits one more turn: the sockets' news are late then too, and
        a heartbeat unread must not count as silence. The same holds while the journal is behind.
        """
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._tick_seconds
            await asyncio.sleep(self._tick_seconds)
            late = loop.time() - due > self._tick_seconds
            timer_ms = self.machine.next_timer_ms()
            if late or timer_ms is None or self._journal.behind:
                continue
            if timer_ms <= self.clock.now_ms():
                self.feed(events.Tick())

    async def wait_for_room(self) -> None:
        """Holds a worker's stream back while the journal cannot keep up."""
        while self._journal.behind and self._effects.waiting:
            await self._effects.durable()

    async def durable(self) -> None:
        """Returns when everything decided so far is durable, or as durable as it will be."""
        await self._effects.durable()

    async def make_durable(self, request: LiveRequest) -> None:
        """For a request that was accepted ahead and whose caller is about to hear of it."""
        if rows := self._behind.take_request(request.job.request_id):
            self._effects.issue(rows, [])
        await self._effects.durable()

    def wait_for_end(self, request: LiveRequest) -> asyncio.Future[RequestView]:
        waiter: asyncio.Future[RequestView] = asyncio.get_running_loop().create_future()

        def tell(end: RequestView | errors.QuickthawError) -> None:
            if waiter.done():
                return
            if isinstance(end, errors.QuickthawError):
                waiter.set_exception(end)
            else:
                waiter.set_result(end)

        request.waiters.append(tell)
        return waiter

    # ---- out -----------------------------------------------------------------------------

    def _perform(self, decided: Sequence[commands.Command]) -> None:
        """Those that every request leads to are asked for first."""
        rows: list[Row] = []
        after: list[Callable[[], None]] = []
        meanwhile: Callable[[], None] | None = None
        for command in decided:
            if isinstance(command, commands.TellProgress):
                self._tell_progress(command)
            elif isinstance(command, commands.JournalSoon):
                self._note(command)
            elif isinstance(command, commands.SendAssign):
                self._assign(command)
            elif isinstance(command, commands.TellQueued):
                self._tell_queued(command)
            elif isinstance(command, commands.JournalEnd):
                rows.extend(self._end_rows(command))
                meanwhile = self._tentative_end(command) or meanwhile
            elif isinstance(command, commands.TellEnd):
                after.append(partial(self._tell_end, command))
            elif isinstance(command, commands.SendFinishedAck):
                after.append(
                    partial(self._outbox.acknowledge, command.worker_id, command.attempt_id)
                )
            elif isinstance(command, commands.Journal):
                rows.extend(self._rows(command))
            elif isinstance(command, commands.AfterCommit):
                if not self._waits_for_meter(command):
                    after.append(partial(self._send, command))
            elif isinstance(command, commands.CloseStream):
                self._outbox.close(command.worker_id, command.detail)
            else:
                self._send(command)
        if rows:
            self._effects.issue(rows, after, meanwhile)
        elif after:
            self._effects.later(after)

    def _note(
        self,
        command: commands.JournalPlacement | commands.JournalProgress | commands.JournalMetered,
    ) -> None:
        if isinstance(command, commands.JournalProgress) and command.state is RequestState.RUNNING:
            self._metrics.began(command.attempt)
        self._behind.note(command)

    def _rows(
        self,
        command: commands.JournalCancel
        | commands.JournalMark
        | commands.JournalQuarantine
        | commands.JournalReservation
        | commands.JournalAccount,
    ) -> list[Row]:
        rows = command_rows(command)
        if isinstance(command, commands.JournalCancel):
            return [*self._behind.take_request(command.request_id), *rows]
        return rows

    def _end_rows(self, command: commands.JournalEnd) -> list[Row]:
        self._metrics.billed(command)
        for alert in command.settled.alerts:
            log_alert(alert)
        if command.attempt is None:
            self._on_decided(command.job.request_id)
        else:
            self._behind.forget(command.attempt.attempt_id)
        columns = end_columns(command)
        request_id = command.job.request_id
        if (request := self.live.get(request_id)) is not None:
            request.end = columns
            request.contents = sent_contents(command)
        return ended_rows(self._behind.take_request(request_id), command_rows(command, columns))

    def _tentative_end(self, command: commands.JournalEnd) -> Callable[[], None] | None:
        """What tells of it while it is written, for who wants that."""
        request = self.live.get(command.job.request_id)
        if request is None or request.tell_tentatively is None:
            return None
        return partial(request.tell_tentatively, command.then)

    def _assign(self, command: commands.SendAssign) -> None:
        self._on_decided(command.job.request_id)
        input_json, contents_bytes_max = "{}", 0
        if (request := self.live.get(command.job.request_id)) is not None:
            input_json = self.input_for(request.view, command.worker_id)
            contents_bytes_max = request.contents_bytes_max
        fill = partial(fill_assign, command, input_json, contents_bytes_max)
        self._outbox.send(command.worker_id, fill)

    def _send(self, command: ToWorker) -> None:
        self._outbox.send(command.worker_id, scheduler_message(command))

    def _waits_for_meter(self, command: commands.SendWelcome | commands.SendHeartbeatAck) -> bool:
        """Whether it is an acknowledgement of run times that are still to be written."""
        return isinstance(command, commands.SendHeartbeatAck) and self._behind.when_metered(
            partial(self._send, command)
        )

    # ---- what callers and watchers see ------------------------------------------------------

    def _tell_progress(self, command: commands.TellProgress) -> None:
        if (request := self.live.get(command.request_id)) is None:
            return
        request.view.state = command.state
        request.view.attempts = command.attempt
        request.worker_id = command.worker_id
        request.attempt = command.attempt
        self.log.append(command.request_id, command.at_ms, command)

    def _tell_queued(self, command: commands.TellQueued) -> None:
        if (request := self.live.get(command.request_id)) is None:
            return
        request.view.state = RequestState.QUEUED
        request.view.attempts = command.attempt
        request.view.queue_position = command.queue_position
        request.worker_id = ""
        self.log.append(command.request_id, command.at_ms, command)

    def _tell_end(self, command: commands.TellEnd) -> None:
        request = self.live.remove(command.job.request_id)
        if request is None:
            return
        view = request.view
        view.state = command.end.state
        view.attempts = command.end.receipt.attempts
        view.finished_ms = command.end.finished_ms
        if request.end is not None:
            view.output_json = request.end.output_json
            view.end_proto = request.end.end_proto
        size_bytes = len(view.input_json) + len(view.output_json) + len(view.end_proto) + 512
        self.log.append(view.request_id, view.finished_ms, view, final=True, size_bytes=size_bytes)
        # An end that is not in the store is none: the next start finds the request open.
        end = self._effects.lost or view
        for tell in request.waiters:
            tell(end)
        self._metrics.ended(command)
