"""Money and keys."""

from __future__ import annotations

from collections.abc import Mapping

from quickthaw.scheduler.convert.words import SCOPE_TO_WIRE, invalid
from quickthaw.scheduler.core.model import LedgerLine, Outcome
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.keys import KeyRecord
from quickthaw.scheduler.store.queries import Usage
from quickthaw.v1 import billing_pb2, types_pb2

_OUTCOMES = {
    Outcome.SUCCEEDED: types_pb2.REQUEST_STATE_SUCCEEDED,
    Outcome.FAILED: types_pb2.REQUEST_STATE_FAILED,
    Outcome.CANCELLED: types_pb2.REQUEST_STATE_CANCELLED,
}


def ledger_line_message(line: LedgerLine) -> billing_pb2.LedgerLine:
    return billing_pb2.LedgerLine(
        attempt_id=line.attempt_id,
        request_id=line.request_id,
        tenant=line.tenant,
        model=line.model,
        worker_id=line.worker_id,
        gpu_type=line.gpu_type,
        attempt=line.attempt,
        outcome=_OUTCOMES[line.outcome],
        closed_unix_ms=line.closed_ms,
        metered_ms=line.metered_ms,
        billed_ms=line.billed_ms,
        rate_nanodollars_per_second=line.rate_nanodollars_per_second,
        price_nanodollars=line.price_nanodollars,
        price_version=line.price_version,
        waiver=line.waiver,
        key_id=line.key_id,
        unit=line.unit,
        micro_units=line.micro_units,
        unit_price_nanodollars=line.unit_price_nanodollars,
    )


def ledger_token(line: LedgerLine) -> str:
    """Where the next page begins: after this line."""
    return f"{line.closed_ms}:{line.attempt_id}"


def after_line(token: str) -> tuple[int, str]:
    """What `ledger_token` made; the very beginning for an empty one. Raises InvalidArgument."""
    if not token:
        return (-1, "")
    closed_ms, separator, attempt_id = token.partition(":")
    if not separator or not closed_ms.isdecimal() or len(token) > 120 or not token.isprintable():
        raise invalid("page.token", "is not one that ListLedger returned")
    return (int(closed_ms), attempt_id)


def usage_line_message(usage: Usage) -> billing_pb2.UsageLine:
    return billing_pb2.UsageLine(
        model=usage.model,
        gpu_type=usage.gpu_type,
        requests=usage.requests,
        attempts=usage.attempts,
        metered_ms=usage.metered_ms,
        billed_ms=usage.billed_ms,
        price_nanodollars=usage.price_nanodollars,
        key_id=usage.key_id,
        day=usage.day,
    )


def prices_message(prices: PriceTable) -> billing_pb2.GetPricesResponse:
    """The default rate is listed under `default`."""
    rates = {**prices.rates, "default": prices.default_rate_nanodollars_per_second}
    return billing_pb2.GetPricesResponse(
        version=prices.version,
        prices=_price_messages(rates),
        models=[
            billing_pb2.ModelPrice(
                model=model,
                rate_nanodollars_per_second=price.rate_nanodollars_per_second,
                rates=_price_messages(price.rates),
                unit=price.unit.value if price.unit is not None else "",
                unit_price_nanodollars=price.unit_price_nanodollars,
            )
            for model, price in sorted(prices.models.items())
        ],
        dedicated=_price_messages(prices.dedicated_rates),
    )


def _price_messages(rates: Mapping[str, int]) -> list[billing_pb2.Price]:
    return [
        billing_pb2.Price(gpu_type=gpu_type, rate_nanodollars_per_second=rate)
        for gpu_type, rate in sorted(rates.items())
    ]


def key_message(key: KeyRecord) -> billing_pb2.Key:
    return billing_pb2.Key(
        key_id=key.key_id,
        tenant=key.tenant,
        scopes=sorted(SCOPE_TO_WIRE[scope] for scope in key.scopes),
        label=key.label,
        created_unix_ms=key.created_unix_ms,
        expires_unix_ms=key.expires_unix_ms,
        revoked_unix_ms=key.revoked_unix_ms,
        limits=billing_pb2.KeyLimits(
            requests_per_minute=key.limits.requests_per_minute,
            concurrent_requests=key.limits.concurrent_requests,
            request_price_nanodollars=key.limits.request_price_nanodollars,
            models=key.limits.models,
        ),
        last_used_unix_ms=key.last_used_unix_ms,
        rotated_unix_ms=key.rotated_unix_ms,
        old_secret_until_unix_ms=key.old_secret_until_unix_ms,
    )
