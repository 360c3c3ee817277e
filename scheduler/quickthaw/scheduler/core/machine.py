"""The way into the core: one event in, the commands that follow out; and questions that change
nothing. What each event means is in `requests`, `attachment`, `reports` and `planner`.

A machine is used from one thread. It holds every request that has not ended and nothing else of the
past but the newest placement decisions and what the estimates learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, assert_never

from quickthaw.scheduler.core import (
    attachment,
    crashes,
    endpoints,
    marks,
    money,
    quarantine,
    quoting,
    replan,
    reports,
    requests,
    supply,
)
from quickthaw.scheduler.core.accounts import Account, AccountId
from quickthaw.scheduler.core.commands import Command, SendFinishedAck
from quickthaw.scheduler.core.considered import of_one_refusal
from quickthaw.scheduler.core.decisions import EVERY_WORKER, Decision
from quickthaw.scheduler.core.estimates import Estimates, LearnedEstimates
from quickthaw.scheduler.core.events import (
    AccountChanged,
    AccountRecovered,
    AttemptFinished,
    AttemptLoading,
    AttemptRunning,
    CancelRequested,
    CordonRequested,
    DrainRequested,
    EndpointChanged,
    Event,
    MarkRecovered,
    PricesChanged,
    QuarantineRecovered,
    QuarantineReleased,
    RequestJournalled,
    RequestRecovered,
    ResidencyChanged,
    Tick,
    UncordonRequested,
    WorkerDisconnected,
    WorkerGoodbye,
    WorkerHeartbeat,
    WorkerHello,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Job,
    ModelSpec,
    Quote,
    RequestId,
    WorkerId,
)
from quickthaw.scheduler.core.placement import place
from quickthaw.scheduler.core.planner import plan
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.quantiles import Calibration
from quickthaw.scheduler.core.query import Placement, Query
from quickthaw.scheduler.core.sanctions import Quarantine
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.core.state import State
from quickthaw.scheduler.core.worker import Worker
from quickthaw.wire.errors import QuickthawError


class RequestView(NamedTuple):
    """A request that has not ended, as it is now."""

    job: Job
    state: RequestState
    attempts: int
    attempt: AttemptRecord | None
    stopping: bool


class EndpointNow(NamedTuple):
    """What became of an endpoint's settings."""

    replicas: int
    """Workers with every component in VRAM, or on its way there."""
    quarantine: Quarantine | None
    reserved: tuple[WorkerId, ...]
    """Workers that serve it alone."""


class AccountNow(NamedTuple):
    """An account, what open requests hold on it, and the month that its budget is of."""

    account: Account
    held_nanodollars: int
    month: str


