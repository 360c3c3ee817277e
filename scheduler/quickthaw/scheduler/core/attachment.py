"""What workers say of themselves and operators of workers, and what silence means."""

from __future__ import annotations

from collections.abc import Mapping

from quickthaw.scheduler.core import crashes, marks, reports, reservations
from quickthaw.scheduler.core.attempts import open_attempt
from quickthaw.scheduler.core.commands import (
    CloseStream,
    JournalMetered,
    SendAssign,
    SendHeartbeatAck,
    SendWelcome,
)
from quickthaw.scheduler.core.endings import lose, tell_drain
from quickthaw.scheduler.core.events import (
    AttemptReport,
    CordonRequested,
    DrainRequested,
    ResidencyChanged,
    UncordonRequested,
    WorkerDisconnected,
    WorkerGoodbye,
    WorkerHeartbeat,
    WorkerHello,
)
from quickthaw.scheduler.core.eviction import choose_victims
from quickthaw.scheduler.core.ledger import Lease
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import AttemptId, Tier, WorkerId, attempt_number
from quickthaw.scheduler.core.requests import pay_on, resend_cancel
from quickthaw.scheduler.core.state import State, Tracked
from quickthaw.scheduler.core.whereabouts import whereabouts
from quickthaw.scheduler.core.worker import Held, Worker

# ---- attach ----------------------------------------------------------------------------------


def on_hello(state: State, event: WorkerHello) -> None:
    """The worker's word replaces what was known; attempts are matched with the leases."""
    spec = event.spec
    before = state.fleet.workers.get(spec.worker_id)
    for lease in state.ledger.on(spec.worker_id):
        if lease.incarnation != spec.incarnation:
            lose(
                state, state.requests[lease.request_id], "its worker was started anew", killed=True
            )
    worker = state.fleet.attach(spec, state.prices.rate(spec.gpu_type), state.now_ms)
    known: Mapping[AttemptId, Held] = {}
    if before is not None and before.spec.incarnation == spec.incarnation:
        known = before.held
    crashes.note_hello(state, worker)
    reservations.on_hello(state, worker, before)
    marks.apply(state, worker)
    state.fleet.change_residency(worker, event.residency, ())
    revoked = tuple(
        report.attempt_id
        for report in event.attempts
        if not _claim(state, worker, report, known.get(report.attempt_id))
    )
    settings = state.settings
    state.out.append(
        SendWelcome(spec.worker_id, settings.heartbeat_interval_ms, settings.lease_ms, revoked)
    )
    for lease in state.ledger.on(spec.worker_id):
        if lease.attempt_id in worker.held:
            resend_cancel(state, state.requests[lease.request_id])
        else:
            _assign_again(state, worker, lease, known.get(lease.attempt_id))
    tell_drain(state, worker)
    reservations.settle(state)


def _claim(state: State, worker: Worker, report: AttemptReport, held: Held | None) -> bool:
    """Whether an attempt that the worker names is still its own; then it is held again.

    One without a lease is adopted if it is the request's next: the write of its placement was lost
    with an earlier scheduler.
    """
    tracked = state.requests.get(report.request_id)
    number = attempt_number(report.request_id, report.attempt_id)
    if tracked is None or number is None:
        return False
    fresh = Held(tracked.job.model, (), state.now_ms)
    if held is not None:
        fresh.evicts = held.evicts & worker.resident[Tier.VRAM].keys()
        fresh.expected_end_ms = held.expected_end_ms
        fresh.expected_run_ms, fresh.loaded_ms = held.expected_run_ms, held.loaded_ms
        fresh.running = held.running
        fresh.ended_ms, fresh.run, fresh.brings = held.ended_ms, held.run, held.brings
    lease = state.ledger.get(report.attempt_id)
    if lease is not None:
        if (lease.worker_id, lease.incarnation) != (worker.worker_id, worker.spec.incarnation):
            return False
    elif number <= tracked.attempts or tracked.life.state is not RequestState.QUEUED:
        # Its number is used up, lest the next attempt have the same id.
        tracked.attempts = max(tracked.attempts, number)
        return False
    if lease is not None and fresh.ended_ms is not None:
        # It ended before the stream broke, and its lease runs since then.
        state.fleet.hold(worker, report.attempt_id, fresh)
    else:
        state.ledger.adopt(worker, report.attempt_id, report.request_id, fresh, state.now_ms)
    if report.ended and fresh.ended_ms is None:
        fresh.ended_ms = state.now_ms
    if lease is None:
        open_attempt(state, tracked, worker, number, "adopted: the worker had it already")
    _hear(state, tracked, report)
    return True


def _assign_again(state: State, worker: Worker, lease: Lease, held: Held | None) -> None:
    """A leased attempt that the worker does not know: its Assign was lost, or else the attempt."""
    tracked = state.requests[lease.request_id]
    if tracked.life.state is RequestState.PLACED and tracked.stopping is None:
        model = tracked.job.model
        planned, working = worker.planned, worker.working_bytes(model.working_bytes)
        missing = sum(size for digest, size in model.sizes.items() if digest not in planned)
        need_bytes = worker.planned_bytes + missing + working - worker.spec.vram_bytes
        victims = choose_victims(worker.evictable(), model.sizes, need_bytes)
        end_ms = held.expected_end_ms if held else state.now_ms
        again = Held(model, victims or (), end_ms)
        granted = state.ledger.grant(
            worker, lease.attempt_id, lease.request_id, again, state.now_ms
        )
        if granted is not None:
            number = tracked.attempts
            elsewhere = whereabouts(state.fleet, worker, model)
            paid_ms = pay_on(state, tracked)
            attempt_id = lease.attempt_id
            state.out.append(
                SendAssign(
                    worker.worker_id, attempt_id, number, tracked.job, granted, elsewhere, paid_ms
                )
            )
            return
    lose(state, tracked, "its worker does not know it", exclude=False)


