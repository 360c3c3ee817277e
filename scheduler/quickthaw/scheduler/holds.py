"""Which realtime session holds which worker.

A session that has run on a worker holds it until it ends, or has asked for nothing for a while; one
session at most for each worker. Holding means: the session's next input goes before those that wait
(`core.model.Job.ahead`). The worker does not idle for it.
"""

from __future__ import annotations

from quickthaw.scheduler.clock import Clock


class Holds:
    """Belongs to the event loop. A session is any object that lives as long as it does; it holds
    for `hold_ms` after its last end, without an input."""

    def __init__(self, clock: Clock, hold_ms: int) -> None:
        self._clock = clock
        self._hold_ms = hold_ms
        self._held: dict[str, tuple[object, int]] = {}

    def take(self, worker_id: str, session: object) -> None:
        """A run of the session has ended there: it holds the worker unless another session does."""
        holder = self._held.get(worker_id)
        now_ms = self._clock.now_ms()
        if holder is None or holder[0] is session or holder[1] <= now_ms:
            self.give_up(session)
            self._held[worker_id] = (session, now_ms + self._hold_ms)

    def has(self, worker_id: str, session: object) -> bool:
        holder = self._held.get(worker_id)
        return holder is not None and holder[0] is session and holder[1] > self._clock.now_ms()

    def give_up(self, session: object) -> None:
        for worker_id in [name for name, (holder, _) in self._held.items() if holder is session]:
            del self._held[worker_id]
