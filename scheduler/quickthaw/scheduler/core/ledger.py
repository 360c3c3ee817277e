"""Who holds what: reservations of device memory, and the lease under which each attempt runs.

Placement looks at the fleet and proposes; `grant` checks again and commits, or refuses. Every lease
is `lease_ms` long from when its worker last named the attempt, so the leases stay ordered by their
end and the next to end is always the first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from quickthaw.scheduler.core.fleet import Fleet
from quickthaw.scheduler.core.model import AttemptId, Digest, RequestId, WorkerId
from quickthaw.scheduler.core.worker import Held, Worker


class Lease(NamedTuple):
    attempt_id: AttemptId
    request_id: RequestId
    worker_id: WorkerId
    incarnation: str
    expires_ms: int


class Ledger:
    """Leases over a fleet's workers. A lease may be on a worker that is not attached: one that an
    earlier scheduler gave, whose worker has not come back yet."""

    def __init__(self, fleet: Fleet, lease_ms: int) -> None:
        self._fleet = fleet
        self._lease_ms = lease_ms
        self._leases: OrderedDict[AttemptId, Lease] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, attempt_id: AttemptId) -> Lease | None:
        return self._leases.get(attempt_id)

    def on(self, worker_id: WorkerId) -> list[Lease]:
        """The leases of one worker, attached or not."""
        return [lease for lease in self._leases.values() if lease.worker_id == worker_id]

    def can_hold(self, worker: Worker, held: Held) -> bool:
        """The attempt fits beside the others when what it evicts has gone."""
        if not worker.takes(held) or not held.evicts.isdisjoint(held.model.sizes):
            return False
        sizes = held.model.sizes
        missing = sum(size for digest, size in sizes.items() if digest not in worker.planned)
        freed = 0
        if held.evicts:
            freed = sum(size for digest, size in worker.evictable() if digest in held.evicts)
        working = worker.working_bytes_with(held)
        return worker.planned_bytes + missing - freed + working <= worker.spec.vram_bytes

    def grant(
        self,
        worker: Worker,
        attempt_id: AttemptId,
        request_id: RequestId,
        held: Held,
        now_ms: int,
    ) -> tuple[Digest, ...] | None:
        """Reserves and leases. Returns all that the Assign has to evict: what `held` asks for, and
        what earlier attempts asked for that is not confirmed and not needed again since. None,
        with nothing changed, if it does not fit."""
        if not self.can_hold(worker, held):
            return None
        # A worker gives a prefetch up for an Assign of something else; what of it comes
        # nevertheless shall go.
        if worker.leaves or worker.incoming:
            going = worker.leaving() | worker.incoming.keys()
            held.evicts |= going - worker.needed() - held.model.sizes.keys()
        self.adopt(worker, attempt_id, request_id, held, now_ms)
        return tuple(sorted(held.evicts))

    def adopt(
        self,
        worker: Worker,
        attempt_id: AttemptId,
        request_id: RequestId,
        held: Held,
        now_ms: int,
    ) -> None:
        """Reserves and leases what the worker has already: a fact is not checked."""
        self._fleet.hold(worker, attempt_id, held)
        self.lease(attempt_id, request_id, worker.worker_id, worker.spec.incarnation, now_ms)

    def lease(
        self,
        attempt_id: AttemptId,
        request_id: RequestId,
        worker_id: WorkerId,
        incarnation: str,
        now_ms: int,
    ) -> None:
        """A lease alone, for a worker that is not attached."""
        self._leases.pop(attempt_id, None)
        self._leases[attempt_id] = Lease(
            attempt_id, request_id, worker_id, incarnation, now_ms + self._lease_ms
        )

    def renew(self, attempt_ids: Iterable[AttemptId], now_ms: int) -> None:
        """The worker named these attempts; those without a lease are passed over."""
        for attempt_id in attempt_ids:
            if (lease := self._leases.get(attempt_id)) is not None:
                self._leases[attempt_id] = lease._replace(expires_ms=now_ms + self._lease_ms)
                self._leases.move_to_end(attempt_id)

    def release(self, attempt_id: AttemptId, now_ms: int) -> None:
        """Ends the lease and frees what was reserved."""
        lease = self._leases.pop(attempt_id, None)
        if lease is not None and (worker := self._fleet.workers.get(lease.worker_id)) is not None:
            self._fleet.release(worker, attempt_id, now_ms)

    def expired(self, now_ms: int) -> list[Lease]:
        """Those whose time is up, longest first; they stay until released."""
        ended: list[Lease] = []
        for lease in self._leases.values():
            if lease.expires_ms > now_ms:
                break
            ended.append(lease)
        return ended

    def next_expiry_ms(self) -> int | None:
        first = next(iter(self._leases.values()), None)
        return None if first is None else first.expires_ms
