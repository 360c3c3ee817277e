"""The calls on accounts, once for both clients."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from quickthaw.client import methods
from quickthaw.client.billing import Account, Alert, BudgetSpan, Granted
from quickthaw.client.convert_accounts import (
    account_from_wire,
    alert_from_wire,
    granted_from_wire,
    span_to_wire,
)
from quickthaw.client.retry import Context, call_with_retry
from quickthaw.client.steps import Operation
from quickthaw.v1 import billing_pb2


def get_account(context: Context, tenant: str, key_id: str) -> Operation[Account]:
    message = billing_pb2.GetAccountRequest(tenant=tenant, key_id=key_id)
    return account_from_wire((yield from call_with_retry(context, methods.GET_ACCOUNT, message)))


def list_accounts(context: Context, tenant: str, everyone: bool) -> Operation[tuple[Account, ...]]:
    message = billing_pb2.ListAccountsRequest(tenant=tenant, all=everyone)
    answer = yield from call_with_retry(context, methods.LIST_ACCOUNTS, message)
    return tuple(account_from_wire(account) for account in answer.accounts)


def set_budget(
    context: Context,
    tenant: str,
    key_id: str,
    budget_nanodollars: int | None,
    span: BudgetSpan,
    alert_percents: Sequence[int],
) -> Operation[Account]:
    message = billing_pb2.SetBudgetRequest(
        tenant=tenant,
        key_id=key_id,
        budget_nanodollars=budget_nanodollars,
        budget_span=span_to_wire(span),
        alert_percents=alert_percents,
    )
    return account_from_wire((yield from call_with_retry(context, methods.SET_BUDGET, message)))


def grant(
    context: Context, tenant: str, key_id: str, amount_nanodollars: int, note: str, grant_id: str
) -> Operation[Granted]:
    message = billing_pb2.GrantCreditRequest(
        tenant=tenant,
        key_id=key_id,
        amount_nanodollars=amount_nanodollars,
        note=note,
        # Named here, so that trying again after a broken connection gives once.
        grant_id=grant_id or f"grant_{uuid.uuid4().hex}",
    )
    return granted_from_wire((yield from call_with_retry(context, methods.GRANT_CREDIT, message)))


def set_lock(
    context: Context, tenant: str, key_id: str, locked: bool, reason: str
) -> Operation[Account]:
    message = billing_pb2.SetLockRequest(tenant=tenant, key_id=key_id, locked=locked, reason=reason)
    return account_from_wire((yield from call_with_retry(context, methods.SET_LOCK, message)))


def list_alerts(context: Context, tenant: str, everyone: bool) -> Operation[tuple[Alert, ...]]:
    message = billing_pb2.ListAlertsRequest(tenant=tenant, all=everyone)
    answer = yield from call_with_retry(context, methods.LIST_ALERTS, message)
    return tuple(alert_from_wire(alert) for alert in answer.alerts)
