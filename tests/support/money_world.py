"""The core with callers, workers, operators, a clock and a store of its own making, and beside it
an oracle that knows what everybody must have paid: it shares no arithmetic with the core."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from random import Random

from quickthaw.scheduler.core.accounts import Account, AccountChange, AccountId, Alert
from quickthaw.scheduler.core.commands import (
    Command,
    JournalAccount,
    JournalEnd,
    JournalMetered,
    JournalPlacement,
    JournalReservation,
    SendAssign,
    SendCancel,
    SendHeartbeatAck,
    SendWelcome,
    TellEnd,
)
from quickthaw.scheduler.core.events import (
    AccountChanged,
    AccountRecovered,
    AttemptFinished,
    AttemptReport,
    AttemptRunning,
    Event,
    RequestJournalled,
    RequestRecovered,
    Tick,
    WorkerHeartbeat,
    WorkerHello,
)
from quickthaw.scheduler.core.lifecycle import RequestState
from quickthaw.scheduler.core.machine import Machine
from quickthaw.scheduler.core.model import (
    AttemptId,
    AttemptRecord,
    Failure,
    Job,
    LedgerLine,
    Outcome,
    OutputUnits,
    RequestId,
    TenantId,
    Tier,
    WorkerId,
    WorkerSpec,
)
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.wire.errors import QuickthawError


@dataclass(slots=True)
class Running:
    """An attempt on its worker. `paid_ms` is what the worker last heard, 0 for no limit."""

    assign: SendAssign
    paid_ms: int
    began_ms: int | None = None
    told_to_stop: bool = False


class Rows:
    """What the store would hold. Every write is applied three times: replays must be absorbed."""

    def __init__(self) -> None:
        self.ledger: dict[AttemptId, LedgerLine] = {}
        self.accounts: dict[AccountId, Account] = {}
        self.alerts: dict[str, Alert] = {}
        self.open: dict[RequestId, Job] = {}
        self.attempts: dict[RequestId, AttemptRecord] = {}
        self.numbers: Counter[RequestId] = Counter()

    def apply(self, command: Command) -> None:
        for _ in range(3):
            self._apply(command)

    def _apply(self, command: Command) -> None:
        match command:
            case JournalPlacement(attempt=attempt):
                self.attempts[attempt.request_id] = attempt
                self.numbers[attempt.request_id] = attempt.number
            case JournalMetered(metered_ms=metered):
                for attempt_id, metered_ms in metered:
                    for request_id, attempt in self.attempts.items():
                        if attempt.attempt_id == attempt_id:
                            self.attempts[request_id] = attempt._replace(metered_ms=metered_ms)
            case JournalReservation(ledger=line, settled=settled):
                self.ledger.setdefault(line.attempt_id, line)
                self.accounts.update((account.id, account) for account in settled.accounts)
            case JournalAccount(account=account):
                self.accounts[account.id] = account
            case JournalEnd(job=job, ledger=ledger, settled=settled, then=then):
                if ledger is not None:
                    self.ledger.setdefault(ledger.attempt_id, ledger)
                self.attempts.pop(job.request_id, None)
                if not hasattr(then, "detail"):
                    self.open.pop(job.request_id, None)
                self.accounts.update((account.id, account) for account in settled.accounts)
                for alert in settled.alerts:
                    self.alerts.setdefault(alert.alert_id, alert)
            case _:
                pass


class MoneyWorld:
    def __init__(self, settings: CoreSettings, prices: PriceTable, seed: int) -> None:
        self.random = Random(seed)
        self.settings = settings
        self.prices = prices
        self.machine = Machine(settings, prices)
        self.now_ms = 1_780_000_000_000
        self.rows = Rows()
        self.workers: dict[WorkerId, WorkerSpec] = {}
        self.running: dict[AttemptId, Running] = {}
        self.refused: list[QuickthawError] = []
        self.ended: dict[RequestId, TellEnd] = {}
        self.due: dict[AttemptId, int] = {}
        """The oracle: what each closed attempt must cost."""
        self._terms: dict[AttemptId, tuple[int, str, int]] = {}
        self._numbers = 0

    # ---- events ------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        for command in self.machine.handle(event, self.now_ms):
            self.rows.apply(command)
            self._hear(command)

    def _hear(self, command: Command) -> None:
        match command:
            case SendAssign():
                self.running[command.attempt_id] = Running(command, command.meter_lease_ms)
                self._fix_terms(command)
            case SendCancel():
                if (found := self.running.get(command.attempt_id)) is not None:
                    found.told_to_stop = True
            case SendHeartbeatAck():
                for attempt_id in command.revoked_attempt_ids:
                    self.running.pop(attempt_id, None)
                for attempt_id, paid_ms in command.meter_leases:
                    if (found := self.running.get(attempt_id)) is not None:
                        found.paid_ms = paid_ms
            case SendWelcome():
                for attempt_id in command.revoked_attempt_ids:
                    self.running.pop(attempt_id, None)
            case TellEnd():
                self.ended[command.job.request_id] = command
            case _:
                pass

    def _fix_terms(self, assign: SendAssign) -> None:
        """As the price table stands when the interval opens; sent again it is the same interval."""
        gpu_type = self.workers[assign.worker_id].gpu_type
        own = self.prices.models.get(assign.job.model.id)
        rate = self.prices.rates.get(gpu_type, self.prices.default_rate_nanodollars_per_second)
        terms = (rate, "", 0)
        if own is not None and own.unit is not None:
            terms = (0, own.unit.value, own.unit_price_nanodollars)
        elif own is not None and gpu_type in own.rates:
            terms = (own.rates[gpu_type], "", 0)
        elif own is not None and own.rate_nanodollars_per_second is not None:
            terms = (own.rate_nanodollars_per_second, "", 0)
        self._terms.setdefault(assign.attempt_id, terms)

    # ---- callers -----------------------------------------------------------------------------

    def submit(self, job: Job) -> bool:
        """As the dispatcher does it: asked, held, journalled."""
        self._numbers += 1
        job = replace(
            job, request_id=RequestId(f"req_{self._numbers:06}"), submitted_ms=self.now_ms
        )
        error = self.machine.admission_error(job, self.now_ms)
        if error is not None:
            self.refused.append(error)
            return False
        self.machine.hold(job, self.now_ms)
        self.rows.open[job.request_id] = job
        self.feed(RequestJournalled(job))
        return True

    # ---- workers -----------------------------------------------------------------------------

    def attach(self, spec: WorkerSpec) -> None:
        self.workers[spec.worker_id] = spec
        self.feed(WorkerHello(spec, (), self._reports(spec.worker_id)))

    def begin(self, attempt_id: AttemptId) -> None:
        found = self.running[attempt_id]
        if found.began_ms is None:
            found.began_ms = self.now_ms
            self.feed(AttemptRunning(found.assign.worker_id, attempt_id, 5, Tier.DISK))

    def metered_ms(self, attempt_id: AttemptId) -> int:
        began_ms = self.running[attempt_id].began_ms
        return 0 if began_ms is None else self.now_ms - began_ms

    def finish(
        self, attempt_id: AttemptId, outcome: Outcome, outputs: OutputUnits, reason: str = "TEST"
    ) -> None:
        metered_ms = self.metered_ms(attempt_id)
        found = self.running.pop(attempt_id)
        request_id = found.assign.job.request_id
        failure = Failure(reason, "said the test") if outcome is Outcome.FAILED else None
        event = AttemptFinished(
            found.assign.worker_id,
            attempt_id,
            request_id,
            outcome,
            metered_ms,
            failure=failure,
            outputs=outputs,
        )
        known = set(self.rows.ledger)
        for _ in range(self.random.choice((1, 3))):
            self.feed(event)
        if self.rows.ledger.keys() - known:
            deadline_ms = found.assign.job.deadline_ms
            if self.rows.ledger[attempt_id].waiver == "failed:deadline_expired":
                assert 0 < deadline_ms <= self.now_ms, "a deadline that had not passed"
                self.due[attempt_id] = 0
            else:
                self._expect(attempt_id, outcome, metered_ms, outputs, reason)

    def _expect(
        self,
        attempt_id: AttemptId,
        outcome: Outcome,
        metered_ms: int,
        outputs: OutputUnits,
        reason: str,
    ) -> None:
        """What the rules of `docs/billing.md` say. Whether the account was empty is the core's to
        know: a line that says so is billed for its time."""
        rate, unit, unit_price = self._terms[attempt_id]
        line = self.rows.ledger[attempt_id]
        units = {
            "image": Decimal(outputs.images),
            "megapixel": Decimal(outputs.pixels) / 10**6,
            "video_second": Decimal(outputs.video_ms) / 1000,
        }
        due = Decimal(0)
        stopped_unpaid = reason == "BUDGET_EXHAUSTED" and not line.waiver
        if unit:
            due = units[unit] * unit_price if outcome is Outcome.SUCCEEDED else Decimal(0)
        elif (outcome is not Outcome.FAILED or stopped_unpaid) and line.waiver != "worker_lost":
            due = Decimal(metered_ms) * rate / 1000
        self.due[attempt_id] = int(due.quantize(Decimal(1), ROUND_HALF_UP))

    def heartbeat(self, worker_id: WorkerId) -> None:
        if self.machine.worker(worker_id) is None:
            # It was given up for its silence, so it says Hello again.
            self.attach(self.workers[worker_id])
        self.feed(WorkerHeartbeat(worker_id, 1, self._reports(worker_id)))

    def _reports(self, worker_id: WorkerId) -> tuple[AttemptReport, ...]:
        return tuple(
            AttemptReport(
                attempt_id,
                found.assign.job.request_id,
                RequestState.PLACED if found.began_ms is None else RequestState.RUNNING,
                self.metered_ms(attempt_id),
            )
            for attempt_id, found in self.running.items()
            if found.assign.worker_id == worker_id
        )

    def obey(self) -> None:
        """Workers stop what they were told to, and what has used up its meter lease."""
        for attempt_id, found in list(self.running.items()):
            unpaid = found.paid_ms and self.metered_ms(attempt_id) >= found.paid_ms
            if found.told_to_stop:
                self.finish(attempt_id, Outcome.CANCELLED, OutputUnits(), "BUDGET_EXHAUSTED")
            elif unpaid:
                # It may be that the account can pay and the worker only did not hear so.
                self.finish(attempt_id, Outcome.FAILED, OutputUnits(), "BUDGET_EXHAUSTED")

    # ---- operators and time ------------------------------------------------------------------

    def change(self, account_id: AccountId, change: AccountChange) -> None:
        self.feed(AccountChanged(account_id, change))

    def wait(self, span_ms: int) -> None:
        self.now_ms += span_ms
        self.feed(Tick())

    def restart(self) -> None:
        """Another process takes over from what is in the store; workers come back."""
        self.machine = Machine(self.settings, self.prices)
        for account in list(self.rows.accounts.values()):
            self.feed(AccountRecovered(account))
        for request_id, job in sorted(self.rows.open.items()):
            self.feed(
                RequestRecovered(
                    job,
                    attempts=self.rows.numbers[request_id],
                    open_attempt=self.rows.attempts.get(request_id),
                )
            )
        for spec in self.workers.values():
            self.feed(WorkerHello(spec, (), self._reports(spec.worker_id)))

    # ---- what must be true -------------------------------------------------------------------

    def check(self) -> None:
        """The ledger is the oracle's to the last unit, and the accounts are the ledger's."""
        for attempt_id, line in self.rows.ledger.items():
            # An attempt that a worker never ended was lost, and is free.
            assert line.price_nanodollars == self.due.get(attempt_id, 0), line
        spent: Counter[AccountId] = Counter()
        for line in self.rows.ledger.values():
            spent[AccountId(line.tenant)] += line.price_nanodollars
            if line.key_id:
                spent[AccountId(line.tenant, line.key_id)] += line.price_nanodollars
        for now in self.machine.accounts():
            assert now.account.spent_nanodollars == spent[now.account.id], now
            assert now.account == self.rows.accounts.get(now.account.id, now.account)
        for account_id, nanodollars in spent.items():
            assert self.machine.account(account_id).account.spent_nanodollars == nanodollars
        open_requests = len(list(self.machine.requests()))
        assert self.machine.open_holds() <= open_requests

    def drain(self) -> None:
        """Everything that is open ends, by whatever way is left to it."""
        for _ in range(10_000):
            if not any(True for _ in self.machine.requests()):
                break
            self.now_ms += 500
            for worker_id in self.workers:
                self.heartbeat(worker_id)
            self.obey()
            for attempt_id in list(self.running):
                if attempt_id in self.running:
                    self.begin(attempt_id)
                    self.finish(attempt_id, Outcome.SUCCEEDED, OutputUnits(1, 1_000_000, 1_000))
            self.feed(Tick())
        assert not list(self.machine.requests()), "requests wait for ever"
        assert self.machine.open_holds() == 0
        for now in self.machine.accounts():
            assert now.held_nanodollars == 0, now


def tenant_account(tenant: str, key_id: str = "") -> AccountId:
    return AccountId(TenantId(tenant), key_id)
