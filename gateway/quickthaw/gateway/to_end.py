"""A request whose caller wants nothing but its end: one call of the scheduler if that will do."""

from __future__ import annotations

from quickthaw.gateway.calls import AttendedRequest, Call
from quickthaw.gateway.front import Exchange
from quickthaw.v1 import types_pb2
from quickthaw.wire.errors import Internal, QuickthawError, Unavailable


async def run_to_end(call: Call, exchange: Exchange) -> types_pb2.Request:
    """The request, ended in whatever way; `exchange` has its id as soon as that is known.

    Cancelling this cancels the request unless it has an idempotency key. A scheduler that goes away
    has forgotten what it had begun in this way, so the request is made again, and then in a way
    that outlives such a loss.
    Raises as `AttendedRequest.submit` and `AttendedRequest.events` do.
    """
    options = call.options
    if options.start_timeout_seconds is None and not options.idempotency_key:
        try:
            finished = await call.gateway.platform.run(call.credential, call.submission())
        except Unavailable:
            pass
        except QuickthawError as error:
            raise call.explain(error) from error
        else:
            exchange.request_id = finished.request_id
            return finished
    attended = await AttendedRequest.submit(call)
    exchange.request_id = attended.request_id
    events = attended.events()
    try:
        async for event in events:
            if event.HasField("finished"):
                return event.finished
    finally:
        await events.aclose()
        attended.abandon()
    raise Internal(f"the events of {attended.request_id} stopped before its end")
