"""Who the caller is, what hardware there is, and what its webhooks are signed with."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from quickthaw.gateway.context import gateway_of
from quickthaw.gateway.credentials import read_credential
from quickthaw.gateway.respond import json_response
from quickthaw.gateway.webhooks.signing import secret_text


async def account(request: Request) -> Response:
    caller = await gateway_of(request).platform.webhook_secret(read_credential(request.headers))
    return json_response(
        {"type": "user", "username": caller.tenant, "name": caller.tenant, "github_url": None}
    )


async def hardware(request: Request) -> Response:
    """The kinds of GPU that have a price here."""
    table = await gateway_of(request).platform.prices(read_credential(request.headers))
    return json_response([{"sku": each.gpu_type, "name": each.gpu_type} for each in table.prices])


async def webhook_secret(request: Request) -> Response:
    caller = await gateway_of(request).platform.webhook_secret(read_credential(request.headers))
    return json_response({"key": secret_text(caller.secret)}, headers={"cache-control": "no-store"})
