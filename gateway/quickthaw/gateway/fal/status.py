"""A queued request's state in fal's three words, with its logs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.errors import failure_answer
from quickthaw.gateway.follow import TERMINAL
from quickthaw.gateway.ids import EndpointId
from quickthaw.gateway.json_text import Json, JsonObject
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.replay import replay
from quickthaw.v1 import inference_pb2, types_pb2

_LEVELS: Mapping[str, str] = {"debug": "DEBUG", "warning": "WARN", "error": "ERROR"}


class Stage(IntEnum):
    """Ordered: a request never goes back, also where an attempt is lost and it queues again."""

    IN_QUEUE = 0
    IN_PROGRESS = 1
    COMPLETED = 2


def stage_of(state: types_pb2.RequestState.ValueType, attempts: int) -> Stage:
    if state in TERMINAL:
        return Stage.COMPLETED
    queued = state in (types_pb2.REQUEST_STATE_QUEUED, types_pb2.REQUEST_STATE_UNSPECIFIED)
    return Stage.IN_QUEUE if queued and attempts == 0 else Stage.IN_PROGRESS


def request_urls(gateway: Gateway, endpoint: EndpointId, request_id: str) -> JsonObject:
    response_url = f"{gateway.public_url}/queue/{endpoint.app}/requests/{request_id}"
    return {
        "response_url": response_url,
        "status_url": f"{response_url}/status",
        "cancel_url": f"{response_url}/cancel",
    }


def unfinished_status(
    urls: JsonObject, request_id: str, stage: Stage, queue_position: int, logs: Sequence[Json]
) -> JsonObject:
    status: JsonObject = {"status": stage.name, "request_id": request_id, **urls}
    if stage is Stage.IN_QUEUE:
        return {**status, "queue_position": max(0, queue_position)}
    return {**status, "logs": list(logs), "metrics": {}}


def finished_status(
    urls: JsonObject, request: types_pb2.Request, logs: Sequence[Json]
) -> JsonObject:
    metrics: JsonObject = {}
    if request.receipt.run_ms > 0:
        metrics["inference_time"] = request.receipt.run_ms / 1000
    status: JsonObject = {
        "status": Stage.COMPLETED.name,
        "request_id": request.request_id,
        **urls,
        "logs": list(logs),
        "metrics": metrics,
    }
    if request.state != types_pb2.REQUEST_STATE_SUCCEEDED:
        answer = failure_answer(request.failure)
        status |= {"error": answer.text, "error_type": answer.error_type}
    return status


async def replayed_logs(
    gateway: Gateway, credential: Credential, request: types_pb2.Request
) -> list[Json]:
    """Every line so far, the newest `log_lines_max`; at least one once the request has ended."""
    lines: deque[Json] = deque(maxlen=gateway.limits.log_lines_max)

    def take(event: inference_pb2.Event) -> None:
        if event.HasField("log"):
            lines.append(log_line(event))

    await replay(gateway, credential, request, take)
    if request.state in TERMINAL and not lines:
        lines.append(closing_line(request))
    return list(lines)


def log_line(event: inference_pb2.Event) -> JsonObject:
    return _line(event.log.text, _LEVELS.get(event.log.level, "INFO"), event.unix_ms)


def closing_line(request: types_pb2.Request) -> JsonObject:
    """Clients expect a log of a completed request; for a model that wrote none, how it ended."""
    receipt = request.receipt
    if request.state == types_pb2.REQUEST_STATE_SUCCEEDED:
        text = f"finished on worker {receipt.worker_id} after {receipt.run_ms / 1000:.3f} s"
        return _line(text, "INFO", request.finished_unix_ms)
    return _line(request.failure.message or "cancelled", "ERROR", request.finished_unix_ms)


def _line(text: str, level: str, unix_ms: int) -> JsonObject:
    return {
        "message": text,
        "level": level,
        "source": "USER",
        "timestamp": datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "labels": {},
    }
