"""Workers that serve one dedicated endpoint alone: who they are, and what their time costs.

A reserved worker is billed to the endpoint's owner for every second in which it was attached and
reserved, used or not; its requests cost nothing more. The time is billed in spans, each of which is
a ledger line of its own (half-open intervals; the key is the endpoint, the worker and the span's
start), so a scheduler that dies loses one open span at most, in the owner's favour. Nothing is
billed for a worker after its last word.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from quickthaw.scheduler.core.accounts import AccountId
from quickthaw.scheduler.core.commands import JournalReservation
from quickthaw.scheduler.core.model import (
    AttemptId,
    EndpointSettings,
    LedgerLine,
    ModelId,
    Outcome,
    RequestId,
    TenantId,
    WorkerId,
)
from quickthaw.scheduler.core.pricing import price_nanodollars
from quickthaw.scheduler.core.sanctions import Reservation
from quickthaw.scheduler.core.state import State
from quickthaw.scheduler.core.worker import Worker


def settle(state: State) -> None:
    """Gives back what is reserved no longer, reserves what is missing, bills spans that are long
    enough. Changes nothing when nothing has changed."""
    kept: dict[ModelId, int] = {}
    for worker_id, reservation in list(state.reserved.items()):
        worker = state.fleet.workers.get(worker_id)
        settings = state.endpoint(reservation.model)
        have = kept.get(reservation.model, 0)
        if worker is None or have >= _wanted(state, settings) or not _suits(worker, settings):
            _close(state, worker_id, state.now_ms)
            continue
        kept[reservation.model] = have + 1
        if reservation.owner != settings.owner_tenant or _long_enough(state, reservation):
            _close(state, worker_id, state.now_ms)
            _open(state, worker, reservation.model, settings)
    for model in sorted(state.fleet.dedicated):
        settings = state.endpoint(model)
        for _ in range(_wanted(state, settings) - kept.get(model, 0)):
            worker = _next_worker(state, model, settings)
            if worker is None:
                break
            _open(state, worker, model, settings)


def on_hello(state: State, worker: Worker, before: Worker | None) -> None:
    """A reserved worker is back; its time while it was away is not billed if its process died."""
    if (reservation := state.reserved.get(worker.worker_id)) is None:
        return
    if before is None or before.spec.incarnation != worker.spec.incarnation:
        heard_ms = before.last_heard_ms if before is not None else reservation.from_ms
        _bill(state, worker.worker_id, reservation, heard_ms)
        state.reserved[worker.worker_id] = replace(reservation, from_ms=state.now_ms)
    state.fleet.dedicate(worker, reservation.model)


def on_gone(state: State, worker: Worker) -> None:
    """A worker left, or was silent for too long: billed to its last word."""
    if worker.worker_id in state.reserved:
        _close(state, worker.worker_id, worker.last_heard_ms)


def _wanted(state: State, settings: EndpointSettings) -> int:
    """None once the owner's money has ended: what ran on then is one span at most."""
    owner = AccountId(TenantId(settings.owner_tenant))
    if not settings.dedicated or not state.budgets.solvent(owner):
        return 0
    return settings.reserved_workers


def _suits(worker: Worker, settings: EndpointSettings) -> bool:
    labels = worker.spec.labels
    return all(labels.get(name) == value for name, value in settings.worker_labels.items())


def _long_enough(state: State, reservation: Reservation) -> bool:
    return state.now_ms - reservation.from_ms >= state.settings.reservation_span_ms


def _next_worker(state: State, model: ModelId, settings: EndpointSettings) -> Worker | None:
    """A ready worker that is nobody's yet: rather one that has the model, then one with less to
    do. What it has been given already ends there."""
    spec = state.specs.get(model)
    sizes = spec.sizes if spec is not None else {}
    wanted_bytes = spec.weight_bytes + spec.working_bytes if spec is not None else 0
    found = [
        (
            sum(size for digest, size in sizes.items() if digest not in worker.planned),
            len(worker.held),
            worker.worker_id,
        )
        for worker in state.fleet.workers.values()
        if worker.ready
        and worker.dedicated_to is None
        and worker.spec.vram_bytes >= wanted_bytes
        and _suits(worker, settings)
    ]
    return state.fleet.workers[min(found)[2]] if found else None


def _open(state: State, worker: Worker, model: ModelId, settings: EndpointSettings) -> None:
    gpu_type = worker.spec.gpu_type
    state.reserved[worker.worker_id] = Reservation(
        model,
        TenantId(settings.owner_tenant),
        gpu_type,
        state.prices.dedicated_rate(gpu_type),
        state.prices.version,
        state.now_ms,
    )
    if worker.dedicated_to != model:
        state.fleet.dedicate(worker, model)


def _close(state: State, worker_id: WorkerId, until_ms: int) -> None:
    _bill(state, worker_id, state.reserved.pop(worker_id), until_ms)
    if (worker := state.fleet.workers.get(worker_id)) is not None:
        state.fleet.dedicate(worker, None)


def _bill(state: State, worker_id: WorkerId, span: Reservation, until_ms: int) -> None:
    span_ms = until_ms - span.from_ms
    if span_ms <= 0:
        return
    price = price_nanodollars(span_ms, span.rate_nanodollars_per_second)
    line = LedgerLine(
        attempt_id=_key(worker_id, span),
        request_id=RequestId(""),
        tenant=span.owner,
        model=span.model,
        worker_id=worker_id,
        gpu_type=span.gpu_type,
        attempt=0,
        outcome=Outcome.SUCCEEDED,
        closed_ms=until_ms,
        metered_ms=span_ms,
        billed_ms=span_ms,
        rate_nanodollars_per_second=span.rate_nanodollars_per_second,
        price_nanodollars=price,
        price_version=span.price_version,
        waiver="",
    )
    settled = state.budgets.settle_on((AccountId(span.owner),), price, state.now_ms)
    state.out.append(JournalReservation(line, settled))


def _key(worker_id: WorkerId, span: Reservation) -> AttemptId:
    """Short enough for its column, whatever the names are."""
    names = hashlib.sha256(f"{span.model}\n{worker_id}".encode()).hexdigest()[:32]
    return AttemptId(f"reserved_{names}.{span.from_ms}")
