"""Why requests ran where they did, kept for operators longer than the core remembers it.

The core knows the newest decisions; a restart forgets them. So once a second those of the requests
that were placed since go to the store, compressed, behind everything that matters: at most
`per_second_max` of them (the newest), and of all that were ever written the newest `kept_max`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from quickthaw.scheduler.convert.requests import decision_message
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import RequestId
from quickthaw.scheduler.store.explanations import explanation
from quickthaw.scheduler.store.journal import Journal
from quickthaw.scheduler.store.reader import Reader
from quickthaw.scheduler.store.statements import Row, Statement
from quickthaw.v1 import fleet_pb2

FLUSH_SECONDS = 1.0
PURGE_EVERY = 60
"""Flushes from one purge to the next; what is written between is what may be kept too many."""
IN_ONE_GO = 16
"""Explanations that are made before others get their turn: a millisecond or so."""
_DECODED_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExplanationLimits:
    per_second_max: int = 100
    kept_max: int = 20_000


class Explanations:
    """`run` must be running for anything to be kept."""

    def __init__(
        self, machine: Machine, journal: Journal, reader: Reader, limits: ExplanationLimits
    ) -> None:
        self._machine = machine
        self._journal = journal
        self._reader = reader
        self._limits = limits
        self._noted: deque[RequestId] = deque(maxlen=max(1, limits.per_second_max))

    def note(self, request_id: RequestId) -> None:
        """A decision about this request was made. Costs nothing now."""
        if self._limits.per_second_max and self._limits.kept_max:
            self._noted.append(request_id)

    async def find(self, request_id: str) -> Sequence[fleet_pb2.Decision]:
        """Oldest first; empty if they are no longer kept. Raises StoreUnavailable."""
        known = [decision_message(each) for each in self._machine.explain(RequestId(request_id))]
        first = known[0].attempt if known else 0
        if first == 1:
            return known
        body = await self._reader.run(lambda connection: explanation(connection, request_id))
        written = decoded(body).decisions if body is not None else ()
        return [*(each for each in written if not first or each.attempt < first), *known]

    async def run(self) -> None:
        """Writes what was noted, forgets what is too old; never returns."""
        turn = 0
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
            turn += 1
            if turn % PURGE_EVERY == 0:
                self.purge()

    async def flush(self) -> None:
        """Hands what was noted to the journal; drops it while that is in trouble."""
        noted = list(dict.fromkeys(self._noted))
        self._noted.clear()
        for start in range(0, len(noted), IN_ONE_GO):
            if self._journal.faulty or self._journal.behind:
                return
            rows = [row for each in noted[start : start + IN_ONE_GO] if (row := self._row(each))]
            if rows:
                self._journal.keep(rows)
            await asyncio.sleep(0)

    def purge(self) -> None:
        self._journal.keep([Row(Statement.PURGE_EXPLANATIONS, {"kept": self._limits.kept_max})])

    def _row(self, request_id: RequestId) -> Row | None:
        decisions = self._machine.explain(request_id)
        if not decisions:
            return None
        message = fleet_pb2.ExplainResponse(
            request_id=request_id, decisions=[decision_message(each) for each in decisions]
        )
        body = zlib.compress(message.SerializeToString(), level=1)
        return Row(Statement.UPSERT_EXPLANATION, {"request_id": request_id, "body": body})


def decoded(body: bytes) -> fleet_pb2.ExplainResponse:
    """What `_row` wrote. Bounded, as a store may be anybody's."""
    data = zlib.decompressobj().decompress(body, _DECODED_BYTES_MAX)
    return fleet_pb2.ExplainResponse.FromString(data)
