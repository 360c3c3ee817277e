"""Where the core's events touch money: what a request may cost, what it holds, until when its run
is paid for, and what it is billed in the end.

A run that has a limit to keep carries a meter lease: up to how many metered milliseconds it is paid
for, from what it holds. Every heartbeat is answered with a later one, for as long as the account
can pay; the worker stops by itself at the last that it heard. So nobody can spend much more than
he has, whatever breaks.
"""

from __future__ import annotations

from quickthaw.scheduler.core.accounts import changed as changed_account
from quickthaw.scheduler.core.budgets import Settled, Start
from quickthaw.scheduler.core.commands import JournalAccount
from quickthaw.scheduler.core.events import AccountChanged, AccountRecovered, PricesChanged
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptRecord,
    Failure,
    Job,
    LedgerLine,
    Outcome,
    OutputUnits,
)
from quickthaw.scheduler.core.pricing import (
    BUDGET_EXHAUSTED,
    RESERVED,
    Bill,
    Delivered,
    Tariff,
    Unit,
    affordable_ms,
    bill,
    micro_units,
    price_nanodollars,
)
from quickthaw.scheduler.core.state import State, Tracked
from quickthaw.scheduler.core.worker import Worker
from quickthaw.wire.errors import QuickthawError


def on_month(state: State) -> None:
    """Another month has begun, and its budgets."""
    state.limits.payers_may_go_on(account.id for account in state.budgets.accounts())


# ---- before ----------------------------------------------------------------------------------


def ceiling_nanodollars(state: State, job: Job) -> int:
    """What the request is expected to cost at most: at the 95th percentile of its run time, on the
    dearest kind of worker that could take it. Loads cost nothing, so they add nothing; what runs on
    reserved workers is paid for, but nobody reserves them for an owner without money."""
    if state.endpoint(job.model.id).dedicated:
        return 1
    wanted = job.model.weight_bytes + job.model.working_bytes
    kinds = {kind.gpu_type: kind.vram_bytes >= wanted for kind in state.fleet.classes()}
    fitting = [gpu_type for gpu_type, fits in kinds.items() if fits]
    # With nobody there who could, any kind may come.
    gpu_types = fitting or kinds or ["", *state.prices.rates]
    return max(_expected_nanodollars(state, job, gpu_type) for gpu_type in gpu_types)


def _expected_nanodollars(state: State, job: Job, gpu_type: str) -> int:
    run = state.estimates.run_seconds(job.model.id, gpu_type, job.work_units)
    return round(state.prices.expected_nanodollars(job.model.id, gpu_type, job.outputs, run.p95))


def refusal(state: State, job: Job, now_ms: int) -> QuickthawError | None:
    """Why the payers cannot take on a new request: BudgetExhausted or PermissionDenied."""
    if not state.budgets.limits(job):
        return None
    state.budgets.turn(now_ms)
    return state.budgets.refusal(job, ceiling_nanodollars(state, job))


def hold(state: State, job: Job) -> None:
    """For as long as the request is open; nothing if nobody's limits are concerned."""
    if state.budgets.limits(job) and state.budgets.hold(job.request_id) is None:
        state.budgets.take(job, ceiling_nanodollars(state, job))


def unpayable(state: State, job: Job) -> Failure | None:
    """Why a request that waits cannot ever start: its account has been emptied by others."""
    held = state.budgets.hold(job.request_id)
    if held is None or state.budgets.may_start(job.request_id)[0] is not Start.NEVER:
        return None
    return Failure(BUDGET_EXHAUSTED, state.budgets.exhaustion(job, held.nanodollars).message)


# ---- while it runs ---------------------------------------------------------------------------


def tariff(state: State, job: Job, worker: Worker) -> tuple[Tariff, str]:
    """The terms of an attempt that is placed now, and what `AttemptRecord.unit` is for them. A
    worker that is reserved is paid for already."""
    terms = state.prices.tariff(job.model.id, worker.spec.gpu_type)
    if worker.kind.dedicated_to is not None:
        return Tariff(terms.rate_nanodollars_per_second), RESERVED
    return terms, terms.unit.value if terms.unit is not None else ""


def begin(state: State, tracked: Tracked) -> None:
    """An attempt was opened: what it holds is what it may cost where it runs."""
    job, attempt = tracked.job, tracked.attempt
    assert attempt is not None
    held = state.budgets.hold(job.request_id)
    if held is None:
        return
    state.budgets.run(held)
    wanted = 0 if attempt.unit == RESERVED else held.nanodollars
    if not attempt.unit:
        run = state.estimates.run_seconds(job.model.id, attempt.gpu_type, job.work_units)
        wanted = price_nanodollars(
            max(attempt.metered_ms, round(run.p95 * 1000)) + state.settings.meter_lease_ms,
            attempt.rate_nanodollars_per_second,
        )
    _resize(state, tracked, wanted)


def meter_lease_ms(state: State, tracked: Tracked) -> int:
    """How long the open attempt may run in all with what it holds; 0 for no limit."""
    attempt, held = tracked.attempt, state.budgets.hold(tracked.job.request_id)
    if attempt is None or held is None or attempt.unit:
        return 0
    rate = attempt.rate_nanodollars_per_second
    return max(1, affordable_ms(held.nanodollars, rate)) if rate else 0


