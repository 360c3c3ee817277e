"""Who pays: a tenant or one of its keys, what it may spend, and what it has spent.

An account is bounded by a budget (a cap by calendar month in UTC, or in all), by credit that was
granted in advance, by both or by nothing. All values here are what the ledger says; what is only
held for requests that have not ended is in `budgets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias, assert_never

from quickthaw.scheduler.core.model import TenantId

DAY_MS = 86_400_000
DAYS_OF_400_YEARS = 146_097
DAYS_BEFORE_1970 = 719_468
"""Since the first of March of the year 0."""


class AccountId(NamedTuple):
    """A tenant, or with a key one of the tenant's keys."""

    tenant: TenantId
    key_id: str = ""

    def __str__(self) -> str:
        return f"{self.tenant}/{self.key_id}" if self.key_id else self.tenant


class Span(Enum):
    """What a budget caps."""

    MONTH = "month"
    TOTAL = "total"


class AlertKind(Enum):
    BUDGET = "budget"
    CREDIT = "credit"


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold was crossed. `used` of `limit` is at least `percent`."""

    account: AccountId
    kind: AlertKind
    percent: int
    used_nanodollars: int
    limit_nanodollars: int
    raised_ms: int

    @property
    def alert_id(self) -> str:
        return f"{self.account}:{self.kind.value}:{self.percent}:{self.raised_ms}"


@dataclass(frozen=True, slots=True)
class Grant:
    """Credit given; a negative amount takes some back. The id is the giver's."""

    grant_id: str
    amount_nanodollars: int
    note: str
    granted_ms: int


class Account(NamedTuple):
    """`budget_nanodollars` and `credit_nanodollars` are None for no such bound; the credit is what
    is left, and may be below 0 by what ran on past it. `credit_full_nanodollars` is what it was
    right after the last grant. The alerted percentages are those that were told already."""

    id: AccountId
    budget_nanodollars: int | None = None
    span: Span = Span.MONTH
    alert_percents: tuple[int, ...] = ()
    locked: bool = False
    lock_reason: str = ""
    credit_nanodollars: int | None = None
    credit_full_nanodollars: int = 0
    spent_nanodollars: int = 0
    month: str = ""
    month_spent_nanodollars: int = 0
    budget_alerted_percent: int = 0
    credit_alerted_percent: int = 0

    @property
    def limited(self) -> bool:
        return self.locked or self.bounded

    @property
    def bounded(self) -> bool:
        return self.budget_nanodollars is not None or self.credit_nanodollars is not None

    def used_nanodollars(self, month: str) -> int:
        """What counts against the budget in this month."""
        if self.span is Span.TOTAL:
            return self.spent_nanodollars
        return self.month_spent_nanodollars if month == self.month else 0

    def left_nanodollars(self, month: str) -> int | None:
        """What may still be spent, holds aside; below 0 if more was; None for no bound."""
        left = self.credit_nanodollars
        if self.budget_nanodollars is not None:
            of_budget = self.budget_nanodollars - self.used_nanodollars(month)
            left = of_budget if left is None else min(left, of_budget)
        return left

    def charged(self, price_nanodollars: int, month: str) -> Account:
        """After paying in this month."""
        credit, month_spent = self.credit_nanodollars, self.month_spent_nanodollars
        told = self.budget_alerted_percent
        if month != self.month:
            month_spent, told = 0, 0 if self.span is Span.MONTH else told
        return self._replace(
            credit_nanodollars=None if credit is None else credit - price_nanodollars,
            spent_nanodollars=self.spent_nanodollars + price_nanodollars,
            month=month,
            month_spent_nanodollars=month_spent + price_nanodollars,
            budget_alerted_percent=told,
        )


# ---- what operators change -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetBudget:
    """None for no budget."""

    budget_nanodollars: int | None
    span: Span
    alert_percents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetLock:
    locked: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GrantCredit:
    """The first grant makes an account prepaid: from then on it spends credit alone."""

    grant: Grant


AccountChange: TypeAlias = SetBudget | SetLock | GrantCredit


def changed(account: Account, change: AccountChange, month: str) -> Account:
    """Thresholds that lie below what is used by now count as told."""
    match change:
        case SetBudget():
            new = account._replace(
                budget_nanodollars=change.budget_nanodollars,
                span=change.span,
                alert_percents=change.alert_percents,
            )
        case SetLock():
            return account._replace(
                locked=change.locked, lock_reason=change.reason if change.locked else ""
            )
        case GrantCredit():
            credit = (account.credit_nanodollars or 0) + change.grant.amount_nanodollars
            new = account._replace(
                credit_nanodollars=credit, credit_full_nanodollars=max(0, credit)
            )
        case _:
            assert_never(change)
    return new._replace(
        budget_alerted_percent=max(_reached(new, AlertKind.BUDGET, month), default=0),
        credit_alerted_percent=max(_reached(new, AlertKind.CREDIT, month), default=0),
    )


# ---- thresholds ------------------------------------------------------------------------------


def with_alerts(account: Account, month: str, now_ms: int) -> tuple[Account, tuple[Alert, ...]]:
    """The thresholds that were crossed since they were last looked at, each told once."""
    alerts: list[Alert] = []
    for kind, told in (
        (AlertKind.BUDGET, account.budget_alerted_percent),
        (AlertKind.CREDIT, account.credit_alerted_percent),
    ):
        used, limit = _used_of(account, kind, month)
        alerts.extend(
            Alert(account.id, kind, percent, used, limit, now_ms)
            for percent in _reached(account, kind, month)
            if percent > told
        )
    if not alerts:
        return account, ()
    return (
        account._replace(
            budget_alerted_percent=max(
                [account.budget_alerted_percent, *_percents(alerts, AlertKind.BUDGET)]
            ),
            credit_alerted_percent=max(
                [account.credit_alerted_percent, *_percents(alerts, AlertKind.CREDIT)]
            ),
        ),
        tuple(alerts),
    )


def _percents(alerts: list[Alert], kind: AlertKind) -> Iterator[int]:
    return (alert.percent for alert in alerts if alert.kind is kind)


def _reached(account: Account, kind: AlertKind, month: str) -> Iterator[int]:
    used, limit = _used_of(account, kind, month)
    if limit > 0:
        yield from (each for each in account.alert_percents if used * 100 >= each * limit)


def _used_of(account: Account, kind: AlertKind, month: str) -> tuple[int, int]:
    if kind is AlertKind.BUDGET:
        return account.used_nanodollars(month), account.budget_nanodollars or 0
    full = account.credit_full_nanodollars
    return full - (account.credit_nanodollars or 0), full


# ---- months ----------------------------------------------------------------------------------


class Calendar:
    """The month of a time, in UTC: `2026-11`. It computes once a day."""

    def __init__(self) -> None:
        self._day = -1
        self._month = ""

    def month(self, now_ms: int) -> str:
        day = now_ms // DAY_MS
        if day != self._day:
            self._day, self._month = day, _month_of(day)
        return self._month


def _month_of(day: int) -> str:
    """Of a day since 1970. The core may know no clock, and the standard calendar comes with one, so
    it is counted here: in years that begin with March, the leap day comes last and the months'
    lengths repeat every five (31, 30, 31, 30, 31)."""
    era, of_era = divmod(day + DAYS_BEFORE_1970, DAYS_OF_400_YEARS)
    years = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * years + years // 4 - years // 100)
    after_march = (5 * of_year + 2) // 153
    year = 400 * era + years + (after_march >= 10)
    return f"{year:04d}-{(after_march + 2) % 12 + 1:02d}"
