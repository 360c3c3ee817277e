"""What open requests hold on the accounts that will pay for them.

Checking what is spent would not do: a hundred requests would all be found affordable before the
first of them is billed. So each takes a hold for what it may cost when it is admitted, on its key's
account and its tenant's, or on neither; it is given back when the request ends, as its bill is
added to what is spent. With `left` what an account may still spend:

- A new request is admitted if `left` covers all holds and its own.
- One that waits may start if `left` covers the holds of those that run and its own.
- One that runs may take more on the same terms: to finish what runs comes before starting more.

Only requests of accounts with a limit have holds; the others cost nothing here but the sums.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from quickthaw.scheduler.core.accounts import Account, AccountId, Alert, Calendar, with_alerts
from quickthaw.scheduler.core.model import Job, RequestId
from quickthaw.scheduler.core.pricing import dollars
from quickthaw.wire.errors import BudgetExhausted, PermissionDenied, QuickthawError


class Start(Enum):
    """Whether what is held for a request that waits can be spent."""

    NOW = "now"
    LATER = "later"
    """When others have ended, or the account is unlocked."""
    NEVER = "never"


class Settled(NamedTuple):
    """The accounts that a bill changed, as they are now, and the thresholds that it crossed."""

    accounts: tuple[Account, ...] = ()
    alerts: tuple[Alert, ...] = ()


NOTHING_SETTLED = Settled()


class Hold:
    """Of one open request, on each of its accounts."""

    __slots__ = ("accounts", "nanodollars", "running")

    def __init__(self, accounts: tuple[AccountId, ...], nanodollars: int) -> None:
        self.accounts = accounts
        self.nanodollars = nanodollars
        self.running = False


def payers(job: Job) -> tuple[AccountId, ...]:
    """Outermost first."""
    tenant = AccountId(job.tenant)
    return (tenant, AccountId(job.tenant, job.key_id)) if job.key_id else (tenant,)


class Budgets:
    """All accounts that ever spent something or have a limit."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[AccountId, Account] = OrderedDict()
        self._limited: set[AccountId] = set()
        self._holds: dict[RequestId, Hold] = {}
        self._held: Counter[AccountId] = Counter()
        self._running: Counter[AccountId] = Counter()
        self._calendar = Calendar()
        self.month = ""
        """The one under way, of which budgets are."""

    def turn(self, now_ms: int) -> bool:
        """Time has come so far; whether another month has begun."""
        before, self.month = self.month, self._calendar.month(now_ms)
        return before not in ("", self.month)

    # ---- reading -----------------------------------------------------------------------------

    def account(self, account_id: AccountId) -> Account:
        return self._accounts.get(account_id) or Account(account_id)

    def accounts(self) -> Iterable[Account]:
        return self._accounts.values()

    def held_nanodollars(self, account_id: AccountId) -> int:
        return self._held[account_id]

    def holds(self) -> int:
        """How many requests have one."""
        return len(self._holds)

    def hold(self, request_id: RequestId) -> Hold | None:
        return self._holds.get(request_id)

    def limits(self, job: Job) -> bool:
        """Whether anything bounds what this request's payers may spend."""
        return bool(self._limited) and not self._limited.isdisjoint(payers(job))

    def solvent(self, account_id: AccountId) -> bool:
        """It has anything left to spend."""
        left = self.account(account_id).left_nanodollars(self.month)
        return left is None or left > 0

    def refusal(self, job: Job, nanodollars: int) -> QuickthawError | None:
        """Why a new request that may cost so much is not admitted: BudgetExhausted, or
        PermissionDenied for a locked account."""
        for account_id in payers(job):
            account = self.account(account_id)
            if account.locked:
                return _locked(account)
            left = account.left_nanodollars(self.month)
            if left is not None and left - self._held[account_id] < nanodollars:
                return _exhausted(account, left - self._held[account_id], nanodollars)
        return None

    def may_start(self, request_id: RequestId) -> tuple[Start, AccountId | None]:
        """For one that waits; with the account that keeps it waiting."""
        hold = self._holds.get(request_id)
        if hold is None:
            return Start.NOW, None
        found: Start = Start.NOW
        why: AccountId | None = None
        for account_id in hold.accounts:
            account = self.account(account_id)
            if account.locked:
                return Start.LATER, account_id
            left = account.left_nanodollars(self.month)
            if left is None:
                continue
            if left < hold.nanodollars:
                return Start.NEVER, account_id
            if left - self._running[account_id] < hold.nanodollars:
                found, why = Start.LATER, account_id
        return found, why

    def room_nanodollars(self, hold: Hold) -> int | None:
        """By how much the hold of one that runs can grow; below 0 if it must shrink; None for
        no bound."""
        room: int | None = None
        for account_id in hold.accounts:
            left = self.account(account_id).left_nanodollars(self.month)
            if left is not None:
                here = left - self._running[account_id]
                room = here if room is None else min(room, here)
        return room

    def exhaustion(self, job: Job, nanodollars: int) -> BudgetExhausted:
        """Which account it is that cannot pay so much more."""
        lefts = [
            (left, account)
            for account in map(self.account, payers(job))
            if (left := account.left_nanodollars(self.month)) is not None
        ]
        left, account = min(lefts, key=lambda each: each[0], default=(0, Account(payers(job)[0])))
        return _exhausted(account, max(0, left - self._running[account.id]), nanodollars)

    # ---- holds -------------------------------------------------------------------------------

    def take(self, job: Job, nanodollars: int) -> Hold:
        """Unasked: ask `refusal` first, unless the request was accepted long ago."""
        self.release(job.request_id)
        hold = self._holds[job.request_id] = Hold(payers(job), nanodollars)
        self._add(hold, nanodollars)
        return hold

    def run(self, hold: Hold) -> None:
        """Its attempt begins."""
        if not hold.running:
            hold.running = True
            for account_id in hold.accounts:
                self._running[account_id] += hold.nanodollars

    def park(self, hold: Hold) -> None:
        """Its attempt is over, and it waits again."""
        if hold.running:
            hold.running = False
            for account_id in hold.accounts:
                _less(self._running, account_id, hold.nanodollars)

    def resize(self, hold: Hold, nanodollars: int) -> None:
        change = nanodollars - hold.nanodollars
        hold.nanodollars = nanodollars
        self._add(hold, change)
        if hold.running:
            for account_id in hold.accounts:
                self._running[account_id] += change

    def release(self, request_id: RequestId) -> None:
        """Of one that has ended by any way, or was never accepted; nothing if it has none."""
        hold = self._holds.pop(request_id, None)
        if hold is not None:
            self.park(hold)
            for account_id in hold.accounts:
                _less(self._held, account_id, hold.nanodollars)

    def _add(self, hold: Hold, nanodollars: int) -> None:
        for account_id in hold.accounts:
            self._held[account_id] += nanodollars

    # ---- money -------------------------------------------------------------------------------

    def put(self, account: Account) -> None:
        """As it was stored, or as an operator has changed it."""
        self._accounts[account.id] = account
        if account.limited:
            self._limited.add(account.id)
        else:
            self._limited.discard(account.id)

    def settle(self, job: Job, price_nanodollars: int, now_ms: int) -> Settled:
        """Adds a bill to what the payers have spent."""
        return self.settle_on(payers(job), price_nanodollars, now_ms)

    def settle_on(
        self, account_ids: Iterable[AccountId], price_nanodollars: int, now_ms: int
    ) -> Settled:
        """The same for what no single request costs, such as a reserved worker's time."""
        if price_nanodollars == 0:
            return NOTHING_SETTLED
        accounts: list[Account] = []
        alerts: list[Alert] = []
        for account_id in account_ids:
            charged = self.account(account_id).charged(price_nanodollars, self.month)
            if charged.alert_percents:
                charged, crossed = with_alerts(charged, self.month, now_ms)
                alerts.extend(crossed)
            self.put(charged)
            accounts.append(charged)
        return Settled(tuple(accounts), tuple(alerts))


