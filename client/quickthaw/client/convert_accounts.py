"""Accounts between the wire's messages and the client's values."""

from __future__ import annotations

from collections.abc import Mapping

from quickthaw.client.billing import Account, Alert, BudgetSpan, Granted, UsageDimension
from quickthaw.client.convert import enum_from_wire
from quickthaw.v1 import billing_pb2
from quickthaw.wire.errors import InvalidArgument

_SPANS: Mapping[BudgetSpan, billing_pb2.BudgetSpan.ValueType] = {
    BudgetSpan.MONTH: billing_pb2.BUDGET_SPAN_MONTH,
    BudgetSpan.TOTAL: billing_pb2.BUDGET_SPAN_TOTAL,
}
_DIMENSIONS: Mapping[UsageDimension, billing_pb2.UsageDimension.ValueType] = {
    UsageDimension.MODEL: billing_pb2.USAGE_DIMENSION_MODEL,
    UsageDimension.GPU_TYPE: billing_pb2.USAGE_DIMENSION_GPU_TYPE,
    UsageDimension.KEY: billing_pb2.USAGE_DIMENSION_KEY,
    UsageDimension.DAY: billing_pb2.USAGE_DIMENSION_DAY,
}


def span_to_wire(span: BudgetSpan) -> billing_pb2.BudgetSpan.ValueType:
    """Raises InvalidArgument for UNKNOWN."""
    if (wire := _SPANS.get(span)) is None:
        raise InvalidArgument(f"{span} is not what a budget can cap: choose month or total")
    return wire


def dimension_to_wire(dimension: UsageDimension) -> billing_pb2.UsageDimension.ValueType:
    """Raises InvalidArgument for UNKNOWN."""
    if (wire := _DIMENSIONS.get(dimension)) is None:
        raise InvalidArgument(f"usage is told apart by {', '.join(_DIMENSIONS)}, not {dimension}")
    return wire


def account_from_wire(message: billing_pb2.Account) -> Account:
    return Account(
        tenant=message.tenant,
        key_id=message.key_id,
        budget_nanodollars=(
            message.budget_nanodollars if message.HasField("budget_nanodollars") else None
        ),
        budget_span=enum_from_wire(
            BudgetSpan, billing_pb2.BudgetSpan.Name, "BUDGET_SPAN_", message.budget_span
        ),
        budget_used_nanodollars=message.budget_used_nanodollars,
        credit_nanodollars=(
            message.credit_nanodollars if message.HasField("credit_nanodollars") else None
        ),
        alert_percents=tuple(message.alert_percents),
        locked=message.locked,
        lock_reason=message.lock_reason,
        spent_nanodollars=message.spent_nanodollars,
        month_spent_nanodollars=message.month_spent_nanodollars,
        month=message.month,
        held_nanodollars=message.held_nanodollars,
        available_nanodollars=(
            message.available_nanodollars if message.HasField("available_nanodollars") else None
        ),
    )


def granted_from_wire(message: billing_pb2.GrantCreditResponse) -> Granted:
    return Granted(account_from_wire(message.account), message.grant_id, message.deduplicated)


def alert_from_wire(message: billing_pb2.Alert) -> Alert:
    return Alert(
        tenant=message.tenant,
        key_id=message.key_id,
        kind=message.kind,
        percent=message.percent,
        used_nanodollars=message.used_nanodollars,
        limit_nanodollars=message.limit_nanodollars,
        raised_unix_ms=message.raised_unix_ms,
    )
