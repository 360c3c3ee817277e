"""A prediction as it happens: server-sent events with names and ids, which these clients need."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.answers import HttpError
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.follow import follow
from quickthaw.gateway.front import exchange_of
from quickthaw.gateway.json_text import Json, JsonObject, render
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.replicate.progress import Log
from quickthaw.gateway.replicate.render import (
    CANCELED,
    FAILED,
    STREAM_PURPOSE,
    output_items,
    output_of,
    status_of,
)
from quickthaw.gateway.respond import REQUEST_ID_HEADER, EventStream
from quickthaw.gateway.sealed import SealBroken
from quickthaw.wire.status import translate

_ENDS: dict[str, JsonObject] = {CANCELED: {"reason": "canceled"}, FAILED: {"reason": "error"}}


class NamedStream(EventStream):
    """Events are `event`, `id` and `data`, the last a text and not JSON."""

    def encode(self, event: JsonObject) -> bytes:
        # A line break inside would end the field; the reader joins such lines again.
        data = "\n".join(f"data: {line}" for line in str(event["data"]).split("\n"))
        return f"event: {event['event']}\nid: {event['id']}\n{data}\n\n".encode()


async def stream(request: Request) -> Response:
    gateway = gateway_of(request)
    try:
        sealed = gateway.sealer.unseal(STREAM_PURPOSE, request.path_params["seal"])
    except SealBroken as error:
        raise HttpError(404, "there is no such stream", "not_found") from error
    credential = Credential(str(sealed["key"]))
    # Asked for first, so that what is wrong with it is an ordinary answer.
    found = await gateway.platform.get(credential, str(sealed["request"]))
    exchange_of(request).request_id = found.request_id
    events = _events(gateway, credential, found.request_id)
    return NamedStream(gateway, events, {REQUEST_ID_HEADER: found.request_id})


async def _events(
    gateway: Gateway, credential: Credential, request_id: str
) -> AsyncGenerator[JsonObject, None]:
    """Only `output`, `logs`, `error` and `done`: one of the clients raises on any other name."""
    log, number = Log(1), 0

    def numbered(name: str, data: Json) -> JsonObject:
        nonlocal number
        number += 1
        return {"event": name, "id": f"{number}:0", "data": data}

    events = follow(gateway.platform, credential, request_id)
    try:
        async for event in events:
            if (line := log.take(event)) is not None:
                yield numbered("logs", f"{line}\n")
            if event.HasField("finished"):
                ended = event.finished
                output = await output_of(gateway, credential, ended)
                for item in output_items(output):
                    yield numbered("output", item)
                if (status := status_of(ended)) == FAILED:
                    yield numbered("error", ended.failure.message)
                yield numbered("done", render(_ENDS.get(status, {})))
    except Exception as error:
        yield numbered("error", translate(error).message)
        yield numbered("done", render({"reason": "error"}))
    finally:
        await events.aclose()