def _less(sums: Counter[AccountId], account_id: AccountId, nanodollars: int) -> None:
    """An account that nobody holds anything on leaves no entry behind."""
    sums[account_id] -= nanodollars
    if not sums[account_id]:
        del sums[account_id]


def _locked(account: Account) -> PermissionDenied:
    why = f" ({account.lock_reason})" if account.lock_reason else ""
    return PermissionDenied(
        f"the account {account.id} is locked{why}; an admin can unlock it with "
        f"`quickthaw budget unlock {account.id}`",
        metadata={"account": str(account.id)},
    )


def _exhausted(account: Account, left_nanodollars: int, nanodollars: int) -> BudgetExhausted:
    bounds = [
        told
        for told, bound in (
            ("budget", account.budget_nanodollars),
            ("credit", account.credit_nanodollars),
        )
        if bound is not None
    ]
    return BudgetExhausted(
        f"the account {account.id} has {dollars(left_nanodollars)} of its "
        f"{' and '.join(bounds) or 'money'} left and the request may take {dollars(nanodollars)}; "
        f"`quickthaw budget show {account.id}` says more, and an admin can raise it",
        metadata={
            "account": str(account.id),
            "left_nanodollars": str(left_nanodollars),
            "needs_nanodollars": str(nanodollars),
        },
    )