# ---- life ------------------------------------------------------------------------------------


def on_heartbeat(state: State, event: WorkerHeartbeat) -> None:
    worker = state.fleet.workers.get(event.worker_id)
    if worker is None:
        state.out.append(CloseStream(event.worker_id, "not attached: say Hello again"))
        return
    state.fleet.heard(worker, state.now_ms)
    revoked: list[AttemptId] = []
    metered: list[tuple[AttemptId, int]] = []
    leases: list[tuple[AttemptId, int]] = []
    for report in event.attempts:
        tracked = reports.owned(state, event.worker_id, report.attempt_id)
        if tracked is None:
            revoked.append(report.attempt_id)
            continue
        _renew(state, worker, report)
        if _hear(state, tracked, report):
            metered.append((report.attempt_id, report.metered_ms))
        if paid_ms := pay_on(state, tracked):
            leases.append((report.attempt_id, paid_ms))
    if metered:
        state.out.append(JournalMetered(tuple(metered)))
    state.out.append(
        SendHeartbeatAck(event.worker_id, event.sequence, tuple(revoked), tuple(leases))
    )


def _renew(state: State, worker: Worker, report: AttemptReport) -> None:
    """An end that is only mentioned gets one lease more, or it could hold its place for ever."""
    held = worker.held[report.attempt_id]
    if held.ended_ms is None:
        state.ledger.renew((report.attempt_id,), state.now_ms)
    if report.ended and held.ended_ms is None:
        held.ended_ms = state.now_ms


def _hear(state: State, tracked: Tracked, report: AttemptReport) -> bool:
    """Follows the worker's view of an attempt; True if its run time is news. An end that is only
    mentioned is waited for: the worker says it again in full."""
    if report.state in (RequestState.LOADING, RequestState.RUNNING):
        reports.advance(state, tracked, report.state)
    return reports.meter(tracked, report.metered_ms)


def on_residency(state: State, event: ResidencyChanged) -> None:
    if (worker := state.fleet.workers.get(event.worker_id)) is not None:
        state.fleet.change_residency(worker, event.added, event.removed)


def on_disconnected(state: State, event: WorkerDisconnected) -> None:
    if (worker := state.fleet.workers.get(event.worker_id)) is not None:
        worker.connected = False
        state.fleet.refresh(worker)


def on_goodbye(state: State, event: WorkerGoodbye) -> None:
    if event.worker_id in state.fleet.workers:
        marks.leave(state, event.worker_id)
        crashes.note_goodbye(state, event.worker_id)
        _remove(state, event.worker_id, "its worker left")


def expire_silence(state: State) -> None:
    """Ends leases that were not renewed, and forgets workers that were silent for so long."""
    for lease in state.ledger.expired(state.now_ms):
        worker = state.fleet.workers.get(lease.worker_id)
        held = worker.held.get(lease.attempt_id) if worker is not None else None
        said = "silent" if held is None or held.ended_ms is None else "silent about how it ended"
        detail = f"its worker was {said} for {state.settings.lease_ms} ms"
        lose(state, state.requests[lease.request_id], detail, killed=True)
    while (worker := state.fleet.longest_silent()) is not None:
        if state.now_ms - worker.last_heard_ms < state.settings.lease_ms:
            return
        _remove(state, worker.worker_id, "its worker was silent for too long", killed=True)


def _remove(state: State, worker_id: WorkerId, detail: str, *, killed: bool = False) -> None:
    connected = state.fleet.workers[worker_id].connected
    for lease in state.ledger.on(worker_id):
        lose(state, state.requests[lease.request_id], detail, killed=killed)
    reservations.on_gone(state, state.fleet.workers[worker_id])
    state.fleet.detach(worker_id)
    if connected:
        state.out.append(CloseStream(worker_id, detail))


# ---- operators -------------------------------------------------------------------------------


def on_drain(state: State, event: DrainRequested) -> None:
    if (worker := state.fleet.workers.get(event.worker_id)) is not None:
        worker.draining, worker.stop = True, event.stop
        marks.note(state, worker)
        state.fleet.refresh(worker)
        tell_drain(state, worker)


def on_cordon(state: State, event: CordonRequested) -> None:
    if (worker := state.fleet.workers.get(event.worker_id)) is not None:
        worker.cordoned = True
        marks.note(state, worker)
        state.fleet.refresh(worker)


def on_uncordon(state: State, event: UncordonRequested) -> None:
    """Also ends a drain, unless the worker has been told to stop, and the pause after crashes."""
    if (worker := state.fleet.workers.get(event.worker_id)) is not None:
        worker.cordoned = worker.draining = worker.stop = False
        crashes.forgive(state, worker)
        marks.note(state, worker)
        state.fleet.refresh(worker)
