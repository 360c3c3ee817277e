"""What the core wants done, in the order of the list.

The base class of a command says when the shell may carry it out:

- `Journal`: a write. The shell has one ordered writer: writes commit in the order in which they
  were issued, over all calls; one command is one transaction (several may share a bigger one).
- `JournalSoon`: what an open attempt has come to, of which only the newest counts. It may wait a
  little and is not written at all if the attempt's `JournalEnd`, which says it again, comes first.
- `Immediate`: at once; it does not wait for any write.
- `AfterCommit`: when every `Journal` issued so far, by this call *and by all earlier ones*, is
  durable. A duplicate of a worker's finish leads to an acknowledgement with no write of its own;
  it must still not overtake the write that the first copy led to.

Within `Immediate`, and within `AfterCommit`, the order of issue is kept. What watchers see on a
request's way is `Immediate` and its end `AfterCommit`, so one request's news are in order: where it
has got to is true now, durable or not, and its end is what must never be taken back.
"""

from __future__ import annotations

from dataclasses import field
from typing import TypeAlias

from quickthaw.scheduler.core.accounts import Account, AccountChange
from quickthaw.scheduler.core.budgets import NOTHING_SETTLED, Settled
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Digest,
    Failure,
    Job,
    LedgerLine,
    ModelSpec,
    Receipt,
    RequestId,
    Tier,
    WorkerId,
    WorkerMark,
)
from quickthaw.scheduler.core.records import record
from quickthaw.scheduler.core.sanctions import Quarantine


class Journal:
    """A write; see the module."""

    __slots__ = ()


class JournalSoon:
    """A write that may wait a little; see the module."""

    __slots__ = ()


class Immediate:
    """Carried out at once; see the module."""

    __slots__ = ()


class AfterCommit:
    """Carried out when all earlier writes are durable; see the module."""

    __slots__ = ()


# ---- writes ----------------------------------------------------------------------------------


@record
class JournalPlacement(JournalSoon):
    """Insert the open attempt and set the request's state to PLACED (also if it was adopted)."""

    attempt: AttemptRecord


@record
class JournalProgress(JournalSoon):
    """The open attempt went on to `state` (LOADING or RUNNING)."""

    attempt: AttemptRecord
    state: RequestState


@record
class JournalMetered(JournalSoon):
    """Run times of open attempts as one heartbeat reported them; only those that changed."""

    metered_ms: tuple[tuple[AttemptId, int], ...]


@record
class JournalCancel(Journal):
    """Cancellation was asked for; a scheduler that starts later must still know."""

    request_id: RequestId


@record
class JournalMark(Journal):
    """Remember this of its worker, in place of what was remembered; nothing, if it is empty."""

    mark: WorkerMark


@record
class JournalQuarantine(Journal):
    """Remember that this version of its model takes no requests; forget it, if the reason is
    empty."""

    quarantine: Quarantine


@record
class JournalAccount(Journal):
    """An account as an operator's change has left it; a grant is a row of its own."""

    account: Account
    change: AccountChange


@record
class JournalReservation(Journal):
    """A span of a reserved worker's time, and what its bill makes of the owner's account. One
    transaction; a line whose key exists is left as it is."""

    ledger: LedgerLine
    settled: Settled


@record
class RequestEnd:
    """The terminal state. `payload` is the finish event's (output, artifacts, load report)."""

    state: RequestState
    finished_ms: int
    receipt: Receipt
    failure: Failure | None = None
    payload: object = None


@record
class Requeued:
    """The attempt was lost and tries remain."""

    detail: str


@record
class JournalEnd(Journal):
    """The end of an attempt (if there was one), its ledger line and what follows for the request.

    One transaction. The attempt's row may not exist yet if the placement's write was lost with an
    earlier scheduler: write the whole record. A ledger line whose key exists is left as it is.
    `settled` has the accounts that the line changed, whole, and the thresholds that it crossed.
    """

    job: Job
    attempt: AttemptRecord | None
    ledger: LedgerLine | None
    then: RequestEnd | Requeued
    settled: Settled = NOTHING_SETTLED


# ---- to workers ------------------------------------------------------------------------------


@record
class Peers:
    """Workers that have a component, best first: where it can be read, and what to show there."""

    digest: Digest
    places: tuple[tuple[str, str], ...] = field(repr=False)


@record
class SendAssign(Immediate):
    """Drop it if the worker's stream is down: its next Hello leads to a new one."""

    worker_id: WorkerId
    attempt_id: AttemptId
    number: int
    job: Job
    evict_digests: tuple[Digest, ...]
    whereabouts: tuple[Peers, ...] = ()
    """Where else components are that this worker has not got."""
    meter_lease_ms: int = 0
    """How long it may run before it has heard of more; 0 for as long as it likes."""


@record
class SendCancel(Immediate):
    worker_id: WorkerId
    attempt_id: AttemptId
    reason: str


@record
class SendDrain(Immediate):
    worker_id: WorkerId
    stop: bool


@record
class SendUnload(Immediate):
    """Free these of a tier, what is in use excepted. What an Assign asks for after it is loaded
    again."""

    worker_id: WorkerId
    digests: tuple[Digest, ...]
    tier: Tier


@record
class SendPrefetch(Immediate):
    """Bring these to a tier while there is nothing else to do; a hint."""

    worker_id: WorkerId
    model: ModelSpec
    digests: tuple[Digest, ...]
    tier: Tier
    whereabouts: tuple[Peers, ...] = ()


@record
class CloseStream(Immediate):
    """The worker was silent for its lease or said goodbye; its stream, if any, is of no use."""

    worker_id: WorkerId
    detail: str


@record
class SendWelcome(AfterCommit):
    """Assignments and cancellations for this Hello follow in the same call, after it: hold back
    `Immediate` messages to a worker until its Welcome has gone."""

    worker_id: WorkerId
    heartbeat_interval_ms: int
    lease_ms: int
    revoked_attempt_ids: tuple[AttemptId, ...]


@record
class SendHeartbeatAck(AfterCommit):
    """Also after every `JournalMetered` so far: the worker is told that its run time is safe.
    `meter_leases`: until how many metered milliseconds which attempts are paid for."""

    worker_id: WorkerId
    sequence: int
    revoked_attempt_ids: tuple[AttemptId, ...]
    meter_leases: tuple[tuple[AttemptId, int], ...] = ()


@record
class SendFinishedAck(AfterCommit):
    worker_id: WorkerId
    attempt_id: AttemptId


# ---- to callers ------------------------------------------------------------------------------


@record
class TellProgress(Immediate):
    """The request is PLACED, LOADING or RUNNING now; for those who watch it."""

    request_id: RequestId
    state: RequestState
    at_ms: int
    worker_id: WorkerId
    attempt: int
    detail: str = ""


@record
class TellQueued(Immediate):
    """The request waits, for the first time or again; for those who watch it."""

    request_id: RequestId
    at_ms: int
    attempt: int
    queue_position: int
    detail: str = ""


@record
class TellEnd(AfterCommit):
    """The request has ended; for those who watch it and for the caller that waits."""

    job: Job
    worker_id: str
    attempts: int
    end: RequestEnd


Command: TypeAlias = (
    JournalPlacement
    | JournalProgress
    | JournalMetered
    | JournalCancel
    | JournalMark
    | JournalQuarantine
    | JournalReservation
    | JournalAccount
    | JournalEnd
    | SendAssign
    | SendCancel
    | SendDrain
    | SendUnload
    | SendPrefetch
    | CloseStream
    | SendWelcome
    | SendHeartbeatAck
    | SendFinishedAck
    | TellProgress
    | TellQueued
    | TellEnd
)