def extend(state: State, tracked: Tracked) -> Failure | None:
    """Pays for the next lease, or as much of it as the account can; why the attempt must stop, if
    all that is paid for has run."""
    attempt, held = tracked.attempt, state.budgets.hold(tracked.job.request_id)
    if attempt is None or held is None:
        return None
    rate = 0 if attempt.unit else attempt.rate_nanodollars_per_second
    next_lease = price_nanodollars(attempt.metered_ms + state.settings.meter_lease_ms, rate)
    _resize(state, tracked, max(held.nanodollars, next_lease))
    if not rate or attempt.metered_ms < affordable_ms(held.nanodollars, rate):
        return None
    return exhausted(state, tracked)


def exhausted(state: State, tracked: Tracked) -> Failure | None:
    """That the accounts cannot pay for another lease; None if they can."""
    attempt, held = tracked.attempt, state.budgets.hold(tracked.job.request_id)
    if attempt is None or held is None or not attempt.rate_nanodollars_per_second:
        return None
    rate = attempt.rate_nanodollars_per_second
    if attempt.metered_ms < affordable_ms(held.nanodollars, rate):
        return None
    lease = price_nanodollars(state.settings.meter_lease_ms, rate)
    room = state.budgets.room_nanodollars(held)
    if room is None or room >= lease:
        return None
    told = state.budgets.exhaustion(tracked.job, lease).message
    return Failure(BUDGET_EXHAUSTED, f"stopped after {attempt.metered_ms} ms: {told}")


def _resize(state: State, tracked: Tracked, wanted_nanodollars: int) -> None:
    """To what is wanted, or as near as the accounts allow: they may have been cut meanwhile."""
    held = state.budgets.hold(tracked.job.request_id)
    assert held is not None
    room = state.budgets.room_nanodollars(held)
    if room is not None:
        wanted_nanodollars = max(0, min(wanted_nanodollars, held.nanodollars + room))
    if wanted_nanodollars != held.nanodollars:
        state.budgets.resize(held, wanted_nanodollars)


# ---- afterwards ------------------------------------------------------------------------------


def close(
    state: State, tracked: Tracked, outcome: Outcome, waived_for: str, outputs: OutputUnits
) -> tuple[LedgerLine, Settled]:
    """The open attempt's bill, as a ledger line and as what it makes of the accounts."""
    attempt, job = tracked.attempt, tracked.job
    assert attempt is not None
    billed, micro = _billed(attempt, outcome, waived_for, outputs)
    line = LedgerLine(
        attempt_id=attempt.attempt_id,
        request_id=job.request_id,
        tenant=job.tenant,
        model=job.model.id,
        worker_id=attempt.worker_id,
        gpu_type=attempt.gpu_type,
        attempt=attempt.number,
        outcome=outcome,
        closed_ms=state.now_ms,
        metered_ms=attempt.metered_ms,
        billed_ms=billed.billed_ms,
        rate_nanodollars_per_second=0 if attempt.unit else attempt.rate_nanodollars_per_second,
        price_nanodollars=billed.price_nanodollars,
        price_version=attempt.price_version,
        waiver=billed.waiver,
        key_id=job.key_id,
        unit="" if attempt.unit == RESERVED else attempt.unit,
        micro_units=micro,
        unit_price_nanodollars=attempt.unit_price_nanodollars,
    )
    return line, state.budgets.settle(job, billed.price_nanodollars, state.now_ms)


def _billed(
    attempt: AttemptRecord, outcome: Outcome, waived_for: str, outputs: OutputUnits
) -> tuple[Bill, int]:
    if attempt.unit == RESERVED:
        return Bill(0, 0, RESERVED), 0
    delivered = None
    if attempt.unit:
        micro = micro_units(Unit(attempt.unit), outputs) if outcome is Outcome.SUCCEEDED else 0
        delivered = Delivered(micro, attempt.unit_price_nanodollars)
    billed = bill(
        outcome,
        attempt.metered_ms,
        attempt.rate_nanodollars_per_second,
        waived_for=waived_for,
        delivered=delivered,
    )
    return billed, delivered.micro_units if delivered else 0


def wait_again(state: State, tracked: Tracked) -> None:
    """The attempt was lost; what it held it still holds, for the next one."""
    held = state.budgets.hold(tracked.job.request_id)
    if held is not None:
        state.budgets.park(held)
        state.budgets.resize(held, ceiling_nanodollars(state, tracked.job))


# ---- what operators do -----------------------------------------------------------------------


def on_account_recovered(state: State, event: AccountRecovered) -> None:
    state.budgets.put(event.account)


def on_account_changed(state: State, event: AccountChanged) -> None:
    """Requests that are open already come under a new limit as they are; one that it does not
    allow is stopped at its worker's next heartbeat."""
    budgets = state.budgets
    account = changed_account(budgets.account(event.account_id), event.change, budgets.month)
    budgets.put(account)
    state.out.append(JournalAccount(account, event.change))
    if account.limited:
        for tracked in state.requests.values():
            if tracked.job.tenant == account.id.tenant and not tracked.life.state.terminal:
                hold(state, tracked.job)
                if tracked.life.state is not RequestState.QUEUED:
                    begin(state, tracked)
    state.limits.payers_may_go_on((account.id,))


def on_prices_changed(state: State, event: PricesChanged) -> None:
    """For what is placed from now on; open attempts keep the terms of their placement."""
    state.prices = state.fleet.prices = event.prices
    for worker in state.fleet.workers.values():
        state.fleet.reprice(worker, event.prices.rate(worker.spec.gpu_type))
