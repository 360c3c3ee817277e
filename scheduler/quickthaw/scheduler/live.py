"""The requests that have not ended, with what the core does not keep of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from quickthaw.scheduler.core.commands import RequestEnd, Requeued
from quickthaw.scheduler.core.model import Job
from quickthaw.scheduler.store.rows import EndColumns
from quickthaw.scheduler.views import RequestView
from quickthaw.wire import errors


@dataclass(slots=True)
class LiveRequest:
    """`view` is what callers see. `worker_id` and `attempt` say who may send progress."""

    job: Job
    view: RequestView
    worker_id: str = ""
    attempt: int = 0
    end: EndColumns | None = None
    waiters: list[Callable[[RequestView | errors.QuickthawError], None]] = field(
        default_factory=list
    )
    """Called once, with the end or with why it will not be known here."""
    contents_bytes_max: int = 0
    """What the worker may send of the outputs along with the end, for somebody who waits."""
    contents: tuple[bytes, ...] = ()
    """What it sent."""
    tell_tentatively: Callable[[RequestEnd | Requeued], None] | None = None
    """Called with what became of an attempt while that is written, for one who keeps it to
    himself."""

    def ended(self, end: RequestEnd) -> RequestView:
        """What callers will see of it."""
        view = replace(
            self.view,
            state=end.state,
            attempts=end.receipt.attempts,
            finished_ms=end.finished_ms,
        )
        if self.end is not None:
            view.output_json, view.end_proto = self.end.output_json, self.end.end_proto
        return view


class LiveRequests:
    """By id, with the bytes of their inputs counted, because inputs wait in memory."""

    def __init__(self, input_bytes_max: int) -> None:
        self._input_bytes_max = input_bytes_max
        self._input_bytes = 0
        self._requests: dict[str, LiveRequest] = {}
        self._open_of_key: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def check_room(self, input_json: str) -> None:
        """Raises QueueFull."""
        if self._input_bytes + len(input_json) > self._input_bytes_max:
            raise errors.QueueFull(
                f"the inputs of waiting requests fill {self._input_bytes_max} bytes; try again "
                "when some have run, or pass large files by URL",
                retry_delay_seconds=2.0,
            )

    def add(self, request: LiveRequest) -> None:
        self._requests[request.view.request_id] = request
        key_id = request.job.key_id
        self._open_of_key[key_id] = self._open_of_key.get(key_id, 0) + 1
        self._input_bytes += len(request.view.input_json)

    def open_of(self, key_id: str) -> int:
        """Requests that the key handed in and that have not ended."""
        return self._open_of_key.get(key_id, 0)

    def get(self, request_id: str) -> LiveRequest | None:
        return self._requests.get(request_id)

    def remove(self, request_id: str) -> LiveRequest | None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._input_bytes -= len(request.view.input_json)
            left = self._open_of_key[request.job.key_id] - 1
            if left:
                self._open_of_key[request.job.key_id] = left
            else:
                del self._open_of_key[request.job.key_id]
        return request

    def __iter__(self) -> Iterator[LiveRequest]:
        return iter(list(self._requests.values()))
