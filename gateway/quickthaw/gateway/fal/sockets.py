"""What a WebSocket's path, query and headers ask for, before it is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from starlette.websockets import WebSocket

from quickthaw.gateway.calls import Call, CallOptions, make_call
from quickthaw.gateway.context import Gateway, gateway_of
from quickthaw.gateway.endpoints import served
from quickthaw.gateway.fal.call_options import read_options
from quickthaw.gateway.fal.token_query import with_token
from quickthaw.gateway.holders import HOLDER_EXTENSION
from quickthaw.gateway.ids import EndpointId, parse_endpoint_id
from quickthaw.gateway.json_text import JsonObject
from quickthaw.wire.errors import ModelNotFound

LOOKUPS_MAX = 4
"""Models that a path may be tried for: clients put paths of their own behind an id."""

_APPENDED = (("realtime",), ("stream",))


@dataclass(frozen=True, slots=True)
class Opened:
    gateway: Gateway
    endpoint: EndpointId
    options: CallOptions
    holder: str
    """To whom what the connection sends is counted."""

    async def call(self, arguments: JsonObject) -> Call:
        """Raises what `make_call` does."""
        return await make_call(self.gateway, self.endpoint, self.options, arguments)


async def open_socket(websocket: WebSocket) -> Opened:
    """Raises HttpError and the platform's errors for the path, the token or key, and the model."""
    gateway = gateway_of(websocket)
    asked = parse_endpoint_id(websocket.path_params["endpoint"])
    options = with_token(gateway, read_options(websocket.headers), websocket.query_params, asked)
    missing = ModelNotFound(f"no model is served at {asked}")
    for endpoint in _candidates(asked):
        try:
            await served(gateway, options.credential, endpoint)
        except ModelNotFound as error:
            missing = error if endpoint == asked else missing
        else:
            holder = gateway.holders.of(websocket, options.credential)
            websocket.scope["extensions"][HOLDER_EXTENSION]["tell"](holder)
            return Opened(gateway, endpoint, options, holder)
    raise missing


def _candidates(asked: EndpointId) -> Iterator[EndpointId]:
    """The id without what clients append to it: most often `realtime`, or any path of theirs."""
    if asked.path[-1:] in _APPENDED:
        yield replace(asked, path=asked.path[:-1])
    yield asked
    for length in range(len(asked.path) - 1, max(-1, len(asked.path) - LOOKUPS_MAX), -1):
        if asked.path[length:] not in _APPENDED:
            yield replace(asked, path=asked.path[:length])