class Machine:
    """`prices` are fixed for an attempt when it is placed and for a worker when it attaches."""

    def __init__(
        self, settings: CoreSettings, prices: PriceTable, estimates: Estimates | None = None
    ) -> None:
        known = estimates or LearnedEstimates(settings.estimates_max)
        self._state = State.empty(settings, prices, known)

    def handle(self, event: Event, now_ms: int) -> list[Command]:
        """`now_ms` never goes back. The commands are in the order in which to issue them."""
        state = self._state
        state.now_ms = max(now_ms, state.now_ms)
        state.out = []
        if state.budgets.turn(state.now_ms):
            money.on_month(state)
        self._dispatch(event)
        return state.out

    def _dispatch(self, event: Event) -> None:
        state = self._state
        match event:
            case RequestJournalled():
                requests.on_journalled(state, event)
                plan(state)
            case AttemptFinished():
                reports.on_finished(state, event)
                # Also for an attempt that is not its own any more: the worker may forget it.
                state.out.append(SendFinishedAck(event.worker_id, event.attempt_id))
                plan(state)
            case AttemptRunning():
                reports.on_running(state, event)
            case AttemptLoading():
                reports.on_loading(state, event)
            case WorkerHeartbeat():
                attachment.on_heartbeat(state, event)
            case ResidencyChanged():
                attachment.on_residency(state, event)
                plan(state)
            case WorkerHello():
                attachment.on_hello(state, event)
                plan(state)
            case WorkerDisconnected():
                attachment.on_disconnected(state, event)
                plan(state)
            case WorkerGoodbye():
                attachment.on_goodbye(state, event)
                plan(state)
            case CancelRequested():
                requests.on_cancel(state, event)
                plan(state)
            case DrainRequested():
                attachment.on_drain(state, event)
                plan(state)
            case CordonRequested():
                attachment.on_cordon(state, event)
                plan(state)
            case UncordonRequested():
                attachment.on_uncordon(state, event)
                plan(state)
            case MarkRecovered():
                marks.recover(state, event.mark)
            case EndpointChanged():
                endpoints.on_changed(state, event)
                plan(state)
            case QuarantineRecovered():
                quarantine.recover(state, event.quarantine)
            case QuarantineReleased():
                quarantine.release(state, event.model)
            case AccountRecovered():
                money.on_account_recovered(state, event)
            case AccountChanged():
                money.on_account_changed(state, event)
                plan(state)
            case PricesChanged():
                money.on_prices_changed(state, event)
            case RequestRecovered():
                requests.on_recovered(state, event)
            case Tick():
                requests.expire_deadlines(state)
                requests.end_the_hopeless(state)
                attachment.expire_silence(state)
                crashes.expire(state)
                supply.run_if_due(state)
                state.impatience.due(state.now_ms)
                replan.reconsider(state)
                plan(state)
            case _:
                assert_never(event)

    # ---- questions ---------------------------------------------------------------------------

    def next_timer_ms(self) -> int | None:
        """When a Tick is due at the latest; None if nothing waits for time to pass."""
        state = self._state
        silent = state.fleet.longest_silent()
        times = (
            state.deadlines.next_ms(),
            state.impatience.next_ms(),
            state.overstays.next_ms(),
            state.last_starts.next_ms(),
            state.ledger.next_expiry_ms(),
            crashes.next_ms(state),
            supply.next_ms(state),
            None if silent is None else silent.last_heard_ms + state.settings.lease_ms,
        )
        return min((at_ms for at_ms in times if at_ms is not None), default=None)

    def admission_error(self, job: Job, now_ms: int) -> QuickthawError | None:
        """Why the request must not be journalled: DeadlineExpired, ModelCannotFit,
        BudgetExhausted (over its price cap) or QueueFull; None if it may be."""
        return quoting.admission_error(self._state, job, now_ms)

    def quote(self, job: Job, now_ms: int) -> Quote:
        """Where the job would go if it were submitted now. Raises what `admission_error` returns,
        and Unavailable while no worker is there."""
        return quoting.quote(self._state, job, now_ms)

    def hold(self, job: Job, now_ms: int) -> None:
        """What its payers have to keep for a request that is on its way into the journal, right
        after `admission_error` found nothing. It is kept until the request has ended."""
        self._state.budgets.turn(now_ms)
        money.hold(self._state, job)

    def release_hold(self, request_id: RequestId) -> None:
        """Of a request that was never accepted after all."""
        self._state.budgets.release(request_id)

    def account(self, account_id: AccountId) -> AccountNow:
        """Of one that nobody has limited and that never spent anything, too."""
        budgets = self._state.budgets
        account = budgets.account(account_id)
        held = budgets.held_nanodollars(account_id)
        return AccountNow(account, held, budgets.month)

    def accounts(self) -> list[AccountNow]:
        """All that ever spent something or have a limit, by name."""
        known = sorted(account.id for account in self._state.budgets.accounts())
        return [self.account(account_id) for account_id in known]

    def open_holds(self) -> int:
        """How many requests hold something on an account."""
        return self._state.budgets.holds()

    def prices(self) -> PriceTable:
        """Those in force."""
        return self._state.prices

    def request(self, request_id: RequestId) -> RequestView | None:
        """None for one that has ended or never was."""
        tracked = self._state.requests.get(request_id)
        if tracked is None:
            return None
        return RequestView(
            tracked.job,
            tracked.life.state,
            tracked.attempts,
            tracked.attempt,
            tracked.stopping is not None,
        )

    def endpoint_now(self, model: ModelSpec) -> EndpointNow:
        state = self._state
        return EndpointNow(
            endpoints.replicas(state, model),
            quarantine.of(state, model),
            endpoints.reserved(state, model.id),
        )

    def workers_wanted(self, now_ms: int) -> int:
        """Workers that the traffic of late and the endpoints' settings need."""
        return supply.workers_wanted(self._state, max(now_ms, self._state.now_ms))

    def requests(self) -> Iterable[RequestId]:
        """All that have not ended; not to be kept while events are handled."""
        return self._state.requests.keys()

    def queue_length(self) -> int:
        return len(self._state.queue)

    def queue_position(self, request_id: RequestId) -> int | None:
        """How many go before it, exact for the first `queue_position_exact_max`; None if it does
        not wait."""
        state = self._state
        if request_id not in state.queue:
            return None
        return state.queue.position(request_id, state.settings.queue_position_exact_max)

    def owner(self, worker_id: WorkerId, attempt_id: AttemptId) -> RequestId | None:
        """The request of an open attempt if this worker has its lease: whose progress, previews
        and logs may be passed on."""
        tracked = reports.owned(self._state, worker_id, attempt_id)
        return None if tracked is None else tracked.job.request_id

    def workers(self) -> Iterable[Worker]:
        """To be read only, and not kept while events are handled."""
        return self._state.fleet.workers.values()

    def worker(self, worker_id: WorkerId) -> Worker | None:
        return self._state.fleet.workers.get(worker_id)

    def calibration(self) -> Mapping[str, Calibration]:
        """How often loads and runs took no longer than was foretold."""
        return self._state.estimates.calibration()

    def explain(self, request_id: RequestId) -> tuple[Decision, ...]:
        """One decision for each attempt, oldest first; for a request that waits, why no worker can
        take it now comes last. Empty if it is too long ago."""
        state = self._state
        known = state.decisions.of(request_id)
        tracked = state.requests.get(request_id)
        if tracked is None or tracked.life.state is not RequestState.QUEUED:
            return known
        attempt = tracked.attempts + 1
        before = tuple(decision for decision in known if decision.attempt < attempt)
        if (held := state.limits.may_start(tracked.job)) is not None:
            refused = of_one_refusal(EVERY_WORKER, held.reason, held.detail)
            return (*before, Decision(attempt, state.now_ms, None, refused))
        query = Query(tracked.job, tracked.lost_on, alone=bool(tracked.killed_on))
        now = place(query, state.fleet, state.estimates, state.settings.placement, state.now_ms)
        if isinstance(now, Placement):
            return known
        return (*before, Decision(attempt, state.now_ms, None, now.considered))
