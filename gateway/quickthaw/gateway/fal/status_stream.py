"""The status stream: one event for each change of a queued request, until it has ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from quickthaw.gateway.answers import ErrorAnswer
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.fal.status import (
    Stage,
    closing_line,
    finished_status,
    log_line,
    stage_of,
    unfinished_status,
)
from quickthaw.gateway.fal.stream import error_event
from quickthaw.gateway.fanout import ReaderTooSlow
from quickthaw.gateway.json_text import JsonObject
from quickthaw.gateway.platform import Credential
from quickthaw.v1 import inference_pb2, types_pb2

TOO_SLOW_TEXT = "this reader fell too far behind and was cut off; ask for the status again"
_UNSEEN = ("preview", "progress")


async def status_events(
    gateway: Gateway,
    credential: Credential,
    request: types_pb2.Request,
    urls: JsonObject,
    *,
    with_logs: bool,
) -> AsyncGenerator[JsonObject, None]:
    """The present state at once; then changes. `logs` holds only lines that were not sent before.

    Its reader knows three states and no error: if the scheduler is lost, the answer breaks off. One
    that cannot keep up with the logs is told so in a last event of its own.
    """
    view = _View(request, urls, with_logs)
    if view.stage is not Stage.COMPLETED:
        yield view.unfinished()
    elif not with_logs:
        yield finished_status(urls, request, [])
        return
    events = gateway.fanout.listen(
        credential, request.request_id, without=_UNSEEN if with_logs else (*_UNSEEN, "log")
    )
    try:
        async for event in events:
            if (update := view.apply(event)) is not None:
                yield update
    except ReaderTooSlow:
        yield error_event(gateway, ErrorAnswer(429, TOO_SLOW_TEXT, "reader_too_slow"))
    finally:
        await events.aclose()


class _View:
    """What the reader of one stream has been told so far."""

    def __init__(self, request: types_pb2.Request, urls: JsonObject, with_logs: bool) -> None:
        self.stage = stage_of(request.state, request.attempts)
        self._request_id = request.request_id
        self._position = request.queue_position
        self._urls = urls
        self._with_logs = with_logs
        self._lines_sent = 0
        self._backlog: list[JsonObject] = []
        self._ended = self.stage is Stage.COMPLETED

    def unfinished(self) -> JsonObject:
        lines, self._backlog = self._backlog, []
        return unfinished_status(self._urls, self._request_id, self.stage, self._position, lines)

    def apply(self, event: inference_pb2.Event) -> JsonObject | None:
        """The event to send, if this one changes anything for the reader."""
        match event.WhichOneof("kind"):
            case "finished":
                return self._finished(event.finished)
            case "state_change":
                return self._state_change(event.state_change)
            case "log" if self._with_logs:
                self._backlog.append(log_line(event))
                self._lines_sent += 1
                # A completed request's lines go with its one event; a queued one's wait.
                waits = self._ended or self.stage is Stage.IN_QUEUE
                return None if waits else self.unfinished()
            case _:
                return None

    def _finished(self, request: types_pb2.Request) -> JsonObject:
        self.stage = Stage.COMPLETED
        lines = self._backlog
        if self._with_logs and not self._lines_sent:
            lines = [closing_line(request)]
        return finished_status(self._urls, request, lines)

    def _state_change(self, change: inference_pb2.StateChange) -> JsonObject | None:
        stage = stage_of(change.state, change.attempt)
        if self._ended or stage is Stage.COMPLETED or stage < self.stage:
            return None
        moved = stage is Stage.IN_QUEUE and change.queue_position != self._position
        if stage is self.stage and not moved:
            return None
        self.stage, self._position = stage, change.queue_position
        return self.unfinished()
