"""Accounts, their limits and their alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quickthaw.scheduler.convert.words import invalid
from quickthaw.scheduler.core.accounts import Alert, SetBudget, Span
from quickthaw.scheduler.core.machine import AccountNow
from quickthaw.scheduler.store.queries import Dimension
from quickthaw.v1 import billing_pb2

MONEY_MAX_NANODOLLARS = 10**18
"""A billion dollars: what more is, is a slip of the pen, and sums of it must fit the store."""
ALERTS_MAX = 10

_SPAN_TO_WIRE: Mapping[Span, billing_pb2.BudgetSpan.ValueType] = {
    Span.MONTH: billing_pb2.BUDGET_SPAN_MONTH,
    Span.TOTAL: billing_pb2.BUDGET_SPAN_TOTAL,
}
_SPAN_FROM_WIRE: Mapping[int, Span] = {
    billing_pb2.BUDGET_SPAN_UNSPECIFIED: Span.MONTH,
    **{wire: ours for ours, wire in _SPAN_TO_WIRE.items()},
}
_DIMENSIONS: Mapping[int, Dimension] = {
    billing_pb2.USAGE_DIMENSION_MODEL: Dimension.MODEL,
    billing_pb2.USAGE_DIMENSION_GPU_TYPE: Dimension.GPU_TYPE,
    billing_pb2.USAGE_DIMENSION_KEY: Dimension.KEY,
    billing_pb2.USAGE_DIMENSION_DAY: Dimension.DAY,
}


def dimensions(wire: Sequence[int]) -> tuple[Dimension, ...]:
    """Model and GPU type if none is named. Raises InvalidArgument."""
    if not wire:
        return (Dimension.MODEL, Dimension.GPU_TYPE)
    try:
        found = tuple(_DIMENSIONS[each] for each in wire)
    except KeyError as error:
        raise invalid("by", f"{error.args[0]} is no dimension") from error
    if len(set(found)) < len(found):
        raise invalid("by", "must not name a dimension twice")
    return found


def budget(message: billing_pb2.SetBudgetRequest) -> SetBudget:
    """Raises InvalidArgument."""
    amount: int | None = None
    if message.HasField("budget_nanodollars"):
        amount = message.budget_nanodollars
        if not 0 <= amount <= MONEY_MAX_NANODOLLARS:
            raise invalid(
                "budget_nanodollars", f"must be 0 to {MONEY_MAX_NANODOLLARS}, or absent for none"
            )
    span = _SPAN_FROM_WIRE.get(message.budget_span)
    if span is None:
        raise invalid("budget_span", f"{message.budget_span} is neither MONTH nor TOTAL")
    percents = tuple(sorted(set(message.alert_percents)))
    if len(percents) > ALERTS_MAX or any(not 1 <= each <= 100 for each in percents):
        raise invalid("alert_percents", f"must be at most {ALERTS_MAX}, each from 1 to 100")
    return SetBudget(amount, span, percents)


def account_message(now: AccountNow) -> billing_pb2.Account:
    account = now.account
    left = account.left_nanodollars(now.month)
    return billing_pb2.Account(
        tenant=account.id.tenant,
        key_id=account.id.key_id,
        budget_nanodollars=account.budget_nanodollars,
        budget_span=_SPAN_TO_WIRE[account.span],
        budget_used_nanodollars=account.used_nanodollars(now.month),
        credit_nanodollars=account.credit_nanodollars,
        alert_percents=account.alert_percents,
        locked=account.locked,
        lock_reason=account.lock_reason,
        spent_nanodollars=account.spent_nanodollars,
        month_spent_nanodollars=(
            account.month_spent_nanodollars if account.month == now.month else 0
        ),
        month=now.month,
        held_nanodollars=now.held_nanodollars,
        available_nanodollars=None if left is None else left - now.held_nanodollars,
    )


def alert_message(alert: Alert) -> billing_pb2.Alert:
    return billing_pb2.Alert(
        tenant=alert.account.tenant,
        key_id=alert.account.key_id,
        kind=alert.kind.value,
        percent=alert.percent,
        used_nanodollars=alert.used_nanodollars,
        limit_nanodollars=alert.limit_nanodollars,
        raised_unix_ms=alert.raised_ms,
    )
