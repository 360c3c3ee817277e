"""A request of ours as a prediction of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quickthaw.gateway.artifacts import read_data_uri
from quickthaw.gateway.context import Gateway
from quickthaw.gateway.json_text import Json, JsonObject, object_or_empty
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.replicate.models import iso
from quickthaw.gateway.replicate.names import replicate_name, version_id
from quickthaw.v1 import types_pb2
from quickthaw.wire.errors import DeadlineExpired

INLINE_BYTES_MAX = 10 * 1024 * 1024
"""Of one file: larger ones are links whatever the public base."""
STREAM_SECONDS = 24 * 3600.0
STREAM_PURPOSE = "replicate stream"

FAILED, CANCELED = "failed", "canceled"
_STATUS = {
    types_pb2.REQUEST_STATE_RUNNING: "processing",
    types_pb2.REQUEST_STATE_SUCCEEDED: "succeeded",
    types_pb2.REQUEST_STATE_FAILED: FAILED,
    types_pb2.REQUEST_STATE_CANCELLED: CANCELED,
}
_SUCCEEDED = types_pb2.REQUEST_STATE_SUCCEEDED


def status_of(request: types_pb2.Request) -> str:
    """In the clients' five words. What `Cancel-After` ended is no failure of the model."""
    if request.failure.reason == DeadlineExpired.reason:
        return CANCELED
    return _STATUS.get(request.state, "starting")


@dataclass(frozen=True, slots=True)
class Told:
    """What a request's record does not hold."""

    logs: str = ""
    started_unix_ms: int = 0
    output: Json = None
    status: str = ""
    """In place of the record's."""


def prediction(
    gateway: Gateway, credential: Credential, request: types_pb2.Request, told: Told
) -> JsonObject:
    """No field that a client checks for a text is ever null."""
    base = f"{gateway.public_url}/replicate/v1/predictions/{request.request_id}"
    receipt = request.receipt
    ended = request.finished_unix_ms > 0
    metrics: JsonObject = {}
    started_ms = told.started_unix_ms
    if ended:
        metrics["total_time"] = (request.finished_unix_ms - request.submitted_unix_ms) / 1000
        if receipt.run_ms:
            metrics["predict_time"] = receipt.run_ms / 1000
            waited_ms = receipt.queue_ms + receipt.load_ms
            started_ms = min(request.submitted_unix_ms + waited_ms, request.finished_unix_ms)
    return {
        "id": request.request_id,
        "model": replicate_name(request.model),
        "version": version_id(request.model, request.snapshot_digest),
        "status": told.status or status_of(request),
        "input": object_or_empty(request.input_json),
        "output": told.output,
        "logs": told.logs,
        "error": request.failure.message
        if request.state == types_pb2.REQUEST_STATE_FAILED
        else None,
        "metrics": metrics,
        "created_at": iso(request.submitted_unix_ms),
        "started_at": iso(started_ms) if started_ms else None,
        "completed_at": iso(request.finished_unix_ms) if ended else None,
        "urls": {
            "get": base,
            "cancel": f"{base}/cancel",
            "stream": stream_url(gateway, credential, request.request_id),
            "web": base,
        },
        "data_removed": False,
        "source": "api",
    }


def stream_url(gateway: Gateway, credential: Credential, request_id: str) -> str:
    """Good without a key, which one of the clients does not send there: the key is sealed in it.

    Under `/v1/files/stream-`, because a client makes files of an output only if it came from there.
    """
    content: JsonObject = {"key": credential, "request": request_id}
    seal = gateway.sealer.seal(STREAM_PURPOSE, content, STREAM_SECONDS)
    return f"{gateway.public_url}/v1/files/stream-{seal}"


async def output_of(
    gateway: Gateway, credential: Credential, request: types_pb2.Request, *, inline: bool = True
) -> Json:
    """A list of pictures, or the one other file; what a model without files says, as it is.

    Clients make a file object only of `https:` and `data:` texts. So behind a plain-HTTP base,
    files are data: URIs, as far as they are small. `inline` False: links all the same, for lists.
    """
    if request.state != _SUCCEEDED:
        return None
    if not request.artifacts:
        return object_or_empty(request.output_json) or None
    total_bytes = sum(each.size_bytes for each in request.artifacts)
    inline = inline and total_bytes <= gateway.limits.inline_bytes_max
    files: list[Json] = [
        await _file(gateway, credential, each, inline=inline) for each in request.artifacts
    ]
    pictures = all(each.content_type.startswith("image/") for each in request.artifacts)
    return files if pictures or len(files) > 1 else files[0]


def output_items(output: Json) -> Sequence[str]:
    """Those of an output, for who receives them one by one."""
    items = output if isinstance(output, list) else [output]
    return [item for item in items if isinstance(item, str)]


async def _file(
    gateway: Gateway, credential: Credential, artifact: types_pb2.Artifact, *, inline: bool
) -> str:
    if not gateway.own_credential:
        return await read_data_uri(gateway, credential, artifact)
    plain = not gateway.public_url.startswith("https:")
    if inline and plain and artifact.size_bytes <= INLINE_BYTES_MAX:
        return await read_data_uri(gateway, credential, artifact)
    return gateway.links.url(artifact.uri)
