"""What was used and what it costs."""

from __future__ import annotations

import grpc.aio

from quickthaw.scheduler.auth import tenant_in_question
from quickthaw.scheduler.convert import billing as convert
from quickthaw.scheduler.convert.pages import page_size
from quickthaw.scheduler.convert.words import checked_text, invalid
from quickthaw.scheduler.core.pricing import PriceTable
from quickthaw.scheduler.store.queries import Period, ledger_page, usage
from quickthaw.scheduler.store.reader import Reader
from quickthaw.v1 import billing_pb2, billing_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]


class BillingServicer(billing_pb2_grpc.BillingServicer):
    def __init__(self, reader: Reader, prices: PriceTable) -> None:
        self._reader = reader
        self._prices = prices

    async def GetUsage(
        self, request: billing_pb2.GetUsageRequest, context: Context
    ) -> billing_pb2.GetUsageResponse:
        period = _period(request.tenant, request.from_unix_ms, request.until_unix_ms)
        lines, total = await self._reader.run(lambda connection: usage(connection, period))
        return billing_pb2.GetUsageResponse(
            tenant=period.tenant,
            lines=[convert.usage_line_message(line) for line in lines],
            total=convert.usage_line_message(total),
        )

    async def ListLedger(
        self, request: billing_pb2.ListLedgerRequest, context: Context
    ) -> billing_pb2.ListLedgerResponse:
        period = _period(request.tenant, request.from_unix_ms, request.until_unix_ms)
        request_id = checked_text("request_id", request.request_id, chars_max=64)
        after = convert.after_line(request.page.token)
        size = page_size(request.page)
        lines = await self._reader.run(
            lambda connection: ledger_page(
                connection, period, request_id=request_id, after=after, size=size
            )
        )
        return billing_pb2.ListLedgerResponse(
            lines=[convert.ledger_line_message(line) for line in lines],
            next_page_token=convert.ledger_token(lines[-1]) if len(lines) == size else "",
        )

    async def GetPrices(
        self, request: billing_pb2.GetPricesRequest, context: Context
    ) -> billing_pb2.GetPricesResponse:
        return convert.prices_message(self._prices)


def _period(tenant: str, from_ms: int, until_ms: int) -> Period:
    if from_ms < 0 or until_ms < 0:
        raise invalid("from_unix_ms", "must not be negative")
    if until_ms and until_ms < from_ms:
        raise invalid("until_unix_ms", "must not be before from_unix_ms")
    name = checked_text("tenant", tenant, chars_max=64)
    return Period(tenant_in_question(name), from_ms, until_ms)
