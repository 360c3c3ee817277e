"""What was asked and how it went, for operators who plan."""

from __future__ import annotations

import grpc.aio

from quickthaw.scheduler.convert.pages import page_size
from quickthaw.scheduler.convert.words import STATE_TO_WIRE, checked_text, invalid
from quickthaw.scheduler.store.reader import Reader
from quickthaw.scheduler.store.traffic import TrafficRow, traffic_page
from quickthaw.v1 import traffic_pb2, traffic_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[object, object]


class TrafficServicer(traffic_pb2_grpc.TrafficServicer):
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def ListTraffic(
        self, request: traffic_pb2.ListTrafficRequest, context: Context
    ) -> traffic_pb2.ListTrafficResponse:
        for name in ("from_unix_ms", "until_unix_ms"):
            if getattr(request, name) < 0:
                raise invalid(name, "must not be negative")
        after = checked_text("page.token", request.page.token, chars_max=64)
        size = page_size(request.page)
        rows = await self._reader.run(
            lambda connection: traffic_page(
                connection, request.from_unix_ms, request.until_unix_ms, after, size
            )
        )
        return traffic_pb2.ListTrafficResponse(
            entries=[_entry(row) for row in rows],
            next_page_token=rows[-1].request_id if len(rows) == size else "",
        )


def _entry(row: TrafficRow) -> traffic_pb2.TrafficEntry:
    return traffic_pb2.TrafficEntry(
        model=row.model,
        tenant=row.tenant,
        # Our numbers are the wire's; see the test of the enumerations.
        priority=types_pb2.Priority.ValueType(row.priority),
        submitted_unix_ms=row.submitted_ms,
        deadline_unix_ms=row.deadline_ms,
        work_units=row.work_units,
        state=STATE_TO_WIRE[row.state],
        finished_unix_ms=row.finished_ms,
        attempts=row.attempts,
        gpu_type=row.gpu_type,
        start_tier=types_pb2.Tier.ValueType(row.start_tier),
        queue_ms=max(0, row.placed_ms - row.submitted_ms) if row.placed_ms else 0,
        load_ms=row.load_ms,
        run_ms=row.run_ms,
        rate_nanodollars_per_second=row.rate_nanodollars_per_second,
    )
