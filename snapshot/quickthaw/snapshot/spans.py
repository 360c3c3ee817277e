"""Which part of a load is read next: its spans in load order, and only so many at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Bytes `start` to `start + nbytes` of the component with that number in the load."""

    number: int
    start: int
    nbytes: int


@dataclass(slots=True)
class Lane:
    """One component's spans. At most `readers` of them are under way at once.

    Spans have `span_bytes`, and less near the end of the load, in whole `least_bytes`: readers that
    a disk serves in turn all end at the same moment, and what each has left to hash then is work
    that nothing hides.
    """

    total_bytes: int
    span_bytes: int
    least_bytes: int
    readers: int
    _next: int = 0
    _busy: int = 0

    def span(self, share_bytes: int) -> int:
        """How long the next one is where each reader's share of what is left has so many bytes."""
        share_bytes = max(share_bytes // self.least_bytes, 1) * self.least_bytes
        return min(self.span_bytes, share_bytes, self.total_bytes - self._next)


class Spans:
    """Hands out the spans of `lanes`, one lane for each component of a load. Thread-safe.

    `readers`: how many there are. `in_flight_bytes`: at most so much is under way at once, or one
    span if that is more.
    """

    def __init__(self, lanes: Sequence[Lane], readers: int, in_flight_bytes: int) -> None:
        self._lanes = tuple(lanes)
        self._unread = [number for number, lane in enumerate(lanes) if lane.total_bytes]
        self._unread_bytes = sum(lane.total_bytes for lane in lanes)
        self._in_flight_bytes_max = in_flight_bytes
        self._in_flight_bytes = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._taken = 0
        self._under_way = threading.Event()
        self.readers_wanted = min(readers, self._readers_wanted())
        """No more than can have a span each at once."""
        if not self.readers_wanted:
            self._under_way.set()

    def _readers_wanted(self) -> int:
        lanes = [self._lanes[number] for number in self._unread]
        if not lanes:
            return 0
        smallest = min(min(lane.span_bytes, lane.total_bytes) for lane in lanes)
        return min(
            sum(min(lane.readers, -(-lane.total_bytes // lane.least_bytes)) for lane in lanes),
            max(self._in_flight_bytes_max // smallest, 1),
        )

    def take(self) -> Span | None:
        """The first span that may be read now; waits for one if there will be. None: no more.

        To be given back when it is read, also after an error.
        """
        with self._changed:
            while not self._stopped:
                for number in self._unread:
                    lane = self._lanes[number]
                    nbytes = lane.span(self._unread_bytes // self.readers_wanted)
                    if lane._busy < lane.readers and self._fits(nbytes):
                        return self._take(number, lane, nbytes)
                if not self._unread:
                    break
                self._changed.wait()
            return None

    def _fits(self, nbytes: int) -> bool:
        under_way = self._in_flight_bytes
        return not under_way or under_way + nbytes <= self._in_flight_bytes_max

    def _take(self, number: int, lane: Lane, nbytes: int) -> Span:
        span = Span(number, lane._next, nbytes)
        lane._next += nbytes
        lane._busy += 1
        self._unread_bytes -= nbytes
        self._in_flight_bytes += nbytes
        self._taken += 1
        if self._taken == self.readers_wanted:
            self._under_way.set()
        if lane._next == lane.total_bytes:
            self._unread.remove(number)
            if not self._unread:
                self._changed.notify_all()  # who waits for a span waits in vain
        return span

    def give_back(self, span: Span) -> None:
        with self._changed:
            self._lanes[span.number]._busy -= 1
            self._in_flight_bytes -= span.nbytes
            # Whoever waits would take any span, so one is enough: all of them would wake only to
            # wait for each other's lock. One that finds room for two is followed at the next end.
            self._changed.notify()

    def stop(self) -> None:
        """No span is handed out any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._under_way.set()

    def wait_until_under_way(self, seconds: float) -> None:
        """Returns when every reader that is wanted has had a span, or after `seconds`."""
        self._under_way.wait(seconds)
