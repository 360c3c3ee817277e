"""An endpoint as whoever asks may see it, also somebody without a key."""

from __future__ import annotations

from starlette.requests import Request

from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.endpoints import Served, served
from quickthaw.gateway.ids import EndpointId
from quickthaw.v1 import catalog_pb2
from quickthaw.wire.errors import ModelNotFound


async def look_up(request: Request, endpoint: EndpointId) -> Served:
    """Raises ModelNotFound.

    Without a key the gateway asks with its own, which sees every tenant's models: of these a
    stranger is told what all tenants may call, and of nothing else that it is there.
    """
    gateway = gateway_of(request)
    credential = read_credential(request.headers)
    if credential or not gateway.own_credential:
        return await served(gateway, credential, endpoint)
    try:
        found = await served(gateway, gateway.own_credential, endpoint)
    except ModelNotFound:
        found = None
    if found is None or found.model.visibility != catalog_pb2.VISIBILITY_SHARED:
        # In words of its own: the scheduler's name models that are spelt alike.
        raise ModelNotFound(f"there is no model {endpoint.full!r} that can be seen without a key")
    return found
