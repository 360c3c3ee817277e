"""One load's components on their way up: who moves what, from where to where.

A component moves once, however many loads want it: whoever claims it first moves it, the others
wait and look again. All that a load moves itself is one job of the `Transfer`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from quickthaw.snapshot.gates import Gate
from quickthaw.snapshot.manifest import Component
from quickthaw.snapshot.report import ComponentReport
from quickthaw.snapshot.tiers import Claim, Tier, Tiers
from quickthaw.snapshot.transfer import NOTHING_MOVED, Job, Move, Transfer, Transferred
from quickthaw.snapshot.ways import Way, Ways
from quickthaw.wire.errors import SnapshotCorrupt

logger = logging.getLogger(__name__)


class GivenUp(Exception):
    """Why a load's bytes stopped coming when nobody wanted them any more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one load or one promotion is after. The caller holds the components."""

    components: tuple[Component, ...]
    to: Tier
    verify: bool
    on_bytes: Callable[[Component], Callable[[int], None]]


class Loading:
    """Brings components to a tier: `begin` once, then `finish` once, in any thread."""

    def __init__(self, wanted: Wanted, tiers: Tiers, ways: Ways, transfer: Transfer) -> None:
        self._wanted = wanted
        self._tiers = tiers
        self._ways = ways
        self._transfer = transfer
        self._parts = {part.digest: part for part in wanted.components}
        self._gates: dict[str, Gate] = {}  # of what had not arrived at first
        self._busy: dict[str, threading.Event] = {}
        self._moves: dict[str, tuple[Way, Move]] = {}
        self._reports: dict[str, ComponentReport] = {}
        self._running = ExitStack()
        self._job: Job | None = None
        self._stopped: BaseException | None = None
        self._guard = threading.Lock()
        self._ended = False

    def begin(self) -> None:
        """Finds memory for all that is missing and starts to read. Raises what keeps it from that,
        with nothing claimed or taken."""
        try:
            self._begin(self._parts.values())
        except BaseException as error:
            self._end(error)
            raise

    def gate(self, digest: str) -> Gate | None:
        """What to wait at before the component's bytes may be used; None if they were there."""
        return self._gates.get(digest)

    def finish(self) -> tuple[ComponentReport, ...]:
        """Returns when everything has arrived; raises what kept it, with nothing left moving."""
        try:
            while True:
                self._complete()
                if not self._busy:
                    break
                for over in self._busy.values():
                    over.wait()
                missing = [self._parts[digest] for digest in self._busy]
                self._begin(missing)
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)
        return tuple(self._reports[part.digest] for part in self._wanted.components)

    def give_up(self, error: BaseException) -> None:
        """Makes `finish` raise `error`, soon, unless everything has arrived. In any thread."""
        with self._guard:
            self._stopped = error
            job = self._job
        if job is not None:
            job.give_up(error)

    def abandon(self, error: BaseException) -> None:
        """Instead of `finish`, when the load fails for another reason."""
        self._end(error)

    # ---- steps ---------------------------------------------------------------------------------

    def _begin(self, parts: Iterable[Component]) -> None:
        self._busy = {}
        for part in parts:
            claim, over = self._tiers.claim(part.digest, self._wanted.to)
            if claim is Claim.THERE:
                self._note(part, self._wanted.to, NOTHING_MOVED)
                self._wanted.on_bytes(part)(part.data_bytes)
            elif claim is Claim.BUSY:
                self._busy[part.digest] = over
                self._hope(part)
            else:
                self._take(part)
        moves = [move for _, move in self._moves.values()]
        with self._guard:
            if self._stopped is not None:
                raise self._stopped
            if moves:
                self._job = self._running.enter_context(self._transfer.moving(moves))

    def _take(self, part: Component) -> None:
        """The caller of `_begin` has claimed it: from here on `_end` gives it back."""
        try:
            gate = self._hope(part)
            way = self._ways.find(part, self._wanted.to)
        except BaseException:
            self._end_move(part.digest)
            raise
        adopted = not way.fresh and not way.checked
        verify = adopted or (self._wanted.verify and not way.checked)
        move = Move(
            part, way.source, way.room, way.buffer, verify, self._wanted.on_bytes(part), gate.open
        )
        self._moves[part.digest] = (way, move)

    def _hope(self, part: Component) -> Gate:
        if (gate := self._gates.get(part.digest)) is None:
            gate = self._gates[part.digest] = self._tiers.gate_of(part.digest)
            gate.hope()
        return gate

    def _complete(self) -> None:
        """Waits for this load's own moves, in load order, and makes each known as it arrives."""
        assert self._job is not None or not self._moves
        while self._moves:
            digest = next(iter(self._moves))
            way, move = self._moves[digest]
            assert self._job is not None
            try:
                moved = self._job.finish(move)
            except SnapshotCorrupt as error:
                if not self._drop_adopted(error):
                    raise
                continue
            self._arrived(way, move, moved)
            del self._moves[digest]
            way.close()
            self._end_move(digest)
        self._job = None
        self._running.close()

    def _arrived(self, way: Way, move: Move, moved: Transferred) -> None:
        part = way.component
        if way.fresh and way.room is not None:
            way.room.retain()
            if move.verify:
                way.room.list_as(part.digest, part.data_bytes)
            self._tiers.put_pinned(part.digest, way.room, checked=True)
        elif move.verify:
            self._tiers.set_checked(part.digest)
        if way.buffer is not None:
            self._tiers.set_arrived(part.digest)
        if way.source is None and way.copier is not None:  # used in place
            moved = Transferred(way.copier, way.why, moved.read_seconds, moved.copy_seconds, 0)
        if not move.works:
            move.on_bytes(part.data_bytes)
        self._note(part, way.origin, moved)

    def _drop_adopted(self, error: SnapshotCorrupt) -> bool:
        """If what an earlier process left is not what it said: forgets it, and begins anew with
        what has not arrived. False if that is not what is wrong."""
        digest = error.metadata.get("digest", "")
        if digest not in self._moves:
            return False
        way, _ = self._moves[digest]
        if way.fresh or way.checked:
            return False
        logger.warning("what was left in memory is not usable, reading again: %s", error.message)
        self._stop_job(error)
        if (pinned := self._tiers.drop_pinned(digest)) is not None:
            pinned.unlist()
            pinned.release()
        again = [way.component for way, _ in self._moves.values()]
        self._give_back()
        self._busy, busy = {}, self._busy
        self._begin(again)
        self._busy |= busy
        return True

    def _note(self, part: Component, source: Tier, moved: Transferred) -> None:
        self._reports[part.digest] = ComponentReport(
            name=part.name,
            digest=part.digest,
            nbytes=part.data_bytes,
            source=source,
            copier=moved.copier,
            why=moved.why,
            read_seconds=moved.read_seconds,
            copy_seconds=moved.copy_seconds,
            read_bytes=moved.read_bytes,
        )

    # ---- the end -------------------------------------------------------------------------------

    def _stop_job(self, error: BaseException) -> None:
        if self._job is not None:
            self._job.give_up(error)
        self._job = None
        self._running.close()

    def _give_back(self) -> None:
        for digest in list(self._moves):
            way, _ = self._moves.pop(digest)
            way.close()
            self._end_move(digest)

    def _end_move(self, digest: str) -> None:
        if (unwanted := self._tiers.end_move(digest)) is not None:
            unwanted.free()

    def _end(self, error: BaseException | None) -> None:
        """After an error nothing moves any more, and who waits at a gate is told."""
        if self._ended:
            return
        self._ended = True
        if error is not None:
            self._stop_job(error)
            for digest, gate in self._gates.items():
                if digest in self._reports:
                    gate.leave()
                else:
                    gate.give_up(error)
        else:
            for gate in self._gates.values():
                gate.leave()
        self._give_back()
