"""Submit that waits for the end: one call in place of two."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from quickthaw.scheduler.convert import requests as convert
from quickthaw.scheduler.requests import Requests
from quickthaw.scheduler.submissions import Accepted, Submissions
from quickthaw.scheduler.views import RequestView
from quickthaw.v1 import inference_pb2
from quickthaw.wire import errors

EVENTS_BYTES_MAX = 256 * 1024
"""Of what is told beside an end, so that both fit one message."""


async def submit_and_wait(
    tenant: str, submission: convert.Submission, submissions: Submissions, requests: Requests
) -> inference_pb2.SubmitResponse:
    """Nobody knows the request before this answers, so that it may begin before it is durable; it
    is durable by then. Cancelling this cancels the waiting and not the request."""
    begun = submissions.begin_ahead(tenant, submission)
    if begun is None:
        accepted = await submissions.submit(tenant, submission)
    else:
        accepted = Accepted(begun.view, begun)
    ended: RequestView | None = None
    try:
        async with asyncio.timeout(submission.wait_ms / 1000):
            ended = await requests.end_of(accepted)
    except (TimeoutError, errors.Unavailable):
        # Also where this process stops: the request is kept, and the next one is asked for its end.
        if begun is not None:
            await requests.make_durable(begun)
    answer = accepted_message(accepted)
    if ended is not None:
        answer.ended.CopyFrom(convert.request_message(ended))
        answer.events.extend(_told(requests, ended.request_id))
    return answer


def accepted_message(accepted: Accepted) -> inference_pb2.SubmitResponse:
    view = accepted.view
    return inference_pb2.SubmitResponse(
        request_id=view.request_id,
        state=convert.state_message(view.state),
        queue_position=view.queue_position,
        deduplicated=accepted.deduplicated,
    )


def _told(requests: Requests, request_id: str) -> Sequence[inference_pb2.Event]:
    """Oldest first; the oldest are left out if not all fit."""
    told: list[inference_pb2.Event] = []
    left_bytes = EVENTS_BYTES_MAX
    for entry in reversed(requests.kept_events(request_id)):
        if not convert.is_told_with_end(entry.payload):
            continue
        left_bytes -= entry.size_bytes
        if left_bytes < 0:
            break
        told.append(convert.event_message(request_id, entry.sequence, entry.unix_ms, entry.payload))
    return told[::-1]
